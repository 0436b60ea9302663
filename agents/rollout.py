"""The one written time convention of this suite, and the batches that obey it.

At step t the agent sees `Inputs` t (the observation, and what led to it), is in core state t, and
chooses action t. The world answers with reward t, discount t and observation t + 1:

    inputs[t], state[t]  ->  action[t], value[t], state[t + 1]
    world.step(action[t])  ->  reward[t], discount[t], inputs[t + 1]

so `reward[t]` and `discount[t]` are the *consequences* of `action[t]`, and

    return[t] = reward[t] + discount[t] * return[t + 1],    return[T] = V(inputs[T], state[T])

`discount[t]` is gamma, or 0 where the episode terminated (or a life was lost). Where it was
truncated, the future is worth V(final observation) under the state *before* the reset: see
`truncation_value`. Inputs t + 1 of a finished episode belong to the next one: `is_first` is set,
last action and last reward are zero, and the network resets its state there. Arrays are time
first, then batch: [T, B, ...].
"""

from typing import NamedTuple

import torch


class Inputs(NamedTuple):
    """What the agent sees at one step [B, ...], or at all steps of an unroll [T, B, ...]."""

    obs: torch.Tensor
    """uint8 images [..., C, H, W] or float32 vectors [..., D]."""
    last_action: torch.Tensor
    """One-hot (discrete) or raw (continuous) previous action [..., A]; zero where `is_first`."""
    last_reward: torch.Tensor
    """Previous reward as learned from (clipped, if learning clips) [...]; zero where `is_first`."""
    is_first: torch.Tensor
    """bool [...]: an episode starts here, so the core's state is reset before this step."""


CoreState = tuple[torch.Tensor, ...]
"""(h, c), each [B, hidden], of an LSTM core; empty for a feed-forward one."""


class Step(NamedTuple):
    """What the agent answers to one `Inputs` [B]."""

    action: torch.Tensor
    """int64 [B] or float32 [B, A] (unclipped); never carries a graph."""
    log_prob: torch.Tensor
    """Of `action` [B]."""
    entropy: torch.Tensor
    """Of the policy, nats [B]; differential, so it may be negative, for continuous actions."""
    value: torch.Tensor
    """V(inputs, state) [B]."""
    state: CoreState
    """After this step."""


class Ending(NamedTuple):
    """What n of the B worlds showed last, where their episodes ended in the same step."""

    slots: torch.Tensor
    """Which worlds, int64 [n]."""
    obs: torch.Tensor
    """Their last observations [n, ...]: what the action of this step led to."""
    terminated: torch.Tensor
    """bool [n]: ended for good, and was not cut short."""


class Rollout(NamedTuple):
    """T steps of B parallel worlds, ready for one update."""

    inputs: tuple[Inputs, ...]
    """T steps, each [B, ...]: a tuple, since only a second pass needs them stacked."""
    initial_state: CoreState
    """Core state before step 0, without graph."""
    steps: tuple[Step, ...]
    """T answers. They carry the autograd graph if they were made by `act(..., keep_graph=True)`."""
    reward: torch.Tensor
    """As learned from [T, B]."""
    discount: torch.Tensor
    """gamma, or 0 after a termination or a life loss [T, B]."""
    truncated: torch.Tensor
    """bool [T, B]."""
    truncation_value: torch.Tensor
    """V(final observation) where truncated, else 0 [T, B]; no graph."""
    bootstrap_value: torch.Tensor
    """V(inputs[T], state[T]) [B]; no graph."""
    endings: tuple[Ending | None, ...] = ()
    """T entries, None where no episode ended; needed by agents that replay."""
