"""The tables of a run, as text for files: CSV, and JSON lines."""

import csv
import io
import json
import statistics
from collections.abc import Iterable, Mapping
from typing import Any

from experiments.analysis.history import History
from pbt import lineage


def schedule_csv(rows: Iterable[lineage.ScheduleRow]) -> str:
    """`agent_steps,<hyperparameters...>,member,version`: see `pbt.lineage.ScheduleRow`."""
    return _csv(
        {
            "agent_steps": row.agent_steps,
            **row.hyperparameters,
            "member": row.member,
            "version": row.version,
        }
        for row in rows
    )


def reports_csv(history: History) -> str:
    """One row per slice, in order of commit; `agent_steps` are the member's own, at its end.

    Hyperparameters are latent values; `score` is empty while the window is not valid;
    `mean_return` and `mean_length` are over all episodes that finished in the slice, counted or
    not.
    """
    score = {(v.member, v.version): v.score for v in history.versions}
    return _csv(
        {
            "member": report.member,
            "version": report.version,
            "agent_steps": report.agent_steps,
            "slice_steps": report.slice_steps,
            "seconds": report.seconds,
            "created_s": report.created_s,
            "score": score[report.member, report.version],
            "episodes": len(report.episodes),
            "counted_episodes": sum(episode.counted for episode in report.episodes),
            "mean_return": _mean(episode.episode_return for episode in report.episodes),
            "mean_length": _mean(episode.length for episode in report.episodes),
            **{f"hyperparameter/{name}": v for name, v in report.hyperparameters.items()},
            **{f"metric/{name}": value for name, value in report.metrics.items()},
        }
        for report in history.reports
    )


def episodes_csv(history: History) -> str:
    """One row per finished episode, in order of commit; `counted` is 1 or 0."""
    return _csv(
        {
            "member": report.member,
            "version": report.version,
            "agent_steps": episode.agent_steps,
            "return": episode.episode_return,
            "length": episode.length,
            "counted": int(episode.counted),
        }
        for report in history.reports
        for episode in report.episodes
    )


def events_jsonl(history: History) -> str:
    """One object per line, in order of commit: see `pbt.lineage.event_record`."""
    records = (lineage.event_record(event) for event in history.events)
    return "".join(json.dumps(record, allow_nan=False) + "\n" for record in records)


def _csv(rows: Iterable[Mapping[str, Any]]) -> str:
    """All columns that any row has, in order of appearance; numbers read back equal."""
    rows = list(rows)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)  # floats as repr, None as an empty cell
    return text.getvalue()


def _mean(values: Iterable[float]) -> float | None:
    values = list(values)
    return statistics.fmean(values) if values else None
