"""`AgentTask`: an agent and its worlds behind `pbt.task.Task`: where the packages meet."""

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
import safetensors
import safetensors.torch
import torch

from agents import a3c, rollout, unreal
from envs import make
from experiments.analysis import tasks
from experiments.members import actor
from pbt import task

_LOG = logging.getLogger(__name__)

VectorEnv = gymnasium.vector.VectorEnv[Any, Any, Any]

TASK = tasks.LEARNER
FORMAT_VERSION = 1
"""Of the files that `AgentTask.save` writes."""


@dataclasses.dataclass(frozen=True)
class LearnerConfig:
    """A member's agent and worlds: what a run stores as its `task_config`."""

    env_id: str
    """Any id that `envs.make.make_vec` takes."""
    num_envs: int
    """Worlds stepped together."""
    preset: str = "a3c2016"
    """Protocol of an Atari world."""
    agent: Literal["a3c", "unreal"] = "a3c"
    """Which agent."""
    settings: a3c.A3CConfig = dataclasses.field(default_factory=a3c.A3CConfig)
    """The agent's fixed settings."""
    auxiliary: unreal.UNREALConfig = dataclasses.field(default_factory=unreal.UNREALConfig)
    """Those of UNREAL's auxiliary tasks."""
    clip_rewards: bool = False
    """Learn from rewards clipped to [-1, 1] (Atari). Scores are always raw."""
    reward_scale: float = 1.0
    """Learn from rewards multiplied by this, before any clipping. Scores are always raw."""
    device: str = "cpu"
    """Where the network lives."""
    max_rebuilds: int = 3
    """So many failures of the worlds in a row are met by building them anew; then we give up."""

    def to_json(self) -> dict[str, Any]:
        """A JSON mapping that `from_json` takes back."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, config: Mapping[str, Any]) -> "LearnerConfig":
        """Inverse of `to_json`; a replay's schedule, which lies beside, is not the learner's."""
        settings = a3c.A3CConfig(**config["settings"])
        auxiliary = unreal.UNREALConfig(**config.get("auxiliary", {}))
        own = {name: value for name, value in config.items() if name != "schedule"}
        return cls(**{**own, "settings": settings, "auxiliary": auxiliary})

    def check_unroll_length(self, longest: int) -> None:
        """Refuse an unroll that the agent's replay cannot hold.

        Raises:
            ValueError: with the ways out.
        """
        if self.agent == "unreal":
            world = make.describe(self.env_id, preset=self.preset)
            obs_shape = world.single_observation_space.shape
            stack = obs_shape[0] // world.frame_channels
            unreal.check_replay(self.auxiliary.replay_steps, self.num_envs, longest, stack)

    def __post_init__(self) -> None:
        if not 0 < self.reward_scale < math.inf:
            raise ValueError(f"reward_scale {self.reward_scale}: use a number above 0")


def make_task(config: Mapping[str, Any], member: int, seed: int) -> "AgentTask":
    """Build a member's learner: the factory that runs name as `TASK`."""
    return AgentTask(LearnerConfig.from_json(config), member, seed)


def make_agent(config: LearnerConfig, envs: VectorEnv, seed: int) -> actor.Agent:
    """An untrained agent that fits `envs`. Its learning rate is still to be set.

    Raises:
        ValueError: UNREAL has no auxiliary tasks in such worlds.
    """
    obs_shape = envs.single_observation_space.shape
    assert obs_shape is not None  # make_vec refuses such worlds
    size = actor.action_size(envs)
    continuous = isinstance(envs.single_action_space, gymnasium.spaces.Box)
    if config.agent == "a3c":
        return a3c.A3C(obs_shape, size, continuous, config.settings, 1e-4, seed, config.device)
    return unreal.UNREAL(
        obs_shape,
        size,
        continuous,
        config.settings,
        config.auxiliary,
        1e-4,
        seed,
        config.device,
        make.describe(config.env_id, preset=config.preset).frame_channels,
    )


