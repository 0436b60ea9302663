"""The tables of a run: members, versions, reports, episodes, events and the schedule.

`experiments.report` and `experiments.export` write them. `docs/run-directory.md` describes every
column.
"""

import csv
import io
import json
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

from experiments.analysis import decisions
from experiments.analysis.history import History
from pbt import lineage, records

Value = int | float | bool | str | None
Columns = dict[str, list[Value]]
"""Values of each column by its name, as `pandas.DataFrame` takes them."""


@dataclass(frozen=True)
class Table:
    """A table whose rows are made while they are written."""

    name: str
    columns: Mapping[str, type]
    """Type of each column: int, float, bool or str. Any value may be None."""
    rows: Iterable[Sequence[Value]]
    """Values in the order of the columns. An iterator, which can be read once."""


def all_tables(history: History) -> list[Table]:
    """Return the tables of an export."""
    return [
        members(history),
        versions(history),
        reports(history),
        episodes(history),
        events(history),
    ]


def members(history: History) -> Table:
    """Return a table with one row per member, at its newest version."""
    tree = history.tree
    names = _names(history, (member.hyperparameters for member in history.members))
    columns: dict[str, type] = {
        "member": int,
        "version": int,
        "state": str,
        "agent_steps": int,
        "training": int,
        "score": float,
        "counted_episodes": int,
        "parent_member": int,
        "parent_version": int,
        "attempts": int,
        "error": str,
        "checkpoint": str,
        **{f"hyperparameter/{name}": float for name in names},
    }
    rows = (
        (
            member.id,
            member.version,
            member.state,
            member.agent_steps,
            tree.training[member.id, member.version],
            tree.scores[member.id, member.version],
            member.counted_episodes,
            *(member.parent or (None, None)),
            member.attempts,
            member.error,
            member.checkpoint,
            *map(member.hyperparameters.get, names),
        )
        for member in history.members
    )
    return Table("members", columns, rows)


def versions(history: History) -> Table:
    """Return a table with one row per version, in order of commit."""
    tree = history.tree
    names = _names(history, (version.hyperparameters for version in history.versions))
    columns: dict[str, type] = {
        "member": int,
        "version": int,
        "kind": str,
        "agent_steps": int,
        "training": int,
        "score": float,
        "parent_member": int,
        "parent_version": int,
        "weights_member": int,
        "weights_version": int,
        "checkpoint": str,
        "created_s": float,
        **{f"hyperparameter/{name}": float for name in names},
    }
    rows = (
        (
            version.member,
            version.version,
            version.kind,
            version.agent_steps,
            tree.training[version.member, version.version],
            version.score,
            *(version.parent or (None, None)),
            *(tree.parents[version.member, version.version] or (None, None)),
            version.checkpoint,
            version.created_s,
            *map(version.hyperparameters.get, names),
        )
        for version in history.versions
    )
    return Table("versions", columns, rows)


def reports(history: History) -> Table:
    """Return a table with one row per slice of training, in order of commit."""
    names = _names(history, (report.hyperparameters for report in history.reports))
    metrics = list(dict.fromkeys(name for report in history.reports for name in report.metrics))
    columns: dict[str, type] = {
        "member": int,
        "version": int,
        "agent_steps": int,
        "slice_steps": int,
        "seconds": float,
        "created_s": float,
        "score": float,
        "episodes": int,
        "counted_episodes": int,
        "mean_return": float,
        "mean_length": float,
        **{f"hyperparameter/{name}": float for name in names},
        **{f"metric/{name}": float for name in metrics},
    }
    rows = (
        (
            report.member,
            report.version,
            report.agent_steps,
            report.slice_steps,
            report.seconds,
            report.created_s,
            history.tree.versions[report.member, report.version].score,
            len(report.episodes),
            sum(episode.counted for episode in report.episodes),
            _mean(episode.episode_return for episode in report.episodes),
            _mean(episode.length for episode in report.episodes),
            *map(report.hyperparameters.get, names),
            *map(report.metrics.get, metrics),
        )
        for report in history.reports
    )
    return Table("reports", columns, rows)


