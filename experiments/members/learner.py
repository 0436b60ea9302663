"""Train an agent in its environments behind the engine's interface, `pbt.task.Task`."""

import contextlib
import dataclasses
import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import gymnasium
import numpy as np
import torch

from agents import a3c, actor_critic, feudal, frames, ppo, rollout, unreal
from envs import make
from experiments.analysis import tasks
from experiments.members import actor, tensors
from pbt import checkpoint, task

_LOG = logging.getLogger(__name__)

VectorEnv = gymnasium.vector.VectorEnv[Any, Any, Any]

AgentName = Literal["a3c", "ppo", "unreal", "unreal-ppo", "feudal"]

TASK = tasks.LEARNER
FORMAT_VERSION = 1
"""Format of the files that `AgentTask.save` writes."""


@dataclasses.dataclass(frozen=True)
class LearnerConfig:
    """A member's agent and environments. A run stores it as its `task_config`."""

    env_id: str
    """Any id that `envs.make.make_vec` takes."""
    num_envs: int
    """Number of environments stepped together (B)."""
    preset: str = "a3c2016"
    """Protocol of an Atari game; other environments ignore it."""
    agent: AgentName = "a3c"
    """Agent. "unreal" is A3C with UNREAL's auxiliary tasks, "unreal-ppo" PPO with them, "feudal" a
    FeUdal Network."""
    settings: actor_critic.AgentConfig = dataclasses.field(default_factory=actor_critic.AgentConfig)
    """Fixed settings of the agent."""
    ppo_settings: ppo.PPOConfig = dataclasses.field(default_factory=ppo.PPOConfig)
    """Fixed settings of PPO; the agents without it ignore them."""
    auxiliary: unreal.UNREALConfig = dataclasses.field(default_factory=unreal.UNREALConfig)
    """Fixed settings of UNREAL's auxiliary tasks; the agents without them ignore them."""
    feudal_settings: feudal.FeudalConfig = dataclasses.field(default_factory=feudal.FeudalConfig)
    """Fixed settings of FeUdal Networks; the other agents ignore them."""
    clip_rewards: bool = False
    """Whether the agent learns from rewards clipped to [-1, 1], as on Atari. Scores stay raw."""
    reward_scale: float = 1.0
    """Factor of the rewards to learn from, applied before any clipping. Scores stay raw."""
    device: str = "cpu"
    """Torch device of the network."""
    max_rebuilds: int = 3
    """Number of failures in a row after which the environments are built again. The next failure
    fails the member."""

    def to_json(self) -> dict[str, Any]:
        """Return a JSON mapping that `from_json` takes back.

        Settings that were added later are left out at their default, so that older runs with the
        same settings compare equal.
        """
        values = dataclasses.asdict(self)
        if self.agent not in ("ppo", "unreal-ppo"):
            del values["ppo_settings"]
        if self.agent != "feudal":
            del values["feudal_settings"]
        if self.settings.precision == "float32":
            del values["settings"]["precision"]
        return values

    @classmethod
    def from_json(cls, config: Mapping[str, Any]) -> "LearnerConfig":
        """Return the settings that `to_json` wrote. A replay's schedule beside them is ignored."""
        parts = {
            "settings": actor_critic.AgentConfig(**config["settings"]),
            "ppo_settings": ppo.PPOConfig(**config.get("ppo_settings", {})),
            "auxiliary": unreal.UNREALConfig(**config.get("auxiliary", {})),
            "feudal_settings": feudal.FeudalConfig(**config.get("feudal_settings", {})),
        }
        own = {name: value for name, value in config.items() if name != "schedule"}
        return cls(**{**own, **parts})

    def check_unroll_length(self, shortest: int, longest: int) -> None:
        """Refuse an unroll that the agent's replay cannot hold, or that is short of its horizon.

        Args:
            shortest: Least unroll length, in steps of all environments.
            longest: Largest unroll length, in steps of all environments.

        Raises:
            ValueError: It does not fit; the message names settings that do.
        """
        if self.agent == "feudal":
            feudal.check_unroll(self.feudal_settings, shortest)
        if self.agent in ("unreal", "unreal-ppo"):
            spec = make.describe(self.env_id, preset=self.preset)
            shape = spec.single_observation_space.shape
            assert shape is not None  # UNREAL refuses observations of several parts
            stack = shape[0] // spec.frame_channels
            unreal.check_replay(self.auxiliary.replay_steps, self.num_envs, longest, stack)

    def __post_init__(self) -> None:
        if not 0 < self.reward_scale < math.inf:
            raise ValueError(f"reward_scale {self.reward_scale}: use a number above 0")


