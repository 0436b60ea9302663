"""Step an agent through its environments, for training and for evaluation alike."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import torch

from agents import actor_critic, rollout, unreal
from envs import make
from experiments.members import policy

Agent = actor_critic.Agent | unreal.UNREAL


class Transition(NamedTuple):
    """One step of all B environments."""

    step: rollout.Step
    """The agent's actions, values and core state. [B, ...]"""
    reward: torch.Tensor
    """Rewards to learn from: scaled, then clipped if the actor clips. [B]"""
    discount: torch.Tensor
    """gamma, or 0 where the episode terminated or a life was lost. [B]"""
    truncated: torch.Tensor
    """Whether a time limit cut the episode off before it terminated. bool [B]"""
    truncation_value: torch.Tensor
    """V(final observation) where truncated, else 0. [B], or [B, N] of N value functions"""
    ending: rollout.Ending | None
    """Final observations of the n episodes that ended at this step. None if n = 0."""
    finished: tuple[tuple[int, float, int], ...]
    """(slot, raw return, length in agent steps) of each episode that ended at this step."""


class EnvironmentFailed(Exception):
    """An environment raised an error, or returned something that its spaces do not allow."""


class Actor:
    """Step B environments with an agent, and keep its inputs and core state between steps.

    Args:
        agent: The agent that chooses actions.
        envs: Environments from `envs.make.make_vec`, with SAME_STEP autoreset and raw rewards.
        clip_rewards: Whether rewards are clipped to [-1, 1] for learning. Returns stay raw.
        reward_scale: Factor of the rewards for learning, applied before any clipping.
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
        self.inputs: rollout.Inputs  # [B, ...]
        self.state: rollout.CoreState  # [B, hidden] each
        self._one_hot = torch.eye(action_size(envs), device=agent.device)  # [A, A]

    def reset(self, seeds: Sequence[int]) -> None:
        """Begin fresh episodes in all environments.

        Args:
            seeds: One seed per environment. [B]

        Raises:
            EnvironmentFailed: An environment raised an error, or returned an invalid observation.
        """
        with _environment_code():
            obs, _ = self.envs.reset(seed=list(seeds))  # type: ignore[arg-type]  # see envs.make
            self._check(obs, np.zeros(self.num_envs))
        self.episode_return = np.zeros(self.num_envs)
        self.episode_length = np.zeros(self.num_envs, dtype=np.int64)
        self._begin(policy.seen_obs(obs, self.agent.device))

    def forget(self) -> None:
        """Continue the running episodes as if they began now, for an agent with new weights."""
        self._begin(self.inputs.obs)

    def step(self, keep_graph: bool = False) -> Transition:
        """Act once in every environment.

        Args:
            keep_graph: Whether the agent keeps the autograd graph of this step for its update.

        Raises:
            EnvironmentFailed: An environment raised an error, or returned an invalid observation
                or reward.
        """
        device = self.agent.device
        step = self.agent.act(self.inputs, self.state, keep_graph)
        actions = step.action.cpu().numpy()  # [B], or [B, A] if continuous
        with _environment_code():
            obs, reward, terminated, truncated, info = self.envs.step(actions)
            self._check(obs, reward)
        done = terminated | truncated  # [B]
        # A lost life cuts off the return, but neither the episode nor the core's state.
        stop = terminated | info["life_lost"]
        learned = policy.seen_reward(reward, self._reward_scale, self._clip_rewards, device)
        last_action = policy.seen_action(step.action, self._one_hot)  # [B, A]
        # Gymnasium's TimeLimit can set both flags at the last step. A terminated episode has no
        # future to bootstrap from.
        truncated = truncated & ~terminated
        truncation_value = torch.zeros_like(step.value, requires_grad=False)
        ending = None
        if done.any():
            slots = np.flatnonzero(done)  # [B] -> [n]
            ending = rollout.Ending(
                torch.as_tensor(slots, device=device),
                policy.seen_obs(np.ascontiguousarray(info["final_obs"][slots]), device),  # [n, ...]
                torch.as_tensor(terminated[slots], device=device),
            )
        if ending is not None and truncated.any():
            cut = np.flatnonzero(truncated)  # [B] -> [m], a subset of the n slots
            final = rollout.Inputs(  # [m, ...]
                ending.obs[~ending.terminated],
                last_action[cut],
                learned[cut],
                torch.zeros(len(cut), dtype=torch.bool, device=device),
            )
            # `step.state` is the state before the reset: it has not seen the new episode.
            state = tuple(part[cut] for part in step.state)  # [m, hidden] each
            truncation_value[cut] = self.agent.value(final, state)  # [m, ...]

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
            policy.seen_obs(obs, device),
            last_action * goes_on.unsqueeze(-1),  # [B, A] * [B, 1]
            learned * goes_on,
            is_first,
        )
        self.state = step.state
        return Transition(
            step,
            learned,
            torch.as_tensor(self.agent.config.gamma * ~stop, dtype=torch.float32, device=device),
            torch.as_tensor(truncated, device=device),
            truncation_value,
            ending,
            finished,
        )

    def bootstrap_value(self) -> torch.Tensor:
        """Return V of the present inputs, [B] or [B, N]; detach the core's state from its past."""
        self.state = tuple(part.detach() for part in self.state)
        return self.agent.value(self.inputs, self.state)

    def _begin(self, obs: torch.Tensor) -> None:
        """Set inputs and state to those of a first step that shows `obs`."""
        device = self.agent.device
        self.inputs = rollout.Inputs(
            obs,
            torch.zeros(self.num_envs, self._one_hot.shape[0], device=device),
            torch.zeros(self.num_envs, device=device),
            torch.ones(self.num_envs, dtype=torch.bool, device=device),
        )
        self.state = self.agent.initial_state(self.num_envs)

    def _check(self, obs: Any, reward: Any) -> None:
        space = self.envs.observation_space
        if obs.shape != space.shape or obs.dtype != space.dtype:
            raise ValueError(
                f"the environment returned observations {obs.dtype}{obs.shape}, "
                f"its space promises {space.dtype}{space.shape}"
            )
        if obs.dtype != np.uint8 and not np.isfinite(obs.astype(np.float32)).all():
            raise ValueError("the environment returned a non-finite observation")
        if not np.isfinite(reward).all():
            raise ValueError(f"the environment returned a non-finite reward: {reward}")


@contextlib.contextmanager
def _environment_code() -> Iterator[None]:
    """Turn any exception of an environment's code into `EnvironmentFailed`."""
    try:
        yield
    except Exception as error:
        raise EnvironmentFailed(f"{type(error).__name__}: {error}") from error


def action_size(envs: gymnasium.vector.VectorEnv[Any, Any, Any] | make.EnvSpec) -> int:
    """Return the number of discrete actions, or the dimensions of a continuous action."""
    space = envs.single_action_space
    if isinstance(space, gymnasium.spaces.Box):
        return int(space.shape[0])
    assert isinstance(space, gymnasium.spaces.Discrete)
    return int(space.n)
