"""`AgentTask`: an agent and its worlds behind `pbt.task.Task`. The only glue between the packages."""

import dataclasses
import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import gymnasium
import numpy as np
import safetensors
import safetensors.torch
import torch

from agents import a3c, rollout
from envs import make
from pbt import task

_LOG = logging.getLogger(__name__)

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
    agent: Literal["a3c"] = "a3c"
    """Which agent."""
    settings: a3c.A3CConfig = dataclasses.field(default_factory=a3c.A3CConfig)
    """The agent's fixed settings."""
    clip_rewards: bool = False
    """Learn from rewards clipped to [-1, 1] (Atari). Scores are always raw."""
    device: str = "cpu"
    """Where the network lives."""
    max_rebuilds: int = 3
    """So many failures of the worlds in a row are repaired by building them anew; then we give up."""

    def to_json(self) -> dict[str, Any]:
        """A JSON mapping that `from_json` takes back."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, config: Mapping[str, Any]) -> "LearnerConfig":
        """Inverse of `to_json`."""
        return cls(**{**config, "settings": a3c.A3CConfig(**config["settings"])})


def make_task(config: Mapping[str, Any], member: int, seed: int) -> "AgentTask":
    """Build a member's learner: the factory that runs name as "experiments.learner:make_task"."""
    return AgentTask(LearnerConfig.from_json(config), member, seed)


