"""Arms side by side: tables of their runs, and what follows from the tables alone.

An arm is one side of a study, or a group of runs of a comparison that differ in nothing but the
seed. Arms of one panel are compared with each other.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from experiments.analysis import aggregates, units, wording
from experiments.analysis.outcome import Curve, Outcome, Schedule

Kind = Literal["score", "training_score"]
"""Column that arms are judged by: means of fresh episodes, or the training scores that chose the
members and are biased upward."""
HUMAN = "IQM, human-normalised"
"""Column for games with published scores: 0 % is random play, 100 % a human tester."""


@dataclasses.dataclass(frozen=True)
class Row:
    """A run of an arm: one line of scores.csv."""

    panel: str
    arm: str
    seed: int
    run: str
    """Directory of the run."""
    member: int | None
    training_score: float | None
    score: float | None
    """Mean return of fresh episodes."""
    median_training_score: float | None
    agent_steps: int
    exploits: int
    """Number of copies."""
    comparisons: int
    """Times that a member was ready and copied nobody."""
    dead: int
    """Times that a member diverged or failed."""
    seconds: float
    left_out: str = ""
    """Why no statistic counts the run. Empty if they do."""


@dataclasses.dataclass(frozen=True)
class Result:
    """A run, and the arm that it belongs to."""

    panel: str
    arm: str
    seed: int
    run: str
    """Directory of the run."""
    outcome: Outcome
    left_out: str = ""
    """As in `Row`."""


@dataclasses.dataclass(frozen=True)
class Tables:
    """Rows, curves and schedules of the runs of all arms."""

    arms: Sequence[tuple[str, str]]
    """Panel and name of every arm, in order."""
    environment: str
    """Environment of all runs. Empty if each panel is an environment of its own."""
    reference: str | None
    """Arm that the others of each panel are compared with. None: the first of the panel."""
    rows: Sequence[Row]
    curves: Mapping[str, Curve]
    """Curve of each run, by its directory."""
    schedules: Mapping[str, Schedule]
    """Schedule of each run that has one, by its directory."""
    words: units.Units = units.AGENTS
    """Words for what the members of the runs are."""

    @property
    def panels(self) -> list[str]:
        """Names of the panels, in order. A single one may be empty."""
        return list(dict.fromkeys(panel for panel, _ in self.arms))

    def names(self, panel: str) -> list[str]:
        """Return the names of a panel's arms, in order."""
        return [name for other, name in self.arms if other == panel]

    def runs(self, panel: str, arm: str) -> list[Row]:
        """Return all rows of an arm."""
        return [row for row in self.rows if (row.panel, row.arm) == (panel, arm)]

    def counted(self, panel: str, arm: str) -> list[Row]:
        """Return the rows of an arm that statistics count."""
        return [row for row in self.runs(panel, arm) if not row.left_out]

    def kind(self, panel: str) -> Kind:
        """Return the kind of score that all counted runs of a panel have. Kinds are never mixed."""
        counted = [row for row in self.rows if row.panel == panel and not row.left_out]
        return "score" if all(row.score is not None for row in counted) else "training_score"

    def scores(self, panel: str, arm: str) -> dict[int, float]:
        """Return the scores of an arm's counted runs by seed, of the panel's kind."""
        kind = self.kind(panel)
        found = {row.seed: getattr(row, kind) for row in self.counted(panel, arm)}
        return {seed: score for seed, score in found.items() if score is not None}


def tables_of(
    arms: Sequence[tuple[str, str]],
    environment: str,
    reference: str | None,
    results: Sequence[Result],
    words: units.Units = units.AGENTS,
) -> Tables:
    """Return the tables of some runs; arguments as in `Tables`.

    Numbers are rounded to six digits, so that what a table shows is what is computed with.
    """
    outcomes = {result.run: result.outcome for result in results}  # panels may share a run
    return Tables(
        arms,
        environment,
        reference,
        rows=[_row(result) for result in results],
        curves={run: outcome.curve for run, outcome in outcomes.items()},
        schedules={
            run: tuple(
                {n: _short(v) for n, v in row.items()} | {"agent_steps": int(row["agent_steps"])}
                for row in outcome.schedule
            )
            for run, outcome in outcomes.items()
            if outcome.schedule
        },
        words=words,
    )


def _row(result: Result) -> Row:
    outcome, decisions = result.outcome, result.outcome.decisions
    return Row(
        panel=result.panel,
        arm=result.arm,
        seed=result.seed,
        run=result.run,
        member=outcome.member,
        training_score=_known(outcome.training_score),
        score=_known(outcome.score),
        median_training_score=_known(outcome.median_training_score),
        agent_steps=outcome.agent_steps,
        exploits=decisions.get("exploit", 0),
        comparisons=decisions.get("no-exploit", 0),
        dead=decisions.get("diverged", 0) + decisions.get("failed", 0),
        seconds=_short(outcome.seconds),
        left_out=result.left_out,
    )


