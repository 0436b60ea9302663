"""Choose the best member of a run, and score any member by fresh samples of its last checkpoint.

`select` chooses the best member of a finished run by fresh samples of the few with the highest
training scores. Other fresh samples score it. They had no part in the choice, so their mean is
unbiased. A sample is what the run's learners are compared by, such as an episode of an agent.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np

from experiments.analysis import scores, selection, tasks, units
from experiments.members import actor, episodes, gan, learner, translation
from experiments.members import trust as rules
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
            f"{run_store.config.min_episodes} {units.of(run_store.config).many} since its last "
            "copy; train on with a larger --total-steps, or evaluate one by its number"
        )
    return best


def find(run_store: store.Store, member: int | None) -> Member:
    """Return a member of a run by its number, or the best one for None.

    Raises:
        ValueError: There is no member of that number, or no member has a score yet.
    """
    if member is None:
        return best_member(run_store)
    population = run_store.config.population
    if not 0 <= member < population:
        raise ValueError(
            f"member {member}: use a number from 0 to {population - 1}, or leave it out for the "
            "best one"
        )
    return run_store.member(member)


def load_agent(
    run_store: store.Store, run_dir: Path, member: int | None, *, trust: bool, seed: int
) -> tuple[Member, actor.Agent, learner.LearnerConfig]:
    """Find a member and load its agent, unless its environment is code to be refused.

    Args:
        run_store: The run.
        run_dir: The run's directory.
        member: Number of the member; None for the best one.
        trust: Whether to accept an environment of other code than the suite's and Gymnasium's.
        seed: Seed of the actions that the agent will sample.

    Returns:
        The member, its agent, and the agent's settings; see `episodes.load_agent`.

    Raises:
        ValueError: There is no such member, or it has no checkpoint; the run names an environment
            of foreign code; or its members are no agents of the suite.
        pbt.checkpoint.CheckpointError: The checkpoint is damaged.
    """
    if not trust:
        rules.check(run_store, episodes.learner_config(run_store).env_id)
    found = find(run_store, member)
    return found, *episodes.load_agent(run_store, run_dir, found, seed)


def select(
    run_store: store.Store,
    run_dir: Path,
    seed: int,
    announce: Callable[[str], object] = lambda line: None,
) -> Member:
    """Choose the best member of a finished run by fresh samples, once, and write the choice.

    Args:
        run_store: The run.
        run_dir: The run's directory.
        seed: Seed of the samples. Take another one for the samples that score the winner.
        announce: Called with one line before samples are made, since they take a while.

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
        announce(
            f"choosing the best of {len(candidates)} members by {selection.EPISODES} fresh "
            f"{units.of(run_store.config).many} each"
        )
        played = [
            selection.Candidate(
                member.id,
                member.version,
                score,
                evaluate(run_store, run_dir, member, selection.EPISODES, seed, final=False).mean,
            )
            for member, score in candidates
        ]
        selection.write(run_dir, selection.Selection(tuple(played)))
    return best_member(run_store)


def evaluate(
    run_store: store.Store,
    run_dir: Path,
    member: Member,
    samples: int,
    seed: int,
    final: bool = True,
    deterministic: bool = False,
) -> scores.Evaluation:
    """Score a member's last checkpoint by fresh samples.

    Translators are scored by test sentences with beam search, all of a text's and 1,000 of
    generated ones. To choose a member they translate validation sentences greedily. GANs are scored
    by fresh images, in splits of the same size as in training.

    Args:
        run_store: The run.
        run_dir: The run's directory.
        member: The member.
        samples: Number of samples. Episodes are rounded up to equally many in every environment.
        seed: Seed of the samples, independent of the run's.
        final: Whether the score is a result. Otherwise it chooses a member.
        deterministic: Whether agents take their most likely actions and do not sample them. Other
            learners ignore it.

    Raises:
        ValueError: The member has no checkpoint, or it does not fit the run, or the run's learners
            are not the suite's.
        pbt.checkpoint.CheckpointError: Its checkpoint is damaged.
    """
    if tasks.trained(run_store.config) == tasks.TRANSLATION:
        return _translate(run_store, run_dir, member, samples, seed, final)
    if tasks.trained(run_store.config) == tasks.GAN:
        return _generate(run_store, run_dir, member, samples, seed)
    return episodes.play(run_store, run_dir, member, samples, seed, deterministic)


def _translate(
    run_store: store.Store, run_dir: Path, member: Member, samples: int, seed: int, final: bool
) -> scores.Evaluation:
    config = translation.TranslationConfig.from_json(tasks.own_config(run_store.config.task_config))
    size, words = config.evaluation_sentences, units.TRANSLATORS
    found = translation.score(
        episodes.opened(run_store, run_dir, member),
        dataclasses.replace(config, device="cpu"),
        "test" if final else "validation",
        seed,
        translation.BEAM if final else 1,
        None if final else samples * size,
    )
    rows = found.statistics
    drawn = np.random.default_rng(0).integers(len(rows), size=(1_000, len(rows)))
    statistics = np.array(rows)
    resampled = [translation.bleu_of(statistics[one]) for one in drawn]
    low, high = np.percentile(resampled, (2.5, 97.5))
    return scores.Evaluation(
        member.id,
        member.version,
        member.agent_steps,
        tuple(translation.bleu_of(rows[at : at + size]) for at in range(0, len(rows), size)),
        (),
        f"{translation.describe(config)}; BLEU of {found.sentences:,} {found.split} sentences, "
        f"beam {found.beam}, {found.signature}; evaluation seed {seed}, "
        f"exact match {found.exact_match:.1%}",
        words.many,
        words.steps,
        found.bleu,
        (float(low), float(high)),
    )


def _generate(
    run_store: store.Store, run_dir: Path, member: Member, splits: int, seed: int
) -> scores.Evaluation:
    config = gan.GANConfig.from_json(tasks.own_config(run_store.config.task_config))
    size, words = config.samples // config.splits, units.GANS
    found = gan.score(
        episodes.opened(run_store, run_dir, member),
        dataclasses.replace(config, device="cpu", splits=splits, samples=splits * size),
        seed,
        run_dir,
    )
    return scores.Evaluation(
        member.id,
        member.version,
        member.agent_steps,
        found.splits,
        (),
        f"{gan.describe(config)}; Inception score of splits of {size:,} fresh images, "
        f"{found.held_out_score:.2f} for held-out real ones; classifier with "
        f"{found.classifier_accuracy:.1%} of held-out images right; evaluation seed {seed}, "
        f"Frechet distance {found.frechet:.2f} of {found.compared:,} images to as many held-out "
        "ones",
        words.many,
        words.steps,
    )
