"""Step an agent through its environments, for training and for evaluation alike."""

import contextlib
import operator
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray

from agents import actor_critic, rollout, unreal
from envs import function_call, make
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
        self._action_size = action_size(envs)
        self._one_hot = policy.OneHot(
            rollout.action_width(self._action_size),
            self._action_size.offsets if isinstance(self._action_size, rollout.ActionParts) else (),
            agent.device,
        )

    def reset(self, seeds: Sequence[int]) -> None:
        """Begin fresh episodes in all environments.

        Args:
            seeds: One seed per environment. [B]

        Raises:
            EnvironmentFailed: An environment raised an error, or returned an invalid observation.
        """
        with _environment_code():
            obs, info = self.envs.reset(seed=list(seeds))  # type: ignore[arg-type]  # see envs.make
            self._check(obs, np.zeros(self.num_envs), info)
        self.episode_return = np.zeros(self.num_envs)
        self.episode_length = np.zeros(self.num_envs, dtype=np.int64)
        self._begin(self._seen(obs), self._mask(info))

    def forget(self) -> None:
        """Continue the running episodes as if they began now, for an agent with new weights."""
        self._begin(self.inputs.obs, self.inputs.action_mask)

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
        actions = step.action.cpu().numpy()  # [B], [B, P] of P parts, or [B, A] if continuous
        with _environment_code():
            obs, reward, terminated, truncated, info = self.envs.step(actions)
            self._check(obs, reward, info)
        done = terminated | truncated  # [B]
        # A lost life cuts off the return, but neither the episode nor the core's state.
        stop = terminated | info["life_lost"]
        learned = policy.seen_reward(reward, self._reward_scale, self._clip_rewards, device)
        last_action = self._one_hot(step.action)  # [B, A]
        # Gymnasium's TimeLimit can set both flags at the last step. A terminated episode has no
        # future to bootstrap from.
        truncated = truncated & ~terminated
        truncation_value = torch.zeros_like(step.value, requires_grad=False)
        ending = None
        if done.any():
            slots = np.flatnonzero(done)  # [B] -> [n]
            ending = rollout.Ending(
                torch.as_tensor(slots, device=device),
                self._seen(info["final_obs"], slots),  # [n, ...]
                torch.as_tensor(terminated[slots], device=device),
            )
        if ending is not None and truncated.any():
            cut = np.flatnonzero(truncated)  # [B] -> [m], a subset of the n slots
            final = rollout.Inputs(  # [m, ...]
                rollout.map_obs(operator.itemgetter(~ending.terminated), ending.obs),
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
            self._seen(obs),
            last_action * goes_on.unsqueeze(-1),  # [B, A] * [B, 1]
            learned * goes_on,
            is_first,
            self._mask(info),
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

    def _seen(self, obs: Any, slots: NDArray[np.intp] | None = None) -> rollout.Obs:
        """Return observations, or those of some slots, as the network sees them."""
        seen = tuple(
            policy.seen_obs(
                part if slots is None else np.ascontiguousarray(part[slots]), self.agent.device
            )
            for _, part in _parts(self.envs.observation_space, obs)
        )
        return seen if isinstance(obs, tuple | dict) else seen[0]

    def _mask(self, info: dict[str, Any]) -> torch.Tensor | None:
        """Return which actions are legal, bool [B, A]; None if the environment does not say."""
        mask = info.get("action_mask")
        return None if mask is None else torch.as_tensor(mask, device=self.agent.device)

    def _begin(self, obs: rollout.Obs, mask: torch.Tensor | None) -> None:
        """Set inputs and state to those of a first step that shows `obs`."""
        device = self.agent.device
        self.inputs = rollout.Inputs(
            obs,
            torch.zeros(self.num_envs, self._one_hot.width, device=device),
            torch.zeros(self.num_envs, device=device),
            torch.ones(self.num_envs, dtype=torch.bool, device=device),
            mask,
        )
        self.state = self.agent.initial_state(self.num_envs)

    def _check(self, obs: Any, reward: Any, info: dict[str, Any]) -> None:
        for space, part in _parts(self.envs.observation_space, obs):
            if part.shape != space.shape or part.dtype != space.dtype:
                raise ValueError(
                    f"the environment returned observations {part.dtype}{part.shape}, "
                    f"its space promises {space.dtype}{space.shape}"
                )
            if part.dtype != np.uint8 and not np.isfinite(part.astype(np.float32)).all():
                raise ValueError("the environment returned a non-finite observation")
        if not np.isfinite(reward).all():
            raise ValueError(f"the environment returned a non-finite reward: {reward}")
        mask, expected = info.get("action_mask"), (self.num_envs, self._one_hot.width)
        if mask is not None and (mask.shape != expected or mask.dtype != np.bool_):
            raise ValueError(
                f"the environment returned action masks {mask.dtype}{mask.shape}, its actions "
                f"need bool{expected}"
            )


@contextlib.contextmanager
def _environment_code() -> Iterator[None]:
    """Turn any exception of an environment's code into `EnvironmentFailed`."""
    try:
        yield
    except Exception as error:
        raise EnvironmentFailed(f"{type(error).__name__}: {error}") from error


def _parts(
    space: gymnasium.Space[Any], obs: Any
) -> list[tuple[gymnasium.Space[Any], NDArray[Any]]]:
    """Return the space and the array of each part of observations, in the order of the space."""
    if isinstance(space, gymnasium.spaces.Dict):
        return [(part, obs[name]) for name, part in space.items()]
    if isinstance(space, gymnasium.spaces.Tuple):
        return list(zip(space, obs, strict=True))
    return [(space, obs)]


def obs_shape(envs: gymnasium.vector.VectorEnv[Any, Any, Any] | make.EnvSpec) -> rollout.ObsShape:
    """Return the shape of one observation, or the shapes of its parts."""
    space = envs.single_observation_space
    if isinstance(space, gymnasium.spaces.Dict | gymnasium.spaces.Tuple):
        parts = space.values() if isinstance(space, gymnasium.spaces.Dict) else space
        return tuple(tuple(part.shape or ()) for part in parts)
    assert space.shape is not None  # `envs.make` refuses such environments
    return space.shape


def action_size(
    envs: gymnasium.vector.VectorEnv[Any, Any, Any] | make.EnvSpec,
) -> rollout.ActionSize:
    """Return the number of discrete actions, a continuous action's dimensions, or the parts."""
    space = envs.single_action_space
    if isinstance(space, gymnasium.spaces.Box):
        return int(space.shape[0])
    if isinstance(space, gymnasium.spaces.Discrete):
        return int(space.n)
    assert isinstance(space, gymnasium.spaces.MultiDiscrete)
    used = space.used.tolist() if isinstance(space, function_call.FunctionCall) else ()
    return rollout.ActionParts(
        tuple(int(size) for size in space.nvec), tuple(tuple(row) for row in used)
    )
