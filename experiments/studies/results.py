"""A study's results: its tables, and the README and figures that are made from them alone.

In the folder of a study:

    study.json       what was done: protocol, command, commit, settings, arms, the paper's finding
    scores.csv       one row per run
    curves.csv       best and median training score of every run's members over its steps
    schedules.csv    the winner's hyperparameters over its training, of every run that adapts them
    notes.md         what a person has to say about it; optional
    README.md        tables and notes
    index.html       the same and the figures, on one page that needs nothing else
    scores.png, curves.png, schedules.png

`rebuild` makes the last three lines from the others, and is the only thing that makes them.
"""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.analysis import aggregates, schedule, wording
from experiments.pages import drawing, markup, study_figures, study_page
from experiments.studies import outcome, tables
from experiments.studies.tables import CURVES, SCHEDULES, SCORES, STUDY, Row

NOTES, README = "notes.md", "README.md"


@dataclasses.dataclass(frozen=True)
class Result:
    """A finished run of an arm."""

    panel: str
    arm: str
    seed: int
    run: str
    """Name of its directory."""
    outcome: outcome.Outcome


def write(folder: Path, described: Mapping[str, Any], results: Sequence[Result]) -> None:
    """Write a study's tables, and rebuild the rest."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / STUDY).write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
    tables.write(folder / SCORES, (dataclasses.asdict(_row(result)) for result in results))
    runs: dict[str, Result] = {}  # panels may share one
    for result in results:
        runs.setdefault(result.run, result)
    tables.write(
        folder / CURVES,
        (
            {"run": run, "agent_steps": steps, "best": best, "median": median}
            for run, result in runs.items()
            for steps, best, median in result.outcome.curve
        ),
    )
    tables.write(
        folder / SCHEDULES,
        (
            {
                "run": run,
                **{name: _short(value) for name, value in row.items()},
                schedule.STEPS: int(row[schedule.STEPS]),
            }
            for run, result in runs.items()
            for row in result.outcome.schedule
        ),
    )
    rebuild(folder)


def _row(result: Result) -> Row:
    known = result.outcome
    return Row(
        panel=result.panel,
        arm=result.arm,
        seed=result.seed,
        run=result.run,
        member=known.member,
        training_score=_short(known.training_score),
        score=_short(known.score),
        median_training_score=_short(known.median_training_score),
        agent_steps=known.agent_steps,
        exploits=known.decisions.get("exploit", 0),
        comparisons=known.decisions.get("no-exploit", 0),
        dead=known.decisions.get("diverged", 0) + known.decisions.get("failed", 0),
        seconds=_short(known.seconds),
    )


def _short(value: float) -> float:
    """Six digits: what is kept is what is shown and computed with."""
    return float(f"{value:.6g}")


def rebuild(folder: Path) -> None:
    """Make README.md and the figures of a study's folder from its tables.

    Raises:
        ValueError: a table is damaged; names it.
        OSError: a file is missing or cannot be written.
    """
    described = tables.read_study(folder)
    if described is None:
        raise ValueError(f"{folder / STUDY} does not exist: no results of a study")
    rows = tables.read_scores(folder)
    curves = tables.read_runs(folder, CURVES, rows)
    schedules = tables.read_runs(folder, SCHEDULES, rows)
    notes = folder / NOTES
    said = notes.read_text(encoding="utf-8") if notes.exists() else ""
    (folder / README).write_text(readme(described, rows, said), encoding="utf-8")
    drawn = study_figures.figures(
        described,
        [dataclasses.asdict(row) for row in rows],
        curves,
        schedules,
    )
    for file_name, figure in drawn.items():
        drawing.save(figure, folder / file_name)
    panels = [
        (panel, panel_rows(described, panel, rows))
        for panel in dict.fromkeys(arm["panel"] for arm in described["arms"])
    ]
    page = study_page.page(
        described, header(described), panels, said, protocol(described, rows), drawn
    )
    (folder / markup.FILE_NAME).write_text(page, encoding="utf-8")


def readme(described: Mapping[str, Any], rows: Sequence[Row], notes: str) -> str:
    """The page of a study, in Markdown: the same tables give the same text."""
    lines = [
        f"# {described['title']}",
        "",
        described["question"],
        "",
        "![scores of all runs](scores.png)",
        "",
    ]
    for panel in dict.fromkeys(arm["panel"] for arm in described["arms"]):
        lines += _panel(described, panel, rows)
    lines += [
        f"**The paper.** {described['paper']}",
        "",
    ]
    if notes:
        lines += [notes.rstrip(), ""]
    lines += [
        "## Training",
        "",
        "![training scores](curves.png)",
        "",
    ]
    if any(row.exploits for row in rows):
        lines += ["![hyperparameters of the winners](schedules.png)", ""]
    lines += ["## Protocol", "", *(f"- {line}" for line in protocol(described, rows)), ""]
    lines += [
        "`scores.csv` has every run, `curves.csv` and `schedules.csv` what the figures show; "
        "`python -m experiments.report` on this folder makes this page and `index.html` again "
        "from them.",
        "",
    ]
    return "\n".join(lines)


def protocol(described: Mapping[str, Any], rows: Sequence[Row]) -> list[str]:
    """How it was done, one thing per line."""
    settings = "; ".join(
        f"{name} {_setting(value)}" for name, value in described["settings"].items()
    )
    seconds = sum({row.run: row.seconds for row in rows}.values())
    return [
        f"world: {described['protocol']}; agent {described['agent']}",
        f"{settings}; priors log-uniform",
        *(
            f"{arm['name']}{' (' + arm['panel'] + ')' if arm['panel'] else ''}: {arm['settings']}"
            for arm in described["arms"]
        ),
        f"score of a run: mean of {outcome.EPISODES} fresh episodes of the member with the "
        "highest training score, which is the mean of the last ten counted training episodes of "
        "its weights; of those that it copied or of its earlier ones where fewer have ended since",
        f"seeds {_ranges(sorted({row.seed for row in rows}))}; within a seed all arms begin with "
        "the same draws and weights, as far as they have them",
        "IQM: interquartile mean over seeds; its interval and that of P (of any two runs, paired "
        "or not): 95 % percentile bootstrap, 10,000 resamples of seeds, too narrow for few of "
        "them; of paired differences: Student's t (`experiments/statistics.py`)",
        "every interval is that of one comparison: none is corrected for there being several",
        f"command: `{described['command']}`",
        f"commit of these tables: {described['commit']}; of the runs: {_counted(described)}",
        f"{seconds / 3600:.2f} hours of training, summed over members; runs that other studies "
        "share are counted here too",
    ]


HEADER = ("arm", "n", "IQM (95 %)", "mean", "median member (training)", "copies")
"""Of a panel's table, before the two columns that name the reference."""
HUMAN = "IQM, human-normalised"
"""The last column, of games with published scores: 0 % is random play, 100 % a human tester."""