def header(tables: Tables, panel: str) -> list[str]:
    """Return the titles of a panel's columns."""
    what = "IQM" if tables.kind(panel) == "score" else "IQM of training scores"
    titles = ["arm", "n", f"{what} (95 %)", "mean", "median member (training)", "copies"]
    if _compares(tables, panel):
        first = reference(tables, panel)
        titles += [f"{first} minus arm, paired mean (95 %)", f"P({first} > arm) (95 %)"]
    return [*titles, HUMAN] if _has_human(tables, panel) else titles


def cells(tables: Tables, panel: str) -> list[list[str]]:
    """Return the cells of a panel's table, one list per arm."""
    width = len(header(tables, panel))
    base = tables.scores(panel, reference(tables, panel))
    digits = _digits(tables, panel)
    made = []
    for arm in tables.names(panel):
        own, rows = tables.scores(panel, arm), tables.counted(panel, arm)
        if not own:
            made.append([arm, "0", "no score", *[""] * (width - 3)])
            continue
        scores = list(own.values())
        ends = _interval(aggregates.interval(scores), digits)
        medians = [row.median_training_score for row in rows]
        line = [
            arm,
            str(len(scores)),
            f"{aggregates.iqm(scores):.{digits}f} ({ends})",
            f"{np.mean(scores):.{digits}f}",
            f"{np.mean([median for median in medians if median is not None]):.{digits}f}",
            f"{np.mean([row.exploits for row in rows]):.1f}",
        ]
        if _compares(tables, panel):
            is_other = _is_compared(tables, panel, arm)
            line += _compared(base, own, digits) if is_other else ["", ""]
        if _has_human(tables, panel):
            human = aggregates.human_normalised(tables.environment, aggregates.iqm(scores))
            line.append(f"{human:.0%}")
        made.append(line)
    return made


def reference(tables: Tables, panel: str) -> str:
    """Return the arm that the others of a panel are compared with."""
    return tables.reference or tables.names(panel)[0]


def markdown(tables: Tables, panel: str) -> list[str]:
    """Return a panel's table as lines of Markdown."""
    right = ("n", "mean", "median member (training)", "copies", HUMAN)
    titles = header(tables, panel)
    marks = ["--:" if title in right else "---" for title in titles]
    lines = [titles, marks, *cells(tables, panel)]
    return [f"| {' | '.join(line)} |" for line in lines]


def _interval(ends: tuple[float, float], digits: int) -> str:
    """Return both ends of an interval in words, with so many decimals."""
    return wording.interval(ends, lambda end: f"{end:.{digits}f}")


def _digits(tables: Tables, panel: str) -> int:
    """Return the decimals of all scores of a panel, by the largest one.

    They are the same for all arms, so that rounding hides no difference between machines.
    """
    found = [abs(s) for arm in tables.names(panel) for s in tables.scores(panel, arm).values()]
    return max(2, wording.decimals(max(found, default=0.0)))


def _compared(base: Mapping[int, float], own: Mapping[int, float], digits: int) -> list[str]:
    """Return paired difference and P of two arms' scores by seed."""
    found, ends = aggregates.probability_of_improvement(list(base.values()), list(own.values()))
    paired, differences = "", [base[seed] - own[seed] for seed in own if seed in base]
    if differences:
        student = aggregates.paired_interval(differences)
        paired = f"{np.mean(differences):.{digits}f} ({_interval(student, digits)})"
    return [paired, f"{found:.2f} ({_interval(ends, 2)})"]


def _compares(tables: Tables, panel: str) -> bool:
    """Return whether any arms are compared: one with higher training scores may be the worse."""
    return tables.kind(panel) == "score" and any(
        _is_compared(tables, panel, arm) for arm in tables.names(panel)
    )


def _is_compared(tables: Tables, panel: str, arm: str) -> bool:
    """Return whether an arm is compared with the reference.

    In a comparison that takes two runs of each, since it has no seeds planned in advance.
    """
    first = reference(tables, panel)
    fewest = min(len(tables.scores(panel, name)) for name in (arm, first))
    return arm != first and fewest > (0 if tables.reference else 1)


def _has_human(tables: Tables, panel: str) -> bool:
    return tables.kind(panel) == "score" and tables.environment in aggregates.HUMAN_SCORES


def _known(value: float | None) -> float | None:
    return None if value is None else _short(value)


def _short(value: float) -> float:
    return float(f"{value:.6g}")
