"""Play fresh episodes with an agent's last checkpoint.

Actions are sampled from the policy, as in training, or are the most likely ones.
"""

import contextlib
import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from envs import make
from experiments.analysis import scores, tasks, wording
from experiments.members import actor, learner, tensors
from pbt import owner, records, storage, store
from pbt.records import Member

Transition = actor.Transition
_PIN_S = 60.0
"""Seconds for which a checkpoint is kept while it is loaded, though its member trains on."""
MAX_PARALLEL = 32
"""Largest number of environments stepped together; of large ones, as many as in training. Each
plays the same number of episodes, since the first episodes to finish are the shortest."""


def play(
    run_store: store.Store,
    run_dir: Path,
    member: Member,
    episodes: int,
    seed: int,
    deterministic: bool = False,
) -> scores.Evaluation:
    """Play `episodes` fresh episodes with a member's last checkpoint.

    Args:
        run_store: The run.
        run_dir: The run's directory.
        member: The member.
        episodes: Number of episodes, rounded up to equally many in every parallel environment.
        seed: Seed of environments and actions, independent of the run's.
        deterministic: Whether actions are the most likely ones and not samples.

    Raises:
        ValueError: The member has no checkpoint, or it does not fit the run's agent.
        pbt.checkpoint.CheckpointError: Its checkpoint is damaged.
    """
    agent, learner_config = load_agent(run_store, run_dir, member, seed)
    agent.deterministic = deterministic
    slots, quota = _shares(learner_config, episodes)
    try:
        played = [
            (episode_return, length)
            for _, finished in fresh_steps(agent, learner_config, episodes, seed)
            for _, episode_return, length in finished
        ]
    except RuntimeError as error:  # torch's, of weights so large that the policy overflows
        raise ValueError(f"member {member.id} cannot be played: {error}") from error
    returns, lengths = zip(*played, strict=True)
    chosen = "most likely actions" if deterministic else "actions sampled from the policy"
    protocol = (
        f"{make.protocol(learner_config.env_id, preset=learner_config.preset)}; {chosen}; "
        f"{wording.counted(quota, 'episode')} in each of {wording.counted(slots, 'environment')}; "
        f"raw undiscounted returns; evaluation seed {seed}"
    )
    return scores.Evaluation(
        member.id, member.version, member.agent_steps, returns, lengths, protocol
    )


def fresh_steps(
    agent: actor.Agent, config: learner.LearnerConfig, episodes: int, seed: int
) -> Iterator[tuple[Transition, list[tuple[int, float, int]]]]:
    """Play fresh episodes, equally many in every parallel environment.

    Args:
        agent: The agent that plays.
        config: Its environments.
        episodes: Number of episodes, rounded up.
        seed: Seed of the environments.

    Yields:
        Each step of all environments, with the slot, return and length of the episodes that ended
        in it and count.
    """
    slots, quota = _shares(config, episodes)
    envs = make.make_vec(config.env_id, slots, preset=config.preset)
    try:
        player = actor.Actor(agent, envs, config.clip_rewards, config.reward_scale)
        player.reset(
            [int(s) & 0x7FFFFFFF for s in np.random.SeedSequence(seed).generate_state(slots)]
        )
        played = np.zeros(slots, dtype=np.int64)
        while (played < quota).any():
            transition = player.step()
            counted = []
            for slot, episode_return, length in transition.finished:
                if played[slot] < quota:
                    played[slot] += 1
                    counted.append((slot, episode_return, length))
            yield transition, counted
    finally:
        envs.close()


def _shares(config: learner.LearnerConfig, episodes: int) -> tuple[int, int]:
    """Return the number of environments, and of the episodes of each."""
    is_large = make.describe(config.env_id, preset=config.preset).is_large
    # As many as the machine of the run could hold.
    slots = min(episodes, config.num_envs if is_large else MAX_PARALLEL, MAX_PARALLEL)
    return slots, math.ceil(episodes / slots)


def learner_config(run_store: store.Store) -> learner.LearnerConfig:
    """Return the agent and environments of a run's members.

    Raises:
        ValueError: The run does not train the suite's agents.
    """
    stored = run_store.config
    if tasks.current(stored.task) not in (tasks.LEARNER, tasks.SCHEDULED):
        raise ValueError(
            f"{run_store.path.parent} trains {stored.task}: only runs of the suite's agents "
            f"({tasks.LEARNER}) can be played or replayed"
        )
    try:
        return learner.LearnerConfig.from_json(stored.task_config)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{run_store.path.parent} holds no settings of the suite's agents: {error!r}"
        ) from error


def opened(run_store: store.Store, run_dir: Path, member: Member) -> Path:
    """Return the directory of a member's last checkpoint, kept for a minute though it trains on.

    Raises:
        ValueError: The member has no checkpoint.
        pbt.checkpoint.CheckpointError: Its checkpoint is damaged.
    """
    if member.checkpoint is None:
        raise ValueError(f"member {member.id} has no checkpoint yet: let it train one interval")
    if records.may_go_on(member, run_store.config):  # else nothing supersedes its checkpoint
        with contextlib.suppress(store.StoreError):  # read-only, so no worker deletes it
            run_store.pin(member.checkpoint, owner.current(), _PIN_S)
    return storage.of(run_dir).open_verified(member.checkpoint, member.id, member.version)


def load_agent(
    run_store: store.Store, run_dir: Path, member: Member, seed: int
) -> tuple[actor.Agent, learner.LearnerConfig]:
    """Return a member's agent as in its last checkpoint, on the CPU, and its settings.

    A FeUdal agent sets itself no random goals any more, which are for exploring while it trains.

    Args:
        run_store: The run.
        run_dir: The run's directory.
        member: The member.
        seed: Seed of the actions that the agent will sample.

    Raises:
        ValueError: The member has no checkpoint, or it does not fit the run's agent.
        pbt.checkpoint.CheckpointError: Its checkpoint is damaged.
    """
    trained = learner_config(run_store)
    played = dataclasses.replace(
        trained,
        device="cpu",  # any machine can evaluate, wherever the run was trained
        feudal_settings=dataclasses.replace(trained.feudal_settings, random_goals=0.0),
    )
    directory = opened(run_store, run_dir, member)
    agent = learner.make_agent(played, make.describe(played.env_id, preset=played.preset), seed)
    state = tensors.load_state(directory)
    # `make_agent` has seeded the generator; the checkpoint's must not replace it.
    agent.load_state_dict(state | {"generator": agent.generator.get_state()})
    return agent, played
