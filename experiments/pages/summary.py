"""What happened in a run, in Markdown: what is printed."""

import collections
import json
import shlex
from collections.abc import Sequence
from pathlib import Path

from experiments.analysis import scores, wording
from experiments.analysis.history import History
from pbt import lineage, records


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
        f"- trained {wording.steps(done)} of {wording.steps(budget)} agent steps "
        f"({config.population} members x {wording.steps(config.total_steps)}); members: "
        + ", ".join(f"{count} {state}" for state, count in sorted(states.items())),
    ]
    if not history.reports:
        return "\n".join([*lines, "- no report yet: no member has finished a slice", ""])
    started_s = min(version.created_s for version in history.versions)
    ended_s = max(report.created_s for report in history.reports)
    worked_s = sum(report.seconds for report in history.reports)
    lines += [
        f"- {wording.duration(ended_s - started_s)} from creation to the last report, "
        f"{wording.duration(worked_s)} of training summed over workers",
        f"- decisions: {_decisions(history)}",
    ]
    dead = [member for member in members if records.is_dead(member)]
    if dead:
        unspent = sum(config.total_steps - member.agent_steps for member in dead)
        lines.append(
            f"- diverged or failed: member {', '.join(str(m.id) for m in dead)}, with "
            f"{wording.steps(unspent)} agent steps unspent"
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
        f"member {part.member} from {wording.steps(part.start)} to {wording.steps(part.end)}"
        for part in segments
        if part.end > part.start
    ]
    if len(stretches) > 8:
        between = f"{len(stretches) - 6} more (schedule.csv has all)"
        stretches[3:-3] = [between]
    path = ", then ".join(stretches) or "never trained"
    training = scores.training_score(history)
    assert training is not None  # there is a best member
    played = scores.best_score(history, run_dir)
    assert played is not None
    fresh = []
    if played.interval is not None:
        low, high = played.interval
        fresh = [
            f"- score {played.mean:.2f}: mean of {played.episodes} fresh episodes, 95 % "
            f"interval {low:.2f} to {high:.2f}; {played.protocol}"
        ]
    return [
        f"## Best member: {best.id}",
        "",
        *fresh,
        f"- training score {training.mean:.4g}: mean of the last {training.episodes} counted "
        f"episodes{training.since}, the highest of {len(history.members)} members and so biased "
        "upward. It is no result; fresh episodes give one: "
        f"`python -m experiments.evaluate {shlex.quote(str(run_dir))}`",
        f"- version {key[1]}, {wording.steps(history.tree.training[key])} agent steps of training "
        f"behind its weights ({wording.steps(best.agent_steps)} of its own)",
        f"- hyperparameters now: {_values(history)}",
        f"- lineage: {path}",
    ]


def _members(history: History) -> list[str]:
    """A Markdown table."""
    names = history.varied
    header = ["member", "state", "agent steps", "training score", *names]

    rows = []
    for member in history.ranked:
        score = history.tree.scores[history.tree.newest(member.id)]
        used = history.config.space.used(member.hyperparameters)
        rows.append(
            [
                str(member.id),
                member.state,
                wording.steps(member.agent_steps),
                "" if score is None else f"{score:.4g}",
                *(f"{used[name]:.4g}" for name in names),
            ]
        )
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cell.rjust(w) for cell, w in zip(cells, widths, strict=True))} |"

    return [line(header), f"|{'|'.join('-' * (w + 1) + ':' for w in widths)}|", *map(line, rows)]


def _values(history: History) -> str:
    used = history.used(history.schedule[-1])
    return ", ".join(f"{name} {value:.4g}" for name, value in used.items())


def _decisions(history: History) -> str:
    counts = collections.Counter(event.kind for event in history.events)
    return ", ".join(f"{count} {kind}" for kind, count in counts.most_common()) or "none yet"
