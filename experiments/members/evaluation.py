"""Choose the best member of a run, and score any member by fresh samples of its last checkpoint.

`select` chooses the best member of a finished run by fresh samples of the few with the highest
training scores. Other fresh samples score it. They had no part in the choice, so their mean is
unbiased. A sample is what the run's learners are compared by, such as an episode of an agent.
"""

from pathlib import Path

from experiments.analysis import scores, selection
from experiments.members import episodes
from pbt import lineage, store
from pbt.records import Member


def best_member(run_store: store.Store) -> Member:
    """Return the run's best member; see `experiments.analysis.selection`.

    Raises:
        ValueError: No member has finished enough episodes for a score.
    """
    members = run_store.members()
    tree = lineage.Tree(run_store.versions(), run_store.config.copy)
    chosen = selection.read(run_store.path.parent, members)
    best = selection.best_member(chosen, members, tree)
    if best is None:
        raise ValueError(
            f"{run_store.path.parent}: no member has a score yet, which takes "
            f"{run_store.config.min_episodes} finished episodes since its last copy; train on with "
            "a larger --total-steps, or evaluate one by its number"
        )
    return best


def select(run_store: store.Store, run_dir: Path, seed: int) -> Member:
    """Choose the best member of a finished run by fresh samples, once, and write the choice.

    Args:
        run_store: The run.
        run_dir: The run's directory.
        seed: Seed of the samples. Take another one for the samples that score the winner.

    Returns:
        The best member. With a single candidate nothing is played.

    Raises:
        ValueError: No member has finished enough episodes for a score.
        pbt.checkpoint.CheckpointError: A checkpoint is damaged.
    """
    members = run_store.members()
    tree = lineage.Tree(run_store.versions(), run_store.config.copy)
    candidates = selection.ranked(members, tree)[: selection.CANDIDATES]
    if len(candidates) > 1 and selection.read(run_dir, members) is None:
        played = [
            selection.Candidate(
                member.id,
                member.version,
                score,
                evaluate(run_store, run_dir, member, selection.EPISODES, seed).mean,
            )
            for member, score in candidates
        ]
        selection.write(run_dir, selection.Selection(tuple(played)))
    return best_member(run_store)


def evaluate(
    run_store: store.Store, run_dir: Path, member: Member, samples: int, seed: int
) -> scores.Evaluation:
    """Score a member's last checkpoint by fresh samples.

    Args:
        run_store: The run.
        run_dir: The run's directory.
        member: The member.
        samples: Number of samples. Episodes are rounded up to equally many in every environment.
        seed: Seed of the samples, independent of the run's.

    Raises:
        ValueError: The member has no checkpoint, or it does not fit the run, or the run's learners
            are not the suite's.
        pbt.checkpoint.CheckpointError: Its checkpoint is damaged.
    """
    return episodes.play(run_store, run_dir, member, samples, seed)