def round_half_up(value: float) -> int:
    """Return the nearest whole number from 1 on, as `pbt.space.IntUniform` shows it.

    Python's `round` would turn 2.5 into 2.
    """
    return max(1, math.floor(value + 0.5))


def make_task(config: Mapping[str, Any], member: int, seed: int) -> "AgentTask":
    """Build a member's learner. Runs store this factory's name, `TASK`.

    Args:
        config: `LearnerConfig` as JSON.
        member: The member's number.
        seed: Seed of initial weights, sampled actions and environments.
    """
    return AgentTask(LearnerConfig.from_json(config), member, seed)


def make_agent(config: LearnerConfig, envs: VectorEnv | make.EnvSpec, seed: int) -> actor.Agent:
    """Return an untrained agent that fits the environments. Its learning rate is a placeholder.

    Args:
        config: The agent, its settings and its device.
        envs: Environments with the agent's spaces, or their description.
        seed: Seed of initial weights and sampled actions.

    Raises:
        ValueError: The agent does not fit these environments.
    """
    obs_shape, size = actor.obs_shape(envs), actor.action_size(envs)
    continuous = isinstance(envs.single_action_space, gymnasium.spaces.Box)
    device, rate = config.device, 1e-4
    if config.agent == "feudal":
        return feudal.Feudal(
            obs_shape, size, continuous, config.settings, config.feudal_settings, rate, seed, device
        )
    base: actor_critic.FlatAgent
    if config.agent in ("ppo", "unreal-ppo"):
        base = ppo.PPO(
            obs_shape, size, continuous, config.settings, config.ppo_settings, rate, seed, device
        )
    else:
        base = a3c.A3C(obs_shape, size, continuous, config.settings, rate, seed, device)
    if config.agent in ("a3c", "ppo"):
        return base
    frame_channels = make.describe(config.env_id, preset=config.preset).frame_channels
    return unreal.UNREAL(base, obs_shape, size, continuous, config.auxiliary, seed, frame_channels)


