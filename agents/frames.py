"""Keep the observations of a rollout without the frames that they share.

An observation may be a stack of the last k frames. The next one then has k - 1 of them again, and
a long rollout of stacks would need k times the memory of its frames.
"""

from collections.abc import Sequence
from typing import overload

import torch

from agents import rollout


def split(obs: torch.Tensor, channels: int) -> torch.Tensor:
    """Return observations [B, C, H, W] as their frames [B, k, c, H, W], oldest first.

    Args:
        obs: Observations.
        channels: Channels c of one frame.
    """
    return obs.view(obs.shape[0], -1, channels, *obs.shape[2:])


class SharedFrames(Sequence[rollout.Inputs]):
    """The inputs of a rollout, each frame of which is kept once.

    It is appended to and read like a list. An observation is put together when it is asked for. Its
    frames are those of the step before and a new one, unless an episode starts.

    Args:
        channels: Channels c of one frame.
    """

    def __init__(self, channels: int) -> None:
        self._channels = channels
        self._new: list[torch.Tensor] = []  # frames that came with each step, [n, c, H, W]
        self._at: list[torch.Tensor] = []  # numbers of the frames of each step's stacks, [B, k]
        self._begin: list[int] = []  # number of the first frame of each step
        self._rest: list[rollout.Inputs] = []  # the inputs, with rewards for observations

    def append(self, inputs: rollout.Inputs) -> None:
        """Add the inputs of one step, [B, ...]."""
        assert isinstance(inputs.obs, torch.Tensor)  # a stack of frames has no parts
        frames = split(inputs.obs, self._channels)  # [B, k, c, H, W]
        batch, stack = frames.shape[:2]
        whole = inputs.is_first if self._new else torch.ones_like(inputs.is_first)  # [B]
        older = frames[whole, :-1]  # [n, k - 1, c, H, W]
        begin = self._begin[-1] + len(self._new[-1]) if self._new else 0
        count = batch + older.shape[:2].numel()
        numbers = torch.arange(begin, begin + count, device=frames.device)
        newest = numbers[:batch].unsqueeze(1)  # [B, 1]
        shared = self._at[-1][:, 1:] if self._new else newest.expand(-1, stack - 1)
        at = torch.cat((shared, newest), dim=1)  # [B, k]
        at[whole, :-1] = numbers[batch:].view(older.shape[:2])
        self._new.append(torch.cat((frames[:, -1], older.flatten(0, 1))))
        self._at.append(at)
        self._begin.append(begin)
        self._rest.append(inputs._replace(obs=inputs.last_reward))

    def __len__(self) -> int:
        """Return the number of steps."""
        return len(self._new)

    @overload
    def __getitem__(self, index: int) -> rollout.Inputs: ...
    @overload
    def __getitem__(self, index: slice) -> list[rollout.Inputs]: ...
    def __getitem__(self, index: int | slice) -> rollout.Inputs | list[rollout.Inputs]:
        """Return the inputs of one step, or of several."""
        if isinstance(index, slice):
            return [self[t] for t in range(*index.indices(len(self)))]
        t = range(len(self))[index]
        # None of a stack's frames came more than k - 1 steps ago.
        oldest = max(0, t + 1 - self._at[t].shape[1])
        frames = torch.cat(self._new[oldest : t + 1])
        obs = frames[self._at[t] - self._begin[oldest]].flatten(1, 2)  # [B, C, H, W]
        return self._rest[t]._replace(obs=obs)

    def rest(self) -> list[rollout.Inputs]:
        """Return the inputs of all steps, with the last rewards in place of the observations."""
        return self._rest


def without_obs(inputs: Sequence[rollout.Inputs]) -> rollout.Inputs:
    """Return the inputs of T steps, [T, B, ...], with rewards in place of the observations."""
    if isinstance(inputs, SharedFrames):
        return rollout.stack(inputs.rest())
    return rollout.stack([one._replace(obs=one.last_reward) for one in inputs])
