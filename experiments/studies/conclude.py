"""Evaluate a finished run of a study and write its outcome."""

from pathlib import Path

from experiments.analysis import history, outcome, scores
from experiments.members import evaluation
from pbt import store

EVALUATION_SEED = 1_000
"""Seed of the fresh episodes minus the run's seed. No environment of training has that sum."""

SELECTION_SEED = 3_000
"""The same for the episodes that choose the best member."""


def conclude(run_dir: Path) -> outcome.Outcome:
    """Choose and score a finished run's best member by fresh episodes, and write the outcome.

    The episodes are also saved where reports and comparisons look for them, unless some are there.

    Raises:
        ValueError: No member has a score.
    """
    with store.Store.open(run_dir) as run_store:
        best = evaluation.select(run_store, run_dir, SELECTION_SEED + run_store.config.seed)
        seed = EVALUATION_SEED + run_store.config.seed
        played = evaluation.evaluate(run_store, run_dir, best, outcome.EPISODES, seed)
        if not scores.evaluation_path(run_dir, best).exists():
            scores.write_evaluation(run_dir, best, played.to_json())
        found = outcome.of(
            history.History.read(run_store, run_dir.name), played.mean, played.protocol
        )
    outcome.write(run_dir, found)
    return found