class AgentTask:
    """An actor-critic agent in `num_envs` parallel worlds. See `pbt.task.Task` for the contract.

    Hyperparameters: `learning_rate`, `entropy_cost`, `unroll_length`, and with UNREAL those of
    `agents.unreal.COSTS`. All may change at any update. A checkpoint holds weights, optimiser
    statistics, normalisers and the generator; it does not hold worlds, core states or replay:
    worlds run on over a load, but every core state, last action and last reward is zeroed, and
    running episodes finish uncounted.

    Args:
        config: Agent and worlds.
        member: Whose learner this is.
        seed: Of weights, sampled actions and worlds.
        make_envs: Builds the worlds, in place of those that `config` names.
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
        self._entropy_cost = 0.01
        self._unroll_length = 20
        # The weights of the auxiliary losses: those of UNREAL on Labyrinth.
        self._auxiliary_costs = (
            dict.fromkeys(unreal.COSTS, 1.0) | {"pixel_control_cost": 0.01}
            if config.agent == "unreal"
            else {}
        )
        self._failures_in_a_row = 0
        self._enter(envs)

    def _next_seeds(self, count: int) -> list[int]:
        """Seeds that no earlier call gave; 31 bits, as ALE takes them."""
        return [int(seed) for seed in self._seeds.spawn(1)[0].generate_state(count) & 0x7FFFFFFF]

    def _enter(self, envs: VectorEnv) -> None:
        """Begin fresh episodes in `envs`: all of them count."""
        self._actor = actor.Actor(
            self._agent, envs, self._config.clip_rewards, self._config.reward_scale
        )
        self._actor.reset(self._next_seeds(envs.num_envs))
        self._counted = np.ones(envs.num_envs, dtype=bool)

    def train(self, agent_steps: int, limit: int) -> Iterator[task.Progress]:
        """See `pbt.task.Task.train`. Counts of steps are over all worlds.

        Raises:
            pbt.task.Diverged: loss or gradient is not finite.
            RuntimeError: the worlds failed more than `max_rebuilds` times in a row.
        """
        num_envs = self._config.num_envs
        taken = 0
        while taken < agent_steps:
            length = min(self._unroll_length, (limit - taken) // num_envs)
            if length < 1:
                raise ValueError(
                    f"limit {limit} leaves {limit - taken} agent steps, fewer than the "
                    f"{num_envs} worlds take at once: use multiples of num_envs"
                )
            try:
                batch, episodes = self._unroll(length, taken)
            except actor.EnvironmentFailed as error:
                self._rebuild_envs(error)
                continue
            restarted, self._failures_in_a_row = self._failures_in_a_row > 0, 0
            try:
                if isinstance(self._agent, unreal.UNREAL):
                    metrics = self._agent.update(batch, self._entropy_cost, self._auxiliary_costs)
                else:
                    metrics = self._agent.update(batch, self._entropy_cost)
            except FloatingPointError as error:
                raise task.Diverged(str(error)) from error
            del batch  # frees the graph before the next unroll builds its own
            taken += length * num_envs
            yield task.Progress(length * num_envs, tuple(episodes), metrics, restarted)

    def _unroll(self, length: int, taken: int) -> tuple[rollout.Rollout, list[task.Episode]]:
        """Act for `length` steps in all worlds, [T, B]."""
        num_envs = self._config.num_envs
        keep_graph = self._agent.keeps_graph(length, num_envs)
        initial_state = self._actor.state
        transitions, episodes = [], []
        for t in range(length):
            transition = self._actor.step(keep_graph)
            transitions.append(transition)
            for slot, episode_return, episode_length in transition.finished:
                finished_at = taken + (t + 1) * num_envs
                counted = bool(self._counted[slot])
                episodes.append(task.Episode(finished_at, episode_return, episode_length, counted))
                self._counted[slot] = True
        batch = rollout.Rollout(
            inputs=tuple(transition.inputs for transition in transitions),
            initial_state=initial_state,
            steps=tuple(transition.step for transition in transitions),
            reward=torch.stack([transition.reward for transition in transitions]),
            discount=torch.stack([transition.discount for transition in transitions]),
            truncated=torch.stack([transition.truncated for transition in transitions]),
            truncation_value=torch.stack([t.truncation_value for t in transitions]),
            bootstrap_value=self._actor.bootstrap_value(),
            endings=tuple(transition.ending for transition in transitions),
        )
        return batch, episodes

    def _rebuild_envs(self, error: Exception) -> None:
        """Drop the running unroll and start all worlds anew, with new seeds."""
        while True:
            self._failures_in_a_row += 1
            if self._failures_in_a_row > self._config.max_rebuilds:
                raise RuntimeError(
                    f"the worlds of {self._config.env_id} failed {self._failures_in_a_row} times "
                    f"in a row; the last failure: {type(error).__name__}: {error}"
                ) from error
            _LOG.warning(
                "member %d: a world of %s failed (%s: %s); dropped the unroll, all worlds begin "
                "anew (%d of at most %d times in a row)",
                self._member,
                self._config.env_id,
                type(error).__name__,
                error,
                self._failures_in_a_row,
                self._config.max_rebuilds,
            )
            try:
                with contextlib.suppress(Exception):  # a broken world may not even close
                    self._actor.envs.close()
                self._enter(self._make_envs())
                return
            except Exception as again:
                error = again

    def set_hyperparameters(self, values: Mapping[str, float]) -> None:
        """Apply from the next update on. `unroll_length` is rounded where it is used."""
        known = ("learning_rate", "entropy_cost", "unroll_length", *self._auxiliary_costs)
        unknown = values.keys() - set(known)
        if unknown:
            raise ValueError(
                f"unknown hyperparameters {sorted(unknown)}: this learner has {', '.join(known)}"
            )
        if "learning_rate" in values:
            self._agent.set_learning_rate(float(values["learning_rate"]))
        self._entropy_cost = float(values.get("entropy_cost", self._entropy_cost))
        # Half up, as `pbt.space.IntUniform` shows it: Python's round would make 2.5 a 2.
        self._unroll_length = max(
            1, math.floor(values.get("unroll_length", self._unroll_length) + 0.5)
        )
        for name in self._auxiliary_costs:
            self._auxiliary_costs[name] = float(values.get(name, self._auxiliary_costs[name]))

    def hyperparameters(self) -> Mapping[str, float]:
        """The values in force: the optimiser's learning rate, the rounded unroll length."""
        return {
            "learning_rate": self._agent.learning_rate(),
            "entropy_cost": self._entropy_cost,
            "unroll_length": self._unroll_length,
            **self._auxiliary_costs,
        }

    def save(self, directory: Path) -> None:
        """Write `agent.safetensors` and `learner.json`.

        Raises:
            pbt.task.Diverged: a weight or statistic is not finite; nothing was written.
        """
        state = {name: tensor.contiguous() for name, tensor in self._agent.state_dict().items()}
        for name, tensor in state.items():
            if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                raise task.Diverged(f"non-finite values in {name}")
        safetensors.torch.save_file(state, directory / "agent.safetensors")
        (directory / "learner.json").write_text(
            json.dumps({"format_version": FORMAT_VERSION, "member": self._member})
        )

    def load(self, directory: Path) -> None:
        """See `pbt.task.Task.load`. A donor's generator is not taken: the child rolls its own dice.

        Raises:
            ValueError: not a checkpoint of this agent; lists what differs.
        """
        try:
            header = json.loads((directory / "learner.json").read_text())
            state = safetensors.torch.load_file(directory / "agent.safetensors")
        except (OSError, json.JSONDecodeError, safetensors.SafetensorError) as error:
            raise ValueError(f"unreadable checkpoint {directory}: {error}") from error
        if header.get("format_version") != FORMAT_VERSION:
            raise ValueError(
                f"checkpoint {directory} has format {header.get('format_version')}, "
                f"this code reads {FORMAT_VERSION}"
            )
        own_dice = self._agent.generator.get_state()
        # Another device's generator has a state of another form.
        if header["member"] != self._member or state["generator"].shape != own_dice.shape:
            state["generator"] = own_dice
        self._agent.load_state_dict(state)
        # An episode with no step yet is wholly the new policy's.
        self._counted &= self._actor.episode_length == 0
        self._actor.forget()

    def close(self) -> None:
        """Close the worlds."""
        self._actor.envs.close()
