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

from collections.abc import Sequence
from typing import NamedTuple

import torch


class Inputs(NamedTuple):
    """What the agent sees at one step, [B, ...], or at all steps of an unroll, [T, B, ...]."""

    obs: torch.Tensor
    """Observations: uint8 images [..., C, H, W] or float32 vectors [..., D]."""
    last_action: torch.Tensor
    """Previous action [..., A], one-hot if discrete; zero where `is_first`."""
    last_reward: torch.Tensor
    """Previous reward [...], clipped if learning clips; zero where `is_first`."""
    is_first: torch.Tensor
    """Whether an episode starts here, so that the core's state is reset first; bool [...]."""


CoreState = tuple[torch.Tensor, ...]
"""(h, c) of an LSTM core, each [B, width]; empty for a feed-forward one. Agents with more memory
keep more tensors here, [B, ...] each."""


class Step(NamedTuple):
    """The agent's answer to one `Inputs`."""

    action: torch.Tensor
    """Action, int64 [B] or float32 [B, A] (not clipped); without graph."""
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
    obs: torch.Tensor
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
