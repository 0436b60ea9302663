"""`Actor`: an agent in its worlds, one step at a time, for training and for evaluation alike."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import torch

from agents import a3c, rollout, unreal

Agent = a3c.A3C | unreal.UNREAL


class Transition(NamedTuple):
    """One step of all worlds, [B]."""

    inputs: rollout.Inputs
    """What the agent saw."""
    step: rollout.Step
    """What it answered."""
    reward: torch.Tensor
    """As learned from: scaled, and clipped if the actor clips."""
    discount: torch.Tensor
    """gamma, or 0 where the episode terminated or a life was lost."""
    truncated: torch.Tensor
    """bool: cut short, and not ended by the same step."""
    truncation_value: torch.Tensor
    """V(final observation) where truncated, else 0."""
    ending: rollout.Ending | None
    """Where episodes ended, what they showed last."""
    finished: tuple[tuple[int, float, int], ...]
    """(slot, raw return, length in agent steps) of each episode that ended here."""


class EnvironmentFailed(Exception):
    """A world raised, or returned what its spaces do not promise; the message says what."""


class Actor:
    """Steps `envs` with `agent`, and keeps what the next step needs.

    Args:
        agent: Chooses actions.
        envs: Worlds from `envs.make.make_vec`: SAME_STEP autoreset, raw rewards.
        clip_rewards: Whether rewards are clipped to [-1, 1] for learning. Returns stay raw.
        reward_scale: Rewards are multiplied by it for learning, before any clipping.
    """

    def __init__(
        self,
        agent: Agent,
        envs: gymnasium.vector.VectorEnv[Any, Any, Any],
        clip_rewards: bool,
        reward_scale: float = 1.0,
    ) -> None:
        self.agent = agent
        self.envs = envs
        self.num_envs = envs.num_envs
        self._clip_rewards = clip_rewards
        self._reward_scale = reward_scale
        self.inputs: rollout.Inputs
        self.state: rollout.CoreState
        self._one_hot = torch.eye(action_size(envs), device=agent.device)

    def reset(self, seeds: Sequence[int]) -> None:
        """Begin fresh episodes in all worlds, one seed each; raises `EnvironmentFailed`."""
        with _environment_code():
            obs, _ = self.envs.reset(seed=list(seeds))  # type: ignore[arg-type]  # see envs.make
            self._check(obs, np.zeros(self.num_envs))
        self.episode_return = np.zeros(self.num_envs)
        self.episode_length = np.zeros(self.num_envs, dtype=np.int64)
        self._begin(self._obs_tensor(obs))

    def forget(self) -> None:
        """Go on in the running episodes as if they began here: for an agent with new weights."""
        self._begin(self.inputs.obs)

    def step(self, keep_graph: bool = False) -> Transition:
        """Act once in every world.

        Raises:
            EnvironmentFailed: a world raised, or returned what it must not.
        """
        agent, device = self.agent, self.agent.device
        inputs = self.inputs
        step = agent.act(inputs, self.state, keep_graph)
        actions = step.action.cpu().numpy()
        with _environment_code():
            obs, reward, terminated, truncated, info = self.envs.step(actions)
            self._check(obs, reward)
        done = terminated | truncated
        # A lost life ends the future worth learning for, but neither the episode nor its state.
        stop = terminated | info["life_lost"]
        learned = torch.as_tensor(reward * self._reward_scale, dtype=torch.float32, device=device)
        if self._clip_rewards:
            learned = learned.clamp(-1, 1)
        last_action = step.action if step.action.is_floating_point() else self._one_hot[step.action]
        # Gymnasium's TimeLimit sets both on the last step: an episode that ended has no future.
        truncated = truncated & ~terminated
        truncation_value = torch.zeros(self.num_envs, device=device)
        ending = None
        if done.any():
            slots = np.flatnonzero(done)
            ending = rollout.Ending(
                torch.as_tensor(slots, device=device),
                self._obs_tensor(np.ascontiguousarray(info["final_obs"][slots])),
                torch.as_tensor(terminated[slots], device=device),
            )
        if ending is not None and truncated.any():
            cut = np.flatnonzero(truncated)
            final = rollout.Inputs(
                ending.obs[~ending.terminated],
                last_action[cut],
                learned[cut],
                torch.zeros(len(cut), dtype=torch.bool, device=device),
            )
            # Under the state before the reset: step.state has not seen the new episode.
            truncation_value[cut] = agent.value(final, tuple(part[cut] for part in step.state))

        self.episode_return += reward
        self.episode_length += 1
        finished = tuple(
            (int(slot), float(self.episode_return[slot]), int(self.episode_length[slot]))
            for slot in np.flatnonzero(done)
        )
        self.episode_return[done] = 0.0
        self.episode_length[done] = 0
        is_first = torch.as_tensor(done, device=device)
        goes_on = (~is_first).float()
        self.inputs = rollout.Inputs(
            self._obs_tensor(obs), last_action * goes_on.unsqueeze(-1), learned * goes_on, is_first
        )
        self.state = step.state
        return Transition(
            inputs,
            step,
            learned,
            torch.as_tensor(agent.config.gamma * ~stop, dtype=torch.float32, device=device),
            torch.as_tensor(truncated, device=device),
            truncation_value,
            ending,
            finished,
        )

    def bootstrap_value(self) -> torch.Tensor:
        """V of what the agent sees now [B]; and from here on the past is not differentiated."""
        self.state = tuple(part.detach() for part in self.state)
        return self.agent.value(self.inputs, self.state)

    def _begin(self, obs: torch.Tensor) -> None:
        device = self.agent.device
        self.inputs = rollout.Inputs(
            obs,
            torch.zeros(self.num_envs, self._one_hot.shape[0], device=device),
            torch.zeros(self.num_envs, device=device),
            torch.ones(self.num_envs, dtype=torch.bool, device=device),
        )
        self.state = self.agent.initial_state(self.num_envs)

    def _obs_tensor(self, obs: Any) -> torch.Tensor:
        tensor = torch.from_numpy(obs).to(self.agent.device)
        return tensor if tensor.dtype == torch.uint8 else tensor.float()

    def _check(self, obs: Any, reward: Any) -> None:
        space = self.envs.observation_space
        if obs.shape != space.shape or obs.dtype != space.dtype:
            raise ValueError(
                f"the world returned observations {obs.dtype}{obs.shape}, "
                f"its space promises {space.dtype}{space.shape}"
            )
        if obs.dtype != np.uint8 and not np.isfinite(obs.astype(np.float32)).all():
            raise ValueError("the world returned a non-finite observation")
        if not np.isfinite(reward).all():
            raise ValueError(f"the world returned a non-finite reward: {reward}")


@contextlib.contextmanager
def _environment_code() -> Iterator[None]:
    """Tell what a world raises from what the agent raises."""
    try:
        yield
    except Exception as error:
        raise EnvironmentFailed(f"{type(error).__name__}: {error}") from error


def action_size(envs: gymnasium.vector.VectorEnv[Any, Any, Any]) -> int:
    """Number of discrete actions, or dimensions of a continuous one."""
    space = envs.single_action_space
    if isinstance(space, gymnasium.spaces.Box):
        return int(space.shape[0])
    assert isinstance(space, gymnasium.spaces.Discrete)
    return int(space.n)
