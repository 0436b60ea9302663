"""`Outcome`: what a study keeps of a finished run, written once into its directory.

`outcome.json` is a projection like all others: delete it, and it is made again from the run. It is
made of the store, and of fresh episodes of the member with the best training score. These are
written where reports and comparisons find them, too (`experiments.scores`).
"""

import collections
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments import evaluate, schedule, scores
from experiments.pages import curves
from pbt import lineage, run, store
from pbt.member import Member, Version

FILE_NAME = "outcome.json"
EPISODES = 30
"""Fresh ones per run."""
EVALUATION_SEED = 1_000
"""Plus the run's seed: no world of training has it."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """A finished run, of which nothing more is to be known."""

    member: int
    """Chosen by training score."""
    training_score: float
    """Biased upward: it chose the member."""
    score: float
    """Mean of `EPISODES` fresh episodes of that member."""
    median_training_score: float
    """Of all members."""
    agent_steps: int
    """Of all members together."""
    seconds: float
    """Of training, summed over the members."""
    decisions: dict[str, int]
    """How often members copied, compared without copying, diverged, ..., by the kind of event."""
    protocol: str
    """How the fresh episodes were played."""
    curve: tuple[tuple[int, float | None, float | None], ...]
    """(agent steps per member, best and median training score of the members then)."""
    schedule: tuple[dict[str, float], ...]
    """Of the winner, through its lineage, as `experiments.schedule` has it."""

    def to_json(self) -> dict[str, Any]:
        """A JSON mapping that `from_json` takes back."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Outcome":
        """Inverse of `to_json`."""
        curve = tuple((row[0], row[1], row[2]) for row in values["curve"])
        return cls(**{**values, "curve": curve, "schedule": tuple(values["schedule"])})


def read(run_dir: Path) -> Outcome | None:
    """What is known of a run; None if it has not come to its end here."""
    try:
        return Outcome.from_json(json.loads((run_dir / FILE_NAME).read_text()))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def conclude(run_dir: Path) -> Outcome:
    """Evaluate a finished run and write down what came of it.

    Raises:
        ValueError: no member of it has a score.
    """
    with store.Store.open(run_dir) as run_store:
        best, training_score = evaluate.best_member(run_store)
        seed = EVALUATION_SEED + run_store.config.seed
        played = evaluate.evaluate(run_store, run_dir, best, EPISODES, seed)
        if not scores.evaluation_path(run_dir, best).exists():  # it is written once, by whomever
            scores.write_evaluation(run_dir, best, played.to_json())
        outcome = _outcome(run_store, best, training_score, played)
    partial = run_dir / f".{FILE_NAME}.partial"
    partial.write_text(json.dumps(outcome.to_json(), indent=1) + "\n")
    partial.replace(run_dir / FILE_NAME)
    return outcome


def _outcome(
    run_store: store.Store, best: Member, training_score: float, played: evaluate.Evaluation
) -> Outcome:
    members, versions, events = run_store.members(), run_store.versions(), run_store.events()
    config = run_store.config
    tree = lineage.Tree(versions, config.copy)
    training = [tree.scores[tree.newest(member.id)] for member in members]
    return Outcome(
        member=best.id,
        training_score=training_score,
        score=played.mean,
        median_training_score=float(np.median([score for score in training if score is not None])),
        agent_steps=sum(member.agent_steps for member in members),
        seconds=sum(report.seconds for _, report in run_store.reports()),
        decisions=dict(collections.Counter(event.kind for event in events)),
        protocol=played.protocol,
        curve=_curve(versions, config.report_interval, config.total_steps),
        schedule=tuple(schedule.of_run(run_store, best.id).to_json()) if _varied(config) else (),
    )


def _curve(
    versions: Sequence[Version], interval: int, total_steps: int
) -> tuple[tuple[int, float | None, float | None], ...]:
    """Best and median training score of all members when each had so many agent steps.

    Of the scores that a member earned by training, whatever it copied since.
    """
    earned: dict[int, list[tuple[int, float]]] = {version.member: [] for version in versions}
    for version in sorted(versions, key=lambda version: version.version):
        if version.score is not None:
            earned[version.member].append((version.agent_steps, version.score))
    at = [*range(interval, total_steps, interval), total_steps]
    # A slice ends up to one update after its interval.
    steps = np.array(at) + (interval - 1) / 2
    found = curves.PopulationCurves(
        steps, np.array([curves.in_force(steps, *curves.standing(own)) for own in earned.values()])
    )
    return tuple(
        (step, None, None) if np.isnan(best) else (step, float(best), float(median))
        for step, best, median in zip(at, found.best, found.median, strict=True)
    )


def _varied(config: run.RunConfig) -> bool:
    """Whether the run's hyperparameters are of its own finding."""
    return bool(config.space.adapt)
