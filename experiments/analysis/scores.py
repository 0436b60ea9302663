"""The score of a run: from fresh episodes if they were played, else from training."""

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
    """What the best member of a run is worth."""

    mean: float
    is_fresh: bool
    """From fresh episodes, which nothing was chosen by; otherwise the mean of the training
    episodes that chose the member, biased upward."""
    episodes: int
    interval: tuple[float, float] | None = None
    """95 % of the mean over the fresh episodes of this one member: says nothing of other seeds."""
    protocol: str | None = None
    """How the fresh episodes were played."""
    since: str = ""
    """Of a training score that is not of the member's present version: whose it is: " at ..."."""


def evaluation_path(run_dir: Path, member: Member) -> Path:
    """Where the fresh episodes of a member's present version are written, once."""
    return run_dir / "report" / f"evaluation-{member.id:02d}-{member.version}.json"


def write_evaluation(run_dir: Path, member: Member, played: Mapping[str, Any]) -> Path:
    """Write down fresh episodes of a member's present version; a reader sees all or nothing.

    Args:
        run_dir: Of the run.
        member: Who played.
        played: `experiments.evaluate.Evaluation.to_json`.
    """
    path = evaluation_path(run_dir, member)
    path.parent.mkdir(exist_ok=True)
    files.replace(path, json.dumps(played, indent=2) + "\n")
    return path


def best_score(history: History, run_dir: Path) -> Score | None:
    """The score of the member chosen by training score; None before anybody has one."""
    if history.best is None:
        return None
    return _fresh(evaluation_path(run_dir, history.best)) or training_score(history)


def training_score(history: History) -> Score | None:
    """The score that chose the best member; None before anybody has one."""
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
    """What `experiments.evaluate` found; None if it did not, or the file is not its own."""
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
