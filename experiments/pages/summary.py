"""The summary of a run in Markdown, which commands print."""

import collections
import dataclasses
import json
import shlex
from pathlib import Path

from experiments.analysis import scores, tasks, units, wording
from experiments.analysis.history import History
from experiments.pages import markup, sections
from pbt import lineage, records


@dataclasses.dataclass(frozen=True)
class Totals:
    """What a run has done so far."""

    states: str
    """Number of members in each state, such as "3 active, 1 lost"."""
    agent_steps: int
    """Agent steps of all members."""
    budget: int
    """Agent steps of all members at the end of the run."""
    elapsed: str | None
    """Time from creation to the last report; None before the first report."""
    worked: str
    """Time of training, summed over workers."""
    dead: str | None
    """Members that diverged, failed or were lost, and their agent steps left; None if there are
    none."""


def totals(history: History) -> Totals:
    """Add up what a run has done so far."""
    config, members, reports = history.config, history.members, history.reports
    elapsed_s = None
    if reports:
        ended_s = max(report.created_s for report in reports)
        elapsed_s = ended_s - min(version.created_s for version in history.versions)
    dead = [member for member in members if records.is_dead(member)]
    unspent = sum(config.total_steps - member.agent_steps for member in dead)
    told = ", ".join(f"member {member.id} ({member.state})" for member in dead)
    counts = collections.Counter(member.state for member in members)
    return Totals(
        states=", ".join(f"{count} {state}" for state, count in sorted(counts.items())),
        agent_steps=sum(member.agent_steps for member in members),
        budget=config.population * config.total_steps,
        elapsed=None if elapsed_s is None else wording.duration(elapsed_s),
        worked=wording.duration(sum(report.seconds for report in reports)),
        dead=f"{told}; {unspent:,} {history.units.steps} unspent" if dead else None,
    )


def summary(history: History, run_dir: Path) -> str:
    """Return what happened in a run.

    Args:
        history: The run, which may be training.
        run_dir: The directory with its evaluations.
    """
    config, done = history.config, totals(history)
    lines = [
        f"# {history.name}",
        "",
        f"- population {config.population}, exploit {config.exploit}, explore {config.explore}, "
        f"copy {config.copy}, seed {config.seed}",
        f"- trained {wording.steps(done.agent_steps)} of {wording.steps(done.budget)} "
        f"{history.units.steps} ({config.population} members x "
        f"{wording.steps(config.total_steps)}); members: {done.states}",
    ]
    if done.dead is not None:
        lines.append(f"- not training: {done.dead}")
    if history.damage is not None:
        lines.append(f"- {history.damage}")
    if done.elapsed is None:
        lines += ["- no report yet: no member has finished a slice", ""]
        return wording.printable("\n".join(lines))
    counts = collections.Counter(event.kind for event in history.events)
    decided = ", ".join(f"{count} {kind}" for kind, count in counts.most_common())
    lines += [
        f"- {done.elapsed} from creation to the last report, {done.worked} of training summed over "
        "workers",
        f"- decisions: {decided or 'none yet'}",
        "",
        *_best(history, run_dir),
        "",
        "## Members, best first",
        "",
        markup.markdown_table(*sections.members(history)),
        "",
        "## Protocol",
        "",
        f"Task `{config.task}`, configured as",
        "",
        "```json",
        json.dumps(config.task_config, indent=2, sort_keys=True),
        "```",
        "",
    ]
    return wording.printable("\n".join(lines))


def _way_to_a_result(history: History, run_dir: Path) -> str:
    """Say how to get a score by which nothing was chosen."""
    if tasks.has_fresh_samples(history.config):
        command = f"python -m experiments.evaluate {shlex.quote(str(run_dir))}"
        return f"fresh {history.units.many} give one: `{command}`"
    return "a score on data by which nothing was chosen gives one"


def _best(history: History, run_dir: Path) -> list[str]:
    best = history.best
    training, played = scores.training_score(history), scores.best_score(history, run_dir)
    if best is None or training is None or played is None:
        return [
            "No member has a score yet: that takes "
            f"{history.config.min_episodes} counted {history.units.many} since its last copy."
        ]
    key = history.tree.newest(best.id)
    stretches = [
        f"member {part.member} from {wording.steps(part.start)} to {wording.steps(part.end)}"
        for part in lineage.segments(history.lineage)
        if part.end > part.start
    ]
    if len(stretches) > 8:
        stretches[3:-3] = [f"{len(stretches) - 6} more (schedule.csv has all)"]
    used = history.used(history.schedule[-1])
    bias = f", the highest of {len(history.members)} members and so biased upward"
    if len(history.members) == 1 or history.selection is not None:
        bias = ""
    fresh = []
    if played.is_fresh:
        fresh = [
            f"- score {wording.score(played.mean)}: {'mean of' if played.is_mean else 'over'} "
            f"{played.episodes} fresh "
            f"{history.units.many}, 95 % interval {wording.interval(played.interval)}; "
            f"{played.protocol}"
        ]
    if history.selection is not None:
        fresh.append(f"- {history.selection.text(history.units.many)}")
    return [
        f"## Best member: {best.id}",
        "",
        *fresh,
        f"- {units.training_score(history.units)} {wording.score(training.mean)}: "
        f"{units.of_last(training.episodes, history.units)}{training.since}{bias}. It is no "
        f"result; {_way_to_a_result(history, run_dir)}",
        f"- version {key[1]}, {wording.steps(history.tree.training[key])} {history.units.steps} of "
        f"training behind its weights ({wording.steps(best.agent_steps)} of its own)",
        "- hyperparameters now: "
        + ", ".join(f"{name} {wording.value(value)}" for name, value in used.items()),
        f"- lineage: {', then '.join(stretches) or 'never trained'}",
    ]