class AgentTask:
    """An actor-critic agent in `num_envs` parallel environments. Implements `pbt.task.Task`.

    The hyperparameters are `learning_rate`, `unroll_length`, and what the agent's `update` takes,
    such as `entropy_cost`. All may change at any update.

    A checkpoint holds weights, optimiser statistics, normalisers and the random generator. It does
    not hold environments, core states or replay. The environments run on over a load. Every core
    state, last action and last reward is zeroed then, and running episodes finish uncounted.

    Args:
        config: Agent and environments.
        member: The member's number.
        seed: Seed of initial weights, sampled actions and environments.
        make_envs: Builds the environments, in place of those that `config` names.
    """

    def __init__(
        self,
        config: LearnerConfig,
        member: int,
        seed: int,
        make_envs: Callable[[], VectorEnv] | None = None,
    ) -> None:
        self._config = config
        self._make_envs = make_envs or (
            lambda: make.make_vec(config.env_id, config.num_envs, preset=config.preset)
        )
        self._member = member
        self._seeds = np.random.SeedSequence(seed)
        envs = self._make_envs()
        self._agent = make_agent(config, envs, self._next_seeds(1)[0])
        self._unroll_length = 20
        self._values = dict(self._agent.hyperparameters)  # all but learning rate, unroll length
        self._values.pop("unroll_length", None)
        self._frame_channels: int | None = None
        if isinstance(self._agent, feudal.Feudal) and self._agent.is_image:
            spec = make.describe(config.env_id, preset=config.preset)
            self._frame_channels = spec.frame_channels
        self._failures_in_a_row = 0
        self._enter(envs)

    def _next_seeds(self, count: int) -> list[int]:
        """Return seeds that no earlier call returned, of 31 bits as ALE takes them."""
        return [int(seed) for seed in self._seeds.spawn(1)[0].generate_state(count) & 0x7FFFFFFF]

    def _enter(self, envs: VectorEnv) -> None:
        """Begin fresh episodes in `envs`, all of which count."""
        self._actor = actor.Actor(
            self._agent, envs, self._config.clip_rewards, self._config.reward_scale
        )
        self._actor.reset(self._next_seeds(envs.num_envs))
        self._counted = np.ones(envs.num_envs, dtype=bool)

    def train(self, agent_steps: int, limit: int) -> Iterator[task.Progress]:
        """See `pbt.task.Task.train`.

        Args:
            agent_steps: Agent steps to take, summed over all environments.
            limit: Agent steps that must not be exceeded. The last unroll is cut to fit.

        Yields:
            One entry per update.

        Raises:
            ValueError: The limit leaves fewer agent steps than there are environments.
            pbt.task.Diverged: A loss or gradient is not finite.
            RuntimeError: The environments failed more than `max_rebuilds` times in a row.
        """
        num_envs = self._config.num_envs
        taken = 0
        while taken < agent_steps:
            most = (limit - taken) // num_envs
            if most < 1:
                raise ValueError(
                    f"limit {limit} leaves {limit - taken} agent steps, fewer than the "
                    f"{num_envs} environments take at once: use multiples of num_envs"
                )
            length = self._agent.rollout_length(self._unroll_length, most)
            try:
                batch, episodes = self._unroll(length, taken)
            except actor.EnvironmentFailed as error:
                self._rebuild_envs(error)
                continue
            restarted, self._failures_in_a_row = self._failures_in_a_row > 0, 0
            try:
                metrics = self._agent.update(batch, **self._update_arguments())
            except FloatingPointError as error:
                raise task.Diverged(str(error)) from error
            del batch  # free the graph before the next unroll builds its own
            taken += length * num_envs
            yield task.Progress(length * num_envs, tuple(episodes), metrics, restarted)

    def _update_arguments(self) -> dict[str, float]:
        """Return the hyperparameters that the agent's `update` takes."""
        values = {**self._values, "unroll_length": self._unroll_length}
        return {name: values[name] for name in self._agent.hyperparameters}

    def _unroll(self, length: int, taken: int) -> tuple[rollout.Rollout, list[task.Episode]]:
        """Act in all environments.

        Args:
            length: Steps of each environment (T).
            taken: Agent steps taken earlier in this call of `train`.

        Returns:
            The unroll, [T, B], and the episodes that ended in it.
        """
        num_envs = self._config.num_envs
        keep_graph = self._agent.keeps_graph(length, num_envs)
        initial_state, inputs = self._actor.state, self._storage(keep_graph)
        transitions, episodes = [], []
        for t in range(length):
            inputs.append(self._actor.inputs)
            transition = self._actor.step(keep_graph)
            transitions.append(transition)
            for slot, episode_return, episode_length in transition.finished:
                finished_at = taken + (t + 1) * num_envs
                counted = bool(self._counted[slot])
                episodes.append(task.Episode(finished_at, episode_return, episode_length, counted))
                self._counted[slot] = True
        batch = rollout.Rollout(
            inputs=inputs,
            initial_state=initial_state,
            steps=tuple(transition.step for transition in transitions),
            # T tensors of [B] -> [T, B]
            reward=torch.stack([transition.reward for transition in transitions]),
            discount=torch.stack([transition.discount for transition in transitions]),
            truncated=torch.stack([transition.truncated for transition in transitions]),
            truncation_value=torch.stack([t.truncation_value for t in transitions]),
            bootstrap_value=self._actor.bootstrap_value(),  # [B]
            endings=tuple(transition.ending for transition in transitions),
            following=self._actor.inputs,
        )
        return batch, episodes

    def _storage(self, keep_graph: bool) -> list[rollout.Inputs] | frames.SharedFrames:
        """Return where the inputs of an unroll are appended.

        Without graph, the update of a FeUdal Network reads them again, a few steps at a time.
        """
        if keep_graph or self._frame_channels is None:
            return []
        return frames.SharedFrames(self._frame_channels)

    def _rebuild_envs(self, error: Exception) -> None:
        """Build all environments again, with new seeds; the running unroll is lost."""
        while True:
            self._failures_in_a_row += 1
            if self._failures_in_a_row > self._config.max_rebuilds:
                raise RuntimeError(
                    f"the environments {self._config.env_id} failed {self._failures_in_a_row} "
                    f"times in a row; the last failure: {type(error).__name__}: {error}"
                ) from error
            _LOG.warning(
                "member %d: an environment %s failed (%s: %s); the unroll is dropped and all "
                "environments are built again (%d of at most %d times in a row)",
                self._member,
                self._config.env_id,
                type(error).__name__,
                error,
                self._failures_in_a_row,
                self._config.max_rebuilds,
            )
            try:
                with contextlib.suppress(Exception):  # a broken environment may not even close
                    self._actor.envs.close()
                self._enter(self._make_envs())
                return
            except Exception as again:
                error = again

    def set_hyperparameters(self, values: Mapping[str, float]) -> None:
        """Apply hyperparameters from the next update on.

        Args:
            values: New values by name; the others stay. Whole numbers are rounded half up.

        Raises:
            ValueError: This learner has no such hyperparameter.
        """
        known = ("learning_rate", "unroll_length", *self._values)
        unknown = values.keys() - set(known)
        if unknown:
            raise ValueError(
                f"unknown hyperparameters {sorted(unknown)}: this learner has {', '.join(known)}"
            )
        if "learning_rate" in values:
            self._agent.set_learning_rate(float(values["learning_rate"]))
        self._unroll_length = round_half_up(values.get("unroll_length", self._unroll_length))
        for name in self._values:
            value = float(values.get(name, self._values[name]))
            self._values[name] = round_half_up(value) if name == "epochs" else value

    def hyperparameters(self) -> Mapping[str, float]:
        """Return the values in force, such as the optimiser's learning rate."""
        return {
            "learning_rate": self._agent.learning_rate(),
            "unroll_length": self._unroll_length,
            **self._values,
        }

    def save(self, directory: Path) -> None:
        """Write `agent.safetensors` and `learner.json`.

        Raises:
            pbt.task.Diverged: A weight or statistic is not finite. Nothing was written.
        """
        tensors.save_state(directory, self._agent.state_dict())
        (directory / "learner.json").write_text(
            json.dumps({"format_version": FORMAT_VERSION, "member": self._member})
        )

    def load(self, directory: Path) -> None:
        """See `pbt.task.Task.load`.

        A checkpoint of another member does not replace this member's random generator. The child
        samples actions of its own.

        Raises:
            ValueError: It is no checkpoint of this agent; the message lists what differs.
            pbt.checkpoint.CheckpointError: It is damaged, or its weights are not finite.
        """
        try:
            header = json.loads((directory / "learner.json").read_text())
            if not isinstance(header, dict):
                raise ValueError(f"learner.json is {header!r:.40}")
        except (OSError, ValueError, RecursionError) as error:
            raise checkpoint.CheckpointError(
                f"unreadable checkpoint {directory}: {error}"
            ) from error
        state = tensors.load_state(directory)
        if header.get("format_version") != FORMAT_VERSION:
            raise ValueError(
                f"checkpoint {directory} has format {header.get('format_version')}, "
                f"this code reads {FORMAT_VERSION}"
            )
        own = self._agent.generator.get_state()
        # A generator on another device has a state of another shape.
        if header["member"] != self._member or state["generator"].shape != own.shape:
            state["generator"] = own
        self._agent.load_state_dict(state)
        # An episode without a step so far is played by the new policy alone, so it counts.
        self._counted &= self._actor.episode_length == 0
        self._actor.forget()

    def close(self) -> None:
        """Close the environments."""
        self._actor.envs.close()
