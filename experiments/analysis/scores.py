"""The score of a run, from fresh episodes if they were played, else from training."""

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.analysis import files
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
    """95 % interval of the mean over the fresh episodes of this member; it covers no other seed."""
    protocol: str | None = None
    """How the fresh episodes were played, in words."""
    since: str = ""
    """The version with a training score if it is not the present one: " at its version 3 ..."."""


def evaluation_path(run_dir: Path, member: Member) -> Path:
    """Return the path of the file of fresh episodes of a member's present version."""
    return run_dir / "report" / f"evaluation-{member.id:02d}-{member.version}.json"


def write_evaluation(run_dir: Path, member: Member, played: Mapping[str, Any]) -> Path:
    """Write the fresh episodes of a member's present version to `evaluation_path`.

    Args:
        run_dir: Directory of the run.
        member: The member that played.
        played: Result of `experiments.members.evaluation.Evaluation.to_json`.

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
        low, high = (float(end) for end in played["interval_95"])
        mean, episodes, protocol = (
            float(played["mean"]),
            len(played["returns"]),
            str(played["protocol"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not all(map(math.isfinite, (mean, low, high))):
        return None
    return Score(mean, True, episodes, (low, high), protocol)