def episodes(history: History) -> Table:
    """Return a table with one row per finished episode, in order of commit."""
    columns: dict[str, type] = {
        "member": int,
        "version": int,
        "agent_steps": int,
        "return": float,
        "length": int,
        "counted": bool,
    }
    rows = (
        (report.member, report.version, *episode)
        for report in history.reports
        for episode in report.episodes
    )
    return Table("episodes", columns, rows)


def events(history: History) -> Table:
    """Return a table with one row per event, in order of commit."""
    columns: dict[str, type] = {
        "id": int,
        "kind": str,
        "member": int,
        "version": int,
        "agent_steps": int,
        "created_s": float,
        "donor": int,
        "donor_version": int,
        "opponent": int,
        "opponent_version": int,
        "own_mean": float,
        "opponent_mean": float,
        "t": float,
        "degrees_of_freedom": float,
        "p": float,
        "reason": str,
        "details": str,
    }
    whole = ("donor", "donor_version", "opponent", "opponent_version")
    real = ("own_mean", "opponent_mean", "t", "degrees_of_freedom", "p")
    rows = (
        (
            event.id,
            event.kind,
            event.member,
            event.version,
            event.agent_steps,
            event.created_s,
            *(_integer(event.details.get(name)) for name in whole),
            *(decisions.number(event.details.get(name)) for name in real),
            decisions.reason(event.details) or None,
            json.dumps(dict(event.details), allow_nan=False),
        )
        for event in history.events
    )
    return Table("events", columns, rows)


def write_csv(table: Table, file: TextIO) -> int:
    """Write a table as CSV, with a header.

    Floats are written with all their digits. None is an empty cell, and a bool is 1 or 0. A line
    break within a text is a newline, since readers take a bare carriage return for the end of a
    row. A text or a header that a spreadsheet would take for a formula begins with an apostrophe,
    and so does one that begins with an apostrophe itself. Removing the first apostrophe gives the
    text back.

    Returns:
        Number of rows.
    """
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(map(_cell, table.columns))
    count = 0
    for row in table.rows:
        writer.writerow(map(_cell, row))
        count += 1
    return count


def columns(table: Table) -> Columns:
    """Return a table by columns, which also a table without rows has."""
    rows = list(table.rows)
    return {name: [row[at] for row in rows] for at, name in enumerate(table.columns)}


def schedule(rows: Iterable[lineage.ScheduleRow]) -> Table:
    """Return rows of a schedule as a table: see `pbt.lineage.ScheduleRow`."""
    rows = list(rows)
    names = list(dict.fromkeys(name for row in rows for name in row.hyperparameters))
    columns: dict[str, type] = {
        "agent_steps": int,
        **dict.fromkeys(names, float),
        "member": int,
        "version": int,
    }
    values = (
        (row.agent_steps, *map(row.hyperparameters.get, names), row.member, row.version)
        for row in rows
    )
    return Table("schedule", columns, values)


def schedule_csv(rows: Iterable[lineage.ScheduleRow]) -> str:
    """Return rows of a schedule as CSV."""
    return _csv_text(schedule(rows))


def reports_csv(history: History) -> str:
    """Return the table of reports as CSV."""
    return _csv_text(reports(history))


def episodes_csv(history: History) -> str:
    """Return the table of episodes as CSV."""
    return _csv_text(episodes(history))


def events_jsonl(history: History) -> str:
    """Return one JSON object per line, in order of commit: see `pbt.records.event_record`."""
    lines = (records.event_record(event) for event in history.events)
    return "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines)


def _csv_text(table: Table) -> str:
    """Return a table as CSV; without rows, an empty line."""
    text = io.StringIO()
    return text.getvalue() if write_csv(table, text) else "\n"


def _cell(value: Value) -> Value:
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, str):
        text = value.replace("\r\n", "\n").replace("\r", "\n")
        return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "'")) else text
    return value


def _names(history: History, found: Iterator[Mapping[str, float]]) -> list[str]:
    """Return the hyperparameters, in the order in which records have them."""
    recorded = (name for values in found for name in values)
    return list(dict.fromkeys([*recorded, *history.config.space.dimensions]))


def _integer(value: Any) -> int | None:
    """Return a value of an event's details if it is an integer, else None."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _mean(values: Iterable[float]) -> float | None:
    values = list(values)
    return statistics.fmean(values) if values else None
