"""Scores over training, as numbers: what learning curves are drawn from."""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from experiments.pages.history import History
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
    steps: list[int] = []
    scores: list[float] = []
    versions = (v for v in history.versions if v.member == member)
    for version in sorted(versions, key=lambda v: v.version):
        while steps and steps[-1] >= version.agent_steps:
            steps.pop()
            scores.pop()
        score = history.tree.scores[member, version.version]
        if score is not None:
            steps.append(version.agent_steps)
            scores.append(score)
    return np.array(steps, np.float64), np.array(scores, np.float64)


def population_curves(history: History, points: int = GRID_POINTS) -> PopulationCurves:
    """All members' scores on one grid of agent steps.

    A member that still trains is left out beyond its last step; one that diverged or failed keeps
    the score of its last sound weights.
    """
    furthest = max((member.agent_steps for member in history.members), default=0)
    grid = np.linspace(0, furthest, points + 1)
    table = np.full((len(history.members), len(grid)), np.nan)
    for row, member in zip(table, history.members, strict=True):
        steps, scores = member_scores(history, member.id)
        place = np.searchsorted(steps, grid, side="right") - 1
        is_known = place >= 0
        if member.state in ("active", "finished"):
            is_known &= grid <= member.agent_steps
        row[is_known] = scores[place[is_known]]
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
