"""Conclude a finished run of a study: play fresh episodes, and write its outcome down once."""

import collections
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from experiments.analysis import curves, files, schedule, scores
from experiments.members import evaluation
from experiments.studies.outcome import EPISODES, FILE_NAME, Outcome
from pbt import lineage, run, store
from pbt.records import Member, Version

EVALUATION_SEED = 1_000
"""Seed of the fresh episodes, plus the run's seed; no environment of training has it."""


def conclude(run_dir: Path) -> Outcome:
    """Evaluate a finished run and write down what came of it.

    Raises:
        ValueError: no member of it has a score.
    """
    with store.Store.open(run_dir) as run_store:
        best, training_score = evaluation.best_member(run_store)
        seed = EVALUATION_SEED + run_store.config.seed
        played = evaluation.evaluate(run_store, run_dir, best, EPISODES, seed)
        if not scores.evaluation_path(run_dir, best).exists():  # it is written once, by whomever
            scores.write_evaluation(run_dir, best, played.to_json())
        outcome = _outcome(run_store, best, training_score, played)
    files.replace(run_dir / FILE_NAME, json.dumps(outcome.to_json(), indent=1) + "\n")
    return outcome


def _outcome(
    run_store: store.Store, best: Member, training_score: float, played: evaluation.Evaluation
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
