"""Scores over training, as numbers: what learning curves are drawn from."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from experiments.analysis.history import History
from pbt.task import Episode

Floats = NDArray[np.float64]

CURVE_POINTS = 400
"""Of a smoothed curve: more than its pixels would show."""
GRID_POINTS = 200
"""Steps at which a whole population is looked at."""


@dataclasses.dataclass(frozen=True)
class PopulationCurves:
    """What every member's weights scored at the same numbers of its own agent steps."""

    steps: Floats
    """Agent steps of each member, `[points]`."""
    scores: Floats
    """Training scores `[members, points]`; NaN where a member has none yet, or is not yet."""

    @property
    def best(self) -> Floats:
        """The highest score at each point, NaN where nobody has one."""
        highest = np.where(np.isnan(self.scores), -np.inf, self.scores).max(axis=0)
        return np.where(np.isneginf(highest), np.nan, highest)

    @property
    def median(self) -> Floats:
        """The middle one of the scores there are at each point, NaN where nobody has one."""
        known = [column[~np.isnan(column)] for column in self.scores.T]
        return np.array([np.median(scores) if len(scores) else np.nan for scores in known])

    def shared(self) -> "PopulationCurves":
        """Only the points at which at least half of the members have a score."""
        kept = 2 * np.count_nonzero(~np.isnan(self.scores), axis=0) >= len(self.scores)
        return PopulationCurves(self.steps[kept], self.scores[:, kept])


def slice_scores(history: History) -> list[float]:
    """Every training score that was earned by training, in no order that matters."""
    return [v.score for v in history.versions if v.score is not None and v.kind == "slice"]


def member_scores(history: History, member: int) -> tuple[Floats, Floats]:
    """The training score of the weights that a member holds, from each of its agent steps on.

    A copy changes the score at once: to the donor's. A restore takes back what came after.

    Returns:
        Agent steps, strictly increasing, and scores; both empty before the first score.
    """
    versions = (v for v in history.versions if v.member == member)
    return standing(
        (version.agent_steps, history.tree.scores[member, version.version])
        for version in sorted(versions, key=lambda v: v.version)
    )


def standing(scored: Iterable[tuple[int, float | None]]) -> tuple[Floats, Floats]:
    """A member's scores that nothing later replaced.

    Args:
        scored: Agent steps of its versions in the order of their making, and the score, if any.

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
    """The last value at or before each of the wanted steps; NaN before the first.

    Args:
        wanted: `[points]`.
        steps: From which on a value is in force, increasing.
        values: As many as `steps`; none at all is all NaN.
    """
    place = np.searchsorted(steps, wanted, side="right")
    return np.concatenate(([np.nan], values))[place]


def population_curves(history: History, points: int = GRID_POINTS) -> PopulationCurves:
    """All members' scores on one grid of agent steps.

    A member that still trains is left out beyond its last step; one that diverged or failed keeps
    the score of its last sound weights.
    """
    furthest = max((member.agent_steps for member in history.members), default=0)
    grid = np.linspace(0, furthest, points + 1)
    table = np.full((len(history.members), len(grid)), np.nan)
    for row, member in zip(table, history.members, strict=True):
        row[:] = in_force(grid, *member_scores(history, member.id))
        if member.state in ("active", "finished"):
            row[grid > member.agent_steps] = np.nan
    return PopulationCurves(grid, table)


def hours_per_step(history: History) -> float:
    """What an agent step took a worker on average, in hours; 0 before the first report."""
    steps = sum(report.slice_steps for report in history.reports)
    return sum(report.seconds for report in history.reports) / 3600 / steps if steps else 0.0


def moving_mean(x: Floats, y: Floats, count: int) -> tuple[Floats, Floats]:
    """The mean of the last `count` values (of 10 to begin with), at `CURVE_POINTS` places."""
    if len(y) == 0:
        return x, y
    sums = np.concatenate(([0.0], np.cumsum(y)))
    ends = np.arange(1, len(y) + 1)
    starts = np.maximum(ends - count, 0)
    means = (sums[ends] - sums[starts]) / (ends - starts)
    # The first few would be means of next to nothing.
    first = min(count, 10, len(y)) - 1
    kept = np.unique(np.linspace(first, len(y) - 1, CURVE_POINTS).round().astype(int))
    return x[kept], means[kept]


def curve_pieces(history: History, member: int) -> Iterator[tuple[Floats, Floats]]:
    """A member's episodes, cut where its weights were replaced: agent steps and returns."""
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
    """Agent steps at which episodes finished, and what they returned."""
    steps = np.array([episode.agent_steps for episode in episodes], np.float64)
    return steps, np.array([episode.episode_return for episode in episodes], np.float64)