class AgentTask:
    """An actor-critic agent in `num_envs` parallel worlds. See `pbt.task.Task` for the contract.

    Hyperparameters: `learning_rate`, `entropy_cost`, `unroll_length`. All three may change at any
    update. A checkpoint holds weights, optimiser statistics, normalisers and the generator; it
    does not hold worlds or core states: worlds run on over a load, but every core state, last
    action and last reward is zeroed, and running episodes finish uncounted.

    Args:
        config: Agent and worlds.
        member: Whose learner this is.
        seed: Of weights, sampled actions and worlds.
    """

    def __init__(self, config: LearnerConfig, member: int, seed: int) -> None:
        self._config = config
        self._member = member
        self._seeds = np.random.SeedSequence(seed)
        self._rebuilds_in_a_row = 0
        self._build_worlds()
        action_space = self._envs.single_action_space
        self._continuous = isinstance(action_space, gymnasium.spaces.Box)
        if isinstance(action_space, gymnasium.spaces.Box):
            self._action_size = int(action_space.shape[0])
            self._action_low = action_space.low
            self._action_high = action_space.high
        else:
            assert isinstance(action_space, gymnasium.spaces.Discrete)
            self._action_size = int(action_space.n)
            self._action_start = int(action_space.start)
        obs_shape = self._envs.single_observation_space.shape
        assert obs_shape is not None
        self._learning_rate_unset = 1e-3
        self._agent = a3c.A3C(
            obs_shape,
            self._action_size,
            self._continuous,
            config.settings,
            learning_rate=self._learning_rate_unset,
            seed=int(self._seeds.spawn(1)[0].generate_state(1)[0]),
            device=config.device,
        )
        self._one_hot = torch.eye(self._action_size, device=self._agent.device)
        self._entropy_cost = 0.01
        self._unroll_length = 20.0
        self._reset_worlds()

    # Worlds

    def _build_worlds(self) -> None:
        self._envs = make.make_vec(
            self._config.env_id, self._config.num_envs, preset=self._config.preset
        )

    def _reset_worlds(self) -> None:
        """Fresh episodes in all worlds: all of them count."""
        num_envs = self._config.num_envs
        seeds = self._seeds.spawn(1)[0].generate_state(num_envs) & 0x7FFFFFFF
        obs, _ = self._envs.reset(seed=[int(seed) for seed in seeds])
        self._check(obs, np.zeros(num_envs))
        self._episode_return = np.zeros(num_envs)
        self._episode_length = np.zeros(num_envs, dtype=np.int64)
        self._counted = np.ones(num_envs, dtype=bool)
        self._begin(obs)

    def _begin(self, obs: Any) -> None:
        """Next inputs as at an episode's start: no past action, no past reward, a reset core."""
        num_envs = self._config.num_envs
        device = self._agent.device
        self._inputs = rollout.Inputs(
            self._obs_tensor(obs),
            torch.zeros(num_envs, self._action_size, device=device),
            torch.zeros(num_envs, device=device),
            torch.ones(num_envs, dtype=torch.bool, device=device),
        )
        self._state = self._agent.initial_state(num_envs)

    def _obs_tensor(self, obs: Any) -> torch.Tensor:
        tensor = torch.from_numpy(obs).to(self._agent.device)
        return tensor if tensor.dtype == torch.uint8 else tensor.float()

    def _check(self, obs: Any, reward: Any) -> None:
        """Refuse what no world may return: the wrong shape, the wrong type, or a non-finite number."""
        space = self._envs.observation_space
        if obs.shape != space.shape or obs.dtype != space.dtype:
            raise ValueError(
                f"the world returned observations {obs.dtype}{obs.shape}, "
                f"its space promises {space.dtype}{space.shape}"
            )
        if obs.dtype != np.uint8 and not np.isfinite(obs).all():
            raise ValueError("the world returned a non-finite observation")
        if not np.isfinite(reward).all():
            raise ValueError(f"the world returned a non-finite reward: {reward}")

    def _world_action(self, action: torch.Tensor) -> Any:
        if self._continuous:
            return np.clip(action.cpu().numpy(), self._action_low, self._action_high)
        return action.cpu().numpy() + self._action_start

    # Training

    def train(self, agent_steps: int, limit: int) -> Iterator[task.Progress]:
        """See `pbt.task.Task.train`. Counts of steps are over all worlds.

        Raises:
            pbt.task.Diverged: loss or gradient is not finite.
            RuntimeError: the worlds failed `max_rebuilds` times in a row.
        """
        num_envs = self._config.num_envs
        taken = 0
        while taken < agent_steps:
            length = min(max(1, round(self._unroll_length)), (limit - taken) // num_envs)
            if length < 1:
                raise ValueError(
                    f"limit {limit} leaves {limit - taken} agent steps, fewer than the "
                    f"{num_envs} worlds take at once: use multiples of num_envs"
                )
            try:
                batch, episodes = self._unroll(length, taken)
            except Exception as error:
                self._rebuild_worlds(error)
                continue
            self._rebuilds_in_a_row = 0
            try:
                metrics = self._agent.update(batch, self._entropy_cost)
            except FloatingPointError as error:
                raise task.Diverged(str(error)) from error
            del batch  # the graph: free it before the next unroll builds its own
            taken += length * num_envs
            yield task.Progress(length * num_envs, tuple(episodes), metrics)

    def _unroll(self, length: int, taken: int) -> tuple[rollout.Rollout, list[task.Episode]]:
        """Act for `length` steps in all worlds, [T, B]."""
        config, device, num_envs = self._config, self._agent.device, self._config.num_envs
        gamma = config.settings.gamma
        keep_graph = self._agent.keeps_graph(length, num_envs)
        initial_state = self._state
        inputs, steps, rewards, discounts, truncations, truncation_values = (
            [],
            [],
            [],
            [],
            [],
            [],
        )
        episodes: list[task.Episode] = []
        for t in range(length):
            step = self._agent.act(self._inputs, self._state, keep_graph)
            obs, reward, terminated, truncated, info = self._envs.step(
                self._world_action(step.action)
            )
            self._check(obs, reward)
            done = terminated | truncated
            # A lost life ends the future worth learning for, but neither the episode nor its state.
            stop = terminated | info["life_lost"] if "life_lost" in info else terminated
            learned = torch.as_tensor(reward, dtype=torch.float32, device=device)
            if config.clip_rewards:
                learned = learned.clamp(-1, 1)
            last_action = step.action if self._continuous else self._one_hot[step.action]
            truncation_value = torch.zeros(num_envs, device=device)
            if truncated.any():
                cut = np.flatnonzero(truncated)
                final = rollout.Inputs(
                    self._obs_tensor(np.ascontiguousarray(info["final_obs"][cut])),
                    last_action[cut],
                    learned[cut],
                    torch.zeros(len(cut), dtype=torch.bool, device=device),
                )
                # Under the state before the reset: step.state has not seen the new episode.
                truncation_value[cut] = self._agent.value(final, tuple(s[cut] for s in step.state))
            inputs.append(self._inputs)
            steps.append(step)
            rewards.append(learned)
            discounts.append(torch.as_tensor(gamma * ~stop, dtype=torch.float32, device=device))
            truncations.append(torch.as_tensor(truncated, device=device))
            truncation_values.append(truncation_value)

            self._episode_return += reward
            self._episode_length += 1
            for slot in np.flatnonzero(done):
                episodes.append(
                    task.Episode(
                        taken + (t + 1) * num_envs,
                        float(self._episode_return[slot]),
                        int(self._episode_length[slot]),
                        bool(self._counted[slot]),
                    )
                )
            self._episode_return[done] = 0.0
            self._episode_length[done] = 0
            self._counted[done] = True
            first = torch.as_tensor(done, device=device)
            goes_on = (~first).float()
            self._inputs = rollout.Inputs(
                self._obs_tensor(obs),
                last_action * goes_on.unsqueeze(-1),
                learned * goes_on,
                first,
            )
            self._state = step.state
        self._state = tuple(tensor.detach() for tensor in self._state)
        batch = rollout.Rollout(
            tuple(inputs),
            initial_state,
            tuple(steps),
            torch.stack(rewards),
            torch.stack(discounts),
            torch.stack(truncations),
            torch.stack(truncation_values),
            self._agent.value(self._inputs, self._state),
        )
        return batch, episodes

    def _rebuild_worlds(self, error: Exception) -> None:
        """Drop the running unroll and start all worlds anew, with new seeds."""
        self._rebuilds_in_a_row += 1
        if self._rebuilds_in_a_row > self._config.max_rebuilds:
            raise RuntimeError(
                f"the worlds of {self._config.env_id} failed {self._rebuilds_in_a_row} times in a "
                f"row; the last failure: {type(error).__name__}: {error}"
            ) from error
        _LOG.warning(
            "member %d: a world of %s failed (%s: %s); dropped the unroll, building all anew (%d of %d)",
            self._member,
            self._config.env_id,
            type(error).__name__,
            error,
            self._rebuilds_in_a_row,
            self._config.max_rebuilds,
        )
        try:
            self._envs.close()
        except Exception as close_error:  # a broken world may not even close
            _LOG.warning("closing the failed worlds failed too: %s", close_error)
        self._build_worlds()
        self._reset_worlds()

    # Hyperparameters

    def set_hyperparameters(self, values: Mapping[str, float]) -> None:
        """Apply from the next update on. `unroll_length` is rounded where it is used."""
        unknown = values.keys() - {"learning_rate", "entropy_cost", "unroll_length"}
        if unknown:
            raise ValueError(
                f"unknown hyperparameters {sorted(unknown)}: this learner has learning_rate, "
                "entropy_cost and unroll_length"
            )
        if "learning_rate" in values:
            self._agent.set_learning_rate(float(values["learning_rate"]))
        self._entropy_cost = float(values.get("entropy_cost", self._entropy_cost))
        self._unroll_length = float(values.get("unroll_length", self._unroll_length))

    def hyperparameters(self) -> Mapping[str, float]:
        """The values in force; the learning rate is read from the optimiser."""
        return {
            "learning_rate": self._agent.learning_rate(),
            "entropy_cost": self._entropy_cost,
            "unroll_length": self._unroll_length,
        }

    # State

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
        """See `pbt.task.Task.load`. A donor's generator is not taken: the child plays its own games.

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
        if header["member"] != self._member:
            state["generator"] = self._agent.generator.get_state()
        self._agent.load_state_dict(state)
        # An episode with no step yet is wholly the new policy's.
        self._counted &= self._episode_length == 0
        self._begin(self._inputs.obs.cpu().numpy())

    def close(self) -> None:
        """Close the worlds."""
        self._envs.close()
