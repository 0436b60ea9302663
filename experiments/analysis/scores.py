"""The score of a run, from fresh episodes if they were played, else from training."""

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments.analysis import aggregates, files, wording
from experiments.analysis.history import History
from pbt.records import Member


@dataclasses.dataclass(frozen=True)
class Score:
    """The score of the best member of a run."""

    mean: float
    is_fresh: bool
    """Whether it is from fresh episodes, by which nothing was chosen. Otherwise it is the mean of
    training episodes, by which the member was chosen alone or with others, so biased upward."""
    episodes: int
    """Number of episodes."""
    interval: tuple[float, float] | None = None
    """95 % interval of the mean over the fresh episodes of this member; it covers no other seed.
    None for a single episode, and for training episodes."""
    is_mean: bool = True
    """Whether it is the mean of the samples' scores, and not one score of all of them together."""
    protocol: str | None = None
    """How the fresh episodes were played, in words."""
    since: str = ""
    """The version with a training score if it is not the present one: " at its version 3 ..."."""


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Fresh samples of one version of one member, such as episodes of an agent."""

    member: int
    """The member's number."""
    version: int
    """Version of its checkpoint."""
    agent_steps: int
    """Steps that it was trained for."""
    returns: tuple[float, ...]
    """Score of each sample: of an episode its raw, undiscounted return."""
    lengths: tuple[int, ...]
    """Length of each episode in agent steps; empty for other samples."""
    protocol: str
    """What was played and how, in words."""
    samples: str = "episodes"
    """Plural of what a sample is called."""
    steps: str = "agent steps"
    """Plural of what a step is called."""
    whole: float | None = None
    """Score of all samples together, if that is not the mean of their scores."""
    ends: tuple[float, float] | None = None
    """95 % bootstrap interval of `whole`."""

    @property
    def mean(self) -> float:
        """Return the score: the mean of the samples, unless they have one of all together."""
        return float(np.mean(self.returns)) if self.whole is None else self.whole

    def interval(self) -> tuple[float, float] | None:
        """Return the 95 % bootstrap interval of the score. A single sample has none."""
        if self.ends is not None:
            return self.ends
        if len(self.returns) == 1:
            return None
        return aggregates.interval(self.returns, np.mean)

    def text(self) -> str:
        """Return the score and its protocol as printed."""
        how = "mean of" if self.whole is None else "over"
        return (
            f"member {self.member}, version {self.version}, {self.agent_steps:,} {self.steps}: "
            f"{wording.score(self.mean)} ({how} {len(self.returns)} fresh {self.samples}; "
            f"95 % interval {wording.interval(self.interval())}; "
            f"from {min(self.returns):g} to {max(self.returns):g})\n"
            f"protocol: {self.protocol}"
        )

    def to_json(self) -> dict[str, Any]:
        """Return all fields, the mean and the interval as JSON."""
        return dataclasses.asdict(self) | {"mean": self.mean, "interval_95": self.interval()}


def evaluation_path(run_dir: Path, member: Member) -> Path:
    """Return the path of the file of fresh episodes of a member's present version."""
    return run_dir / "report" / f"evaluation-{member.id:02d}-{member.version}.json"


def write_evaluation(run_dir: Path, member: Member, played: Mapping[str, Any]) -> Path:
    """Write the fresh episodes of a member's present version to `evaluation_path`.

    Args:
        run_dir: Directory of the run.
        member: The member that played.
        played: Result of `Evaluation.to_json`.

    Returns:
        Path of the file.
    """
    path = evaluation_path(run_dir, member)
    path.parent.mkdir(exist_ok=True)
    files.replace(path, json.dumps(played, indent=2) + "\n")
    return path


def best_score(history: History, run_dir: Path) -> Score | None:
    """Return the score of the best member, from fresh episodes if they were played.

    It is None before any member has a score.
    """
    if history.best is None:
        return None
    return _fresh(evaluation_path(run_dir, history.best)) or training_score(history)


def training_score(history: History) -> Score | None:
    """Return the training score of the best member; None before any member has one."""
    if history.best is None:
        return None
    newest = history.tree.newest(history.best.id)
    mean, earned = history.tree.scores[newest], history.tree.earned[newest]
    assert mean is not None  # it is the best
    assert earned is not None
    since = ""
    if earned != newest:
        owner = "its" if earned[0] == newest[0] else f"member {earned[0]}'s, its donor's,"
        since = f" at {owner} version {earned[1]} (too few have ended since)"
    return Score(mean, is_fresh=False, episodes=history.config.window, since=since)


def _fresh(path: Path) -> Score | None:
    """Read what `experiments.evaluate` saved; None without such a file."""
    try:
        played = json.loads(path.read_text(encoding="utf-8"))
        ends = [float(end) for end in played["interval_95"] or ()]
        mean, episodes, protocol = (
            float(played["mean"]),
            len(played["returns"]),
            str(played["protocol"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if len(ends) not in (0, 2) or not all(map(math.isfinite, (mean, *ends))):
        return None
    is_mean = played.get("whole") is None
    # Files of before wrote an interval without width for a single episode.
    has_interval = len(ends) == 2 and not (is_mean and episodes == 1)
    interval = (ends[0], ends[1]) if has_interval else None
    return Score(mean, True, episodes, interval, is_mean, protocol)
