"""`Outcome`: what tables, figures and pages need to know of a run.

A study writes the outcome of a finished run once, as `outcome.json` in the run's directory. It can
be deleted and made again from the run.
"""

import collections
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from experiments.analysis import curves, files
from experiments.analysis.history import History
from pbt import records

FILE_NAME = "outcome.json"
EPISODES = 30
"""Fresh episodes that score a run of a study."""

Curve = tuple[tuple[int, float | None, float | None], ...]
"""Agent steps per member, then the best and the median training score of the members."""
Schedule = tuple[dict[str, float], ...]
"""Rows with `agent_steps` and one value per hyperparameter, as in `experiments.analysis.schedule`.
"""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Results of a run; those of the best member are None before any member has a score."""

    member: int | None
    """Number of the best member; see `experiments.analysis.selection`."""
    training_score: float | None
    """Its training score, biased upward because it was chosen by it, alone or with others."""
    score: float | None
    """Mean return of fresh episodes of that member. None if none were played."""
    median_training_score: float | None
    """Median over all members."""
    agent_steps: int
    """Agent steps of all members together."""
    seconds: float
    """Seconds of training, summed over the members."""
    decisions: dict[str, int]
    """Number of events by kind: copies, comparisons without a copy, divergences, ..."""
    protocol: str
    """How the fresh episodes were played."""
    curve: Curve
    """One row per report interval that all members have reached."""
    schedule: Schedule
    """Hyperparameters behind the best member's weights. Empty if nothing adapts or schedules them.
    """

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Outcome":
        """Return the outcome that `dataclasses.asdict` made these JSON values of."""
        curve = tuple((row[0], row[1], row[2]) for row in values["curve"])
        return cls(**{**values, "curve": curve, "schedule": tuple(values["schedule"])})


def of(history: History, score: float | None, protocol: str) -> Outcome:
    """Return the outcome of a run, which may still be training.

    Args:
        history: The run.
        score: Mean return of fresh episodes of its best member, if any were played.
        protocol: How these episodes were played.
    """
    config, tree, best = history.config, history.tree, history.best
    newest = {member.id: tree.scores[tree.newest(member.id)] for member in history.members}
    known = [found for found in newest.values() if found is not None]
    training = records.unfinished(history.members, config)
    reached = min((member.agent_steps for member in training), default=config.total_steps)
    is_scheduled = config.space.adapt or history.followed is not None
    return Outcome(
        member=None if best is None else best.id,
        training_score=None if best is None else newest[best.id],
        score=score,
        median_training_score=float(np.median(known)) if known else None,
        agent_steps=sum(member.agent_steps for member in history.members),
        seconds=sum(report.seconds for report in history.reports),
        decisions=dict(collections.Counter(event.kind for event in history.events)),
        protocol=protocol,
        curve=tuple(
            row
            for row in curves.best_and_median(
                history.versions, config.report_interval, config.total_steps
            )
            if row[0] <= reached
        ),
        schedule=tuple(
            {"agent_steps": row.agent_steps, **row.hyperparameters}
            for row in (history.schedule if is_scheduled else ())
        ),
    )


def write(run_dir: Path, found: Outcome) -> None:
    """Write a run's outcome into its directory."""
    files.replace(run_dir / FILE_NAME, json.dumps(dataclasses.asdict(found), indent=1) + "\n")


def read(run_dir: Path) -> Outcome | None:
    """Return the outcome in a run's directory, or None if there is none that can be read."""
    try:
        return parse((run_dir / FILE_NAME).read_text())
    except (OSError, ValueError):
        return None


def parse(text: str) -> Outcome | None:
    """Return the outcome that a file's text holds, or None if it is damaged."""
    try:
        return Outcome.from_json(json.loads(text))
    except (ValueError, KeyError, TypeError):
        return None
