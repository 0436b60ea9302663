"""The time convention of this suite, and the batches that follow it.

At step t the agent sees `inputs[t]`, its core is in `state[t]`, and it chooses `action[t]`. The
environment answers with `reward[t]`, `discount[t]` and `inputs[t + 1]`:

    inputs[t], state[t]  ->  action[t], value[t], state[t + 1]
    envs.step(action[t])  ->  reward[t], discount[t], inputs[t + 1]

So `reward[t]` and `discount[t]` are consequences of `action[t]`, and

    return[t] = reward[t] + discount[t] * return[t + 1],    return[T] = V(inputs[T], state[T])

`discount[t]` is gamma, or 0 where the episode terminated or a life was lost. Where the episode was
truncated, the future is worth V(final observation) under the state *before* the reset: see
`truncation_value`. Where an episode ended, `inputs[t + 1]` belong to the next one: `is_first` is
true, the last action and reward are zero, and the network resets its state. Arrays are time-major,
[T, B, ...].
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

Obs = torch.Tensor | tuple[torch.Tensor, ...]
"""Observations: uint8 images [..., C, H, W], float32 vectors [..., D], or several such parts."""
ObsShape = tuple[int, ...] | tuple[tuple[int, ...], ...]
"""Shape of one observation, or the shapes of its parts."""


@dataclass(frozen=True)
class ActionParts:
    """An action of several discrete parts, seen by the network as the one-hot codes of all parts.

    Raises:
        ValueError: A size is below 1, or the table does not fit the sizes.
    """

    sizes: tuple[int, ...]
    """Number of values of each part."""
    used: tuple[tuple[bool, ...], ...] = ()
    """Whether each value of the first part uses each of the others, [sizes[0]][parts - 1]. Empty if
    all parts count always."""

    def __post_init__(self) -> None:
        if not self.sizes or min(self.sizes) < 1:
            raise ValueError(f"sizes {self.sizes} of an action's parts must be at least 1 each")
        shape = (self.sizes[0], len(self.sizes) - 1)
        if self.used and (
            len(self.used) != shape[0] or any(len(row) != shape[1] for row in self.used)
        ):
            raise ValueError(
                f"the table of used parts must have {shape[0]} rows of {shape[1]}, as the sizes "
                f"{self.sizes} of the parts say"
            )

    @property
    def width(self) -> int:
        """Sum of the sizes."""
        return sum(self.sizes)

    @property
    def offsets(self) -> tuple[int, ...]:
        """Where each part begins, if all are laid side by side."""
        return tuple(itertools.accumulate(self.sizes[:-1], initial=0))

    @property
    def counts(self) -> tuple[tuple[bool, ...], ...]:
        """The table `used` with a column for the first part, which always counts."""
        return tuple((True, *row) for row in self.used)


ActionSize = int | ActionParts
"""Number of discrete actions, dimensions of a continuous action, or the parts of one of several."""


def action_width(size: ActionSize) -> int:
    """Return the length of an action as the network sees it a step later."""
    return size.width if isinstance(size, ActionParts) else size


class Inputs(NamedTuple):
    """What the agent sees at one step, [B, ...], or at all steps of an unroll, [T, B, ...]."""

    obs: Obs
    """Observations, or a tuple of their parts."""
    last_action: torch.Tensor
    """Previous action [..., A], one-hot if discrete, the codes of its parts side by side; zero
    where `is_first`."""
    last_reward: torch.Tensor
    """Previous reward [...], clipped if learning clips; zero where `is_first`."""
    is_first: torch.Tensor
    """Whether an episode starts here, so that the core's state is reset first; bool [...]."""
    action_mask: torch.Tensor | None = None
    """Whether each discrete action is legal, bool [..., A], laid out like `last_action`. None where
    the environment does not say."""

    def map(self, function: Callable[[torch.Tensor], torch.Tensor]) -> "Inputs":
        """Return these inputs with a function applied to every tensor."""
        return Inputs(
            map_obs(function, self.obs),
            function(self.last_action),
            function(self.last_reward),
            function(self.is_first),
            None if self.action_mask is None else function(self.action_mask),
        )


def map_obs(function: Callable[[torch.Tensor], torch.Tensor], obs: Obs) -> Obs:
    """Return observations with a function applied to each of their parts."""
    return tuple(map(function, obs)) if isinstance(obs, tuple) else function(obs)


def cat_obs(obs: Sequence[Obs]) -> Obs:
    """Return the observations of several steps, [B, ...] each, as one batch [T * B, ...]."""
    return _joined(torch.cat, obs)


def stack(inputs: Sequence[Inputs]) -> Inputs:
    """Return the inputs of T steps, [B, ...] each, as [T, B, ...]."""
    obs, last_action, last_reward, is_first, mask = zip(*inputs, strict=True)
    return Inputs(
        _joined(torch.stack, obs),
        torch.stack(last_action),
        torch.stack(last_reward),
        torch.stack(is_first),
        None if mask[0] is None else torch.stack(mask),
    )


def _joined(join: Callable[..., torch.Tensor], obs: Sequence[Obs]) -> Obs:
    if isinstance(obs[0], tuple):
        return tuple(join(part) for part in zip(*obs, strict=True))
    return join(obs)


CoreState = tuple[torch.Tensor, ...]
"""(h, c) of an LSTM core, each [B, width]; empty for a feed-forward one. Agents with more memory
keep more tensors here, [B, ...] each."""


class Step(NamedTuple):
    """The agent's answer to one `Inputs`."""

    action: torch.Tensor
    """Action, int64 [B], of P parts int64 [B, P], or float32 [B, A] (not clipped); no graph."""
    log_prob: torch.Tensor
    """Log-probability of `action`, [B]."""
    entropy: torch.Tensor
    """Entropy of the policy in nats, [B]; may be negative for continuous actions."""
    value: torch.Tensor
    """V(inputs, state), [B]; [B, N] of an agent with N value functions."""
    state: CoreState
    """The core's state after this step."""
    features: torch.Tensor | None = None
    """The torso's features, [B, width], of an agent whose update runs its cores over them anew.
    They have a graph if acting kept it."""


class Ending(NamedTuple):
    """Last observations of the n environments whose episodes ended in the same step."""

    slots: torch.Tensor
    """Indices of these environments, int64 [n]."""
    obs: Obs
    """Observations that the action of this step led to, [n, ...]."""
    terminated: torch.Tensor
    """Whether the episode terminated, and was not truncated; bool [n]."""


class Rollout(NamedTuple):
    """T steps of B parallel environments, ready for one update."""

    inputs: Sequence[Inputs]
    """T entries, each [B, ...]; not stacked, since only a second forward pass needs that. A long
    rollout may keep them as `agents.frames.SharedFrames`."""
    initial_state: CoreState
    """The core's state before step 0, without graph."""
    steps: tuple[Step, ...]
    """T answers; with graph if they were made by `act(..., keep_graph=True)`."""
    reward: torch.Tensor
    """Rewards as the agent learns from them, [T, B]."""
    discount: torch.Tensor
    """gamma, or 0 where the episode terminated or a life was lost, [T, B]."""
    truncated: torch.Tensor
    """Whether the step truncated its episode, bool [T, B]."""
    truncation_value: torch.Tensor
    """V(final observation) where truncated, else 0, [T, B] or [T, B, N]; without graph."""
    bootstrap_value: torch.Tensor
    """V(inputs[T], state[T]), [B] or [B, N]; without graph."""
    endings: tuple[Ending | None, ...] = ()
    """T entries, None where no episode ended; only agents with a replay need them."""
    following: Inputs | None = None
    """inputs[T], which agents need that learn from what their last action led to."""
