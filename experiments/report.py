"""What came out of a run, for people: a summary, figures, tables.

    python -m experiments.report RUN_DIR [--out DIR]

At any time, also while the run trains. Everything is made from the store and can be deleted:

    summary.md            what is printed: best member, protocol, members, decisions
    schedule.csv / .png   the hyperparameters behind the best member's weights, through its donors
    learning_curves.png   returns of all members and of the best lineage
    hyperparameters.png   all members' values over their steps, coloured by score
    family_tree.png       who descends from whom
    reports.csv           one row per slice of training
    episodes.csv          one row per finished episode
    events.jsonl          one object per decision, with its evidence (`pbt.lineage.event_record`)

They lie in RUN_DIR/report. The TensorBoard files in RUN_DIR/tensorboard are brought up to date,
made again if they were deleted, and the run `best-lineage` is added. With `--out` all that goes
to DIR (and DIR/tensorboard), and nothing in RUN_DIR changes.

The scores here are training scores: means of the last counted episodes, by which the population
is ranked. The best of many such means is biased upward. A result comes from fresh episodes:
`python -m experiments.evaluate RUN_DIR`.
"""

import collections
import csv
import dataclasses
import io
import json
import os
import shlex
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tyro

from experiments import figures, tensorboard
from experiments.figures import format_steps
from experiments.history import History
from pbt import lineage
from pbt import store as stores
from pbt.member import Member


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Summarise a run: best member, schedule, learning curves, family tree, tables."""

    run_dir: tyro.conf.Positional[Path]
    """Directory of the run, e.g. results/runs/atari-Pong."""
    out: Path | None = None
    """Where to write instead of RUN_DIR/report; nothing in RUN_DIR changes then."""


def write_report(
    store: stores.Store,
    directory: Path,
    event_files: Path | None = None,
    name: str | None = None,
) -> str:
    """Write all files of a report, each in place of its older self.

    Args:
        store: of the run; may be training.
        directory: for the report, made if it is missing.
        event_files: the run's TensorBoard directory, where `best-lineage` is written anew; None
            for nowhere.
        name: of the run, for titles; by default its directory's.

    Returns:
        The summary, in Markdown.

    Raises:
        OSError: something could not be written.
    """
    run_dir = store.path.parent
    history = History.read(store, name or run_dir.resolve().name)
    directory.mkdir(parents=True, exist_ok=True)
    text = summary(history, run_dir)
    written = {
        "summary.md": text,
        "reports.csv": reports_csv(history),
        "episodes.csv": episodes_csv(history),
        "events.jsonl": events_jsonl(history),
    }
    if history.lineage:
        written["schedule.csv"] = schedule_csv(lineage.schedule(history.lineage))
    for file_name, content in written.items():
        _replace(directory / file_name, content)
    drawn = figures.figures(history) if history.reports else {}
    for file_name, figure in drawn.items():
        figures.save(figure, directory / file_name)
    if event_files is not None and history.lineage:
        tensorboard.write_best_lineage(
            history.lineage, history.reports, history.config.space, event_files / "best-lineage"
        )
    return text


def summary(history: History, run_dir: Path) -> str:
    """What happened, in Markdown."""
    config, members = history.config, history.members
    done = sum(member.agent_steps for member in members)
    budget = config.population * config.total_steps
    states = collections.Counter(member.state for member in members)
    lines = [
        f"# {history.name}",
        "",
        f"- population {config.population}, exploit {config.exploit}, explore {config.explore}, "
        f"copy {config.copy}, seed {config.seed}",
        f"- trained {format_steps(done)} of {format_steps(budget)} agent steps "
        f"({config.population} members x {format_steps(config.total_steps)}); members: "
        + ", ".join(f"{count} {state}" for state, count in sorted(states.items())),
    ]
    if not history.reports:
        return "\n".join([*lines, "- no report yet: no member has finished a slice", ""])
    started_s = min(version.created_s for version in history.versions)
    ended_s = max(report.created_s for report in history.reports)
    worked_s = sum(report.seconds for report in history.reports)
    lines += [
        f"- {_duration(ended_s - started_s)} from creation to the last report, "
        f"{_duration(worked_s)} of training summed over workers",
        f"- decisions: {_decisions(history)}",
    ]
    dead = [member for member in members if member.state in ("diverged", "failed")]
    if dead:
        unspent = sum(config.total_steps - member.agent_steps for member in dead)
        lines.append(
            f"- diverged or failed: member {', '.join(str(m.id) for m in dead)}, with "
            f"{format_steps(unspent)} agent steps unspent"
        )
    lines += ["", *_best(history, run_dir), "", "## Members, best first", "", *_members(history)]
    protocol = json.dumps(config.task_config, indent=2, sort_keys=True)
    lines += ["", "## Protocol", "", f"Task `{config.task}`, configured as", ""]
    lines += ["```json", protocol, "```", ""]
    return "\n".join(lines)


def _best(history: History, run_dir: Path) -> list[str]:
    best = history.best
    if best is None:
        return [
            "No member has a score yet: that takes "
            f"{history.config.min_episodes} counted episodes since its last copy."
        ]
    key = history.tree.newest(best.id)
    segments = lineage.segments(history.lineage)
    stretches = [
        f"member {part.member} from {format_steps(part.start)} to {format_steps(part.end)}"
        for part in segments
        if part.end > part.start
    ]
    if len(stretches) > 8:
        between = f"{len(stretches) - 6} more (schedule.csv has all)"
        stretches[3:-3] = [between]
    path = ", then ".join(stretches) or "never trained"
    score = history.tree.scores[key]
    return [
        f"## Best member: {best.id}",
        "",
        *_evaluation(run_dir, best),
        f"- training score {score:.4g}: mean of the last {history.config.window} counted "
        f"episodes, the highest of {len(history.members)} members and so biased upward. It is no "
        "result; fresh episodes give one: "
        f"`python -m experiments.evaluate {shlex.quote(str(run_dir))}`",
        f"- version {key[1]}, {format_steps(history.tree.training[key])} agent steps of training "
        f"behind its weights ({format_steps(best.agent_steps)} of its own)",
        f"- hyperparameters now: {_values(history, best)}",
        f"- lineage: {path}",
    ]


def _evaluation(run_dir: Path, member: Member) -> list[str]:
    """The score from fresh episodes, if a launcher played them when the run was over."""
    try:
        played = json.loads(evaluation_path(run_dir, member).read_text())
    except (OSError, json.JSONDecodeError):
        return []
    low, high = played["interval_95"]
    return [
        f"- score {played['mean']:.2f}: mean of {len(played['returns'])} fresh episodes, 95 % "
        f"interval {low:.2f} to {high:.2f}; {played['protocol']}"
    ]


def evaluation_path(run_dir: Path, member: Member) -> Path:
    """Where the fresh episodes of a member's present version are written, once."""
    return run_dir / "report" / f"evaluation-{member.id:02d}-{member.version}.json"