def header(described: Mapping[str, Any]) -> list[str]:
    """The titles of a panel's columns."""
    reference = described["reference"]
    compared = f"{reference} minus arm, paired mean (95 %)"
    titles = [*HEADER, compared, f"P({reference} > arm) (95 %)"]
    return [*titles, HUMAN] if described["world"] in aggregates.HUMAN_SCORES else titles


def panel_rows(described: Mapping[str, Any], panel: str, rows: Sequence[Row]) -> list[list[str]]:
    """The cells of a panel's table, one list per arm."""
    inside = [row for row in rows if row.panel == panel]
    reference = described["reference"]
    base = {row.seed: row.score for row in inside if row.arm == reference}
    made = []
    for arm in (arm["name"] for arm in described["arms"] if arm["panel"] == panel):
        own = {row.seed: row for row in inside if row.arm == arm}
        if not own:
            made.append([arm, "0", *[""] * (len(header(described)) - 2)])
            continue
        scores = [row.score for row in own.values()]
        cells = [
            arm,
            str(len(scores)),
            f"{_number(aggregates.iqm(scores))} ({_interval(aggregates.interval(scores))})",
            _number(float(np.mean(scores))),
            _number(float(np.mean([row.median_training_score for row in own.values()]))),
            f"{np.mean([row.exploits for row in own.values()]):.1f}",
            "",
            "",
        ]
        shared = [seed for seed in own if seed in base]
        if arm != reference and shared:
            differences = [base[seed] - own[seed].score for seed in shared]
            ends = aggregates.paired_interval(differences)
            cells[-2] = f"{_number(float(np.mean(differences)))} ({_interval(ends)})"
            found, ends = aggregates.probability_of_improvement(list(base.values()), scores)
            cells[-1] = f"{found:.2f} ({_interval(ends)})"
        human = aggregates.human_normalised(described["world"], aggregates.iqm(scores))
        if human is not None:
            cells.append(f"{human:.0%}")
        made.append(cells)
    return made


def _panel(described: Mapping[str, Any], panel: str, rows: Sequence[Row]) -> list[str]:
    """A table of one panel's arms, in Markdown."""
    lines = [f"## {panel[0].upper()}{panel[1:]}", ""] if panel else []
    titles = header(described)
    right = ("n", "mean", *HEADER[4:], HUMAN)
    lines += [_line(titles), _line(["--:" if title in right else "---" for title in titles])]
    return [*lines, *(_line(cells) for cells in panel_rows(described, panel, rows)), ""]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _counted(described: Mapping[str, Any]) -> str:
    commits: Mapping[str, int] = described.get("run_commits", {})
    return ", ".join(f"{commit} ({count})" for commit, count in commits.items()) or "not recorded"


def _number(value: float) -> str:
    """As many decimals everywhere, so that rounding hides no difference between machines."""
    return f"{value:.2f}"


def _interval(ends: tuple[float, float]) -> str:
    if math.isnan(ends[0]):
        return "none for n = 1"
    return f"{ends[0]:.2f} to {ends[1]:.2f}"


def _setting(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"in ({', '.join(wording.value(end) for end in value)})"
    return f"{value:,}"


def _ranges(seeds: Sequence[int]) -> str:
    if list(seeds) == list(range(seeds[0], seeds[-1] + 1)) and len(seeds) > 1:
        return f"{seeds[0]} to {seeds[-1]}"
    return ", ".join(map(str, seeds))
