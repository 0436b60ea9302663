"""Compute learning curves: scores and returns over agent steps."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from experiments.analysis.history import History
from pbt import lineage
from pbt.records import Version
from pbt.task import Episode

Floats = NDArray[np.float64]

CURVE_POINTS = 400
"""Points of a smoothed curve, more than a figure can show."""
GRID_POINTS = 200
"""Intervals of the grid of agent steps on which a population's members are compared."""


@dataclasses.dataclass(frozen=True)
class PopulationCurves:
    """Training scores of all members on one grid of agent steps."""

    steps: Floats
    """Agent steps of each member, `[points]`."""
    scores: Floats
    """Training scores, `[members, points]`.

    NaN where a member has no score yet or has not trained that far.
    """

    @property
    def best(self) -> Floats:
        """Highest score at each point, `[points]`. NaN where no member has one."""
        highest = np.where(np.isnan(self.scores), -np.inf, self.scores).max(axis=0)
        return np.where(np.isneginf(highest), np.nan, highest)

    @property
    def median(self) -> Floats:
        """Median of the known scores at each point, `[points]`. NaN where there is none."""
        known = [column[~np.isnan(column)] for column in self.scores.T]
        return np.array([np.median(scores) if len(scores) else np.nan for scores in known])

    def shared(self) -> "PopulationCurves":
        """Return the curves at the points where at least half of the members have a score."""
        kept = 2 * np.count_nonzero(~np.isnan(self.scores), axis=0) >= len(self.scores)
        return PopulationCurves(self.steps[kept], self.scores[:, kept])


def slice_scores(history: History) -> list[float]:
    """Return every training score that a slice of training earned, in no particular order."""
    return [v.score for v in history.versions if v.score is not None and v.kind == "slice"]


def earned_scores(steps: Iterable[lineage.Step]) -> tuple[Floats, Floats]:
    """Return the training score that each slice of a lineage earned.

    Returns:
        Agent steps behind the weights, and the scores. NaN for a slice that earned none.
    """
    slices = [step for step in steps if step.version.kind == "slice"]
    scores = [step.version.score for step in slices]
    return (
        np.array([step.training for step in slices], np.float64),
        np.array([np.nan if score is None else score for score in scores], np.float64),
    )


def member_scores(history: History, member: int) -> tuple[Floats, Floats]:
    """Return the training score of the weights that a member holds, over its agent steps.

    A copy changes the score to the donor's at once. A restore removes the scores after it.

    Returns:
        Agent steps, strictly increasing, and the score in force from each of them on. Both are
        empty before the first score.
    """
    versions = (v for v in history.versions if v.member == member)
    return standing(
        (version.agent_steps, history.tree.scores[member, version.version])
        for version in sorted(versions, key=lambda v: v.version)
    )


def standing(scored: Iterable[tuple[int, float | None]]) -> tuple[Floats, Floats]:
    """Return a member's scores without those that a restore took back.

    Args:
        scored: Agent steps and score, if any, of the member's versions from the first to the last.

    Returns:
        Agent steps, strictly increasing, and scores.
    """
    steps: list[int] = []
    scores: list[float] = []
    for agent_steps, score in scored:
        while steps and steps[-1] >= agent_steps:
            steps.pop()
            scores.pop()
        if score is not None:
            steps.append(agent_steps)
            scores.append(score)
    return np.array(steps, np.float64), np.array(scores, np.float64)


def in_force(wanted: Floats, steps: Floats, values: Floats) -> Floats:
    """Return the last value at or before each of the wanted steps, `[points]`.

    Args:
        wanted: Steps to look at, `[points]`.
        steps: Increasing steps from which on each value is in force.
        values: Same length as `steps`. If empty, the result is all NaN.

    Returns:
        The values. NaN before the first step.
    """
    place = np.searchsorted(steps, wanted, side="right")
    return np.concatenate(([np.nan], values))[place]


def best_and_median(
    versions: Sequence[Version], interval: int, total_steps: int
) -> list[tuple[int, float | None, float | None]]:
    """Return the best and the median training score of a run's members over their agent steps.

    A member's score is the last one that it earned by training, whatever it copied since.

    Args:
        versions: Versions of all members.
        interval: Agent steps between two points, the run's report interval.
        total_steps: Agent steps of each member in the whole run, the last point.

    Returns:
        Agent steps per member, best score and median score of each point. The scores are None
        before any member has one.
    """
    earned: dict[int, list[tuple[int, float | None]]] = {v.member: [] for v in versions}
    for version in sorted(versions, key=lambda version: version.version):
        if version.score is not None:
            earned[version.member].append((version.agent_steps, version.score))
    at = [*range(interval, total_steps, interval), total_steps]
    # A slice ends up to one update after its interval.
    steps = np.array(at) + (interval - 1) / 2
    found = PopulationCurves(
        steps, np.array([in_force(steps, *standing(own)) for own in earned.values()])
    )
    return [
        (step, None, None) if np.isnan(best) else (step, float(best), float(median))
        for step, best, median in zip(at, found.best, found.median, strict=True)
    ]


def population_curves(history: History, points: int = GRID_POINTS) -> PopulationCurves:
    """Return all members' training scores on one grid of agent steps.

    A member that still trains has no score beyond its last step. A member that diverged or failed
    keeps the score of its last sound weights.
    """
    furthest = max((member.agent_steps for member in history.members), default=0)
    grid = np.linspace(0, furthest, points + 1)
    table = np.full((len(history.members), len(grid)), np.nan)
    for row, member in zip(table, history.members, strict=True):
        row[:] = in_force(grid, *member_scores(history, member.id))
        if member.state in ("active", "finished"):
            row[grid > member.agent_steps] = np.nan
    return PopulationCurves(grid, table)


def moving_mean(x: Floats, y: Floats, count: int) -> tuple[Floats, Floats]:
    """Return the moving mean of the last `count` values at up to `CURVE_POINTS` places.

    Near the start, where there are fewer values, the mean is over at least 10 of them.
    """
    if len(y) == 0:
        return x, y
    sums = np.concatenate(([0.0], np.cumsum(y)))
    ends = np.arange(1, len(y) + 1)
    starts = np.maximum(ends - count, 0)
    means = (sums[ends] - sums[starts]) / (ends - starts)
    # Means of fewer values would be noise.
    first = min(count, 10, len(y)) - 1
    kept = np.unique(np.linspace(first, len(y) - 1, CURVE_POINTS).round().astype(int))
    return x[kept], means[kept]


def curve_pieces(history: History, member: int) -> Iterator[tuple[Floats, Floats]]:
    """Yield agent steps and returns of a member's episodes, cut where its weights were replaced."""
    episodes = {
        report.version: [e for e in report.episodes if e.counted]
        for report in history.reports
        if report.member == member
    }
    piece: list[Episode] = []
    for number in range(history.tree.newest(member)[1] + 1):
        if history.tree.parents[member, number] != (member, number - 1) and piece:
            yield returns(piece)
            piece = []
        piece += episodes.get(number, [])
    yield returns(piece)


def returns(episodes: Sequence[Episode]) -> tuple[Floats, Floats]:
    """Return the agent steps at which episodes finished, and their returns."""
    steps = np.array([episode.agent_steps for episode in episodes], np.float64)
    return steps, np.array([episode.episode_return for episode in episodes], np.float64)