def _members(history: History) -> list[str]:
    """A Markdown table."""
    names = history.varied
    header = ["member", "state", "agent steps", "training score", *names]

    def rank(member: Member) -> tuple[bool, float, int]:
        score = history.tree.scores[history.tree.newest(member.id)]
        return (score is None, -(score or 0.0), member.id)

    rows = []
    for member in sorted(history.members, key=rank):
        score = history.tree.scores[history.tree.newest(member.id)]
        used = history.config.space.used(member.hyperparameters)
        rows.append(
            [
                str(member.id),
                member.state,
                format_steps(member.agent_steps),
                "" if score is None else f"{score:.4g}",
                *(f"{used[name]:.4g}" for name in names),
            ]
        )
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cell.rjust(w) for cell, w in zip(cells, widths, strict=True))} |"

    return [line(header), f"|{'|'.join('-' * (w + 1) + ':' for w in widths)}|", *map(line, rows)]


def _values(history: History, member: Member) -> str:
    used = history.config.space.used(member.hyperparameters)
    return ", ".join(f"{name} {value:.4g}" for name, value in used.items())


def _decisions(history: History) -> str:
    counts = collections.Counter(event.kind for event in history.events)
    return ", ".join(f"{count} {kind}" for kind, count in counts.most_common()) or "none yet"


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"


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


def _replace(path: Path, content: str) -> None:
    """Write a text file; a reader sees the old one or the new one."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        partial.write_text(content, encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    options = tyro.cli(Arguments, args=arguments, prog="python -m experiments.report")
    try:
        store = stores.Store.open(options.run_dir)
    except (stores.StoreError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    base = options.out or options.run_dir
    directory = options.out or options.run_dir / "report"
    event_files = base / "tensorboard"
    with store:
        try:
            text = write_report(store, directory, event_files)
        except OSError as error:
            print(f"error: the report cannot be written: {error}", file=sys.stderr)
            return 2
        with tensorboard.Projector(store, event_files) as projector:
            is_projected = projector.update()
    print(text)
    print(f"Written to {directory}")
    if not is_projected:
        print("The TensorBoard files are kept up to date by a launcher that is running.")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BrokenPipeError:  # `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
