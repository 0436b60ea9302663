"""The last few thousand steps of a member's worlds, to learn from again.

Each world has a ring of slots. A slot holds one frame, not a stack of them, and what was done
there. An episode of a world that shows stacks of k frames begins with k - 1 slots that hold only a
frame, and ends with one that holds only its last frame:

    kind      frame frame frame step step step ... step final | frame frame frame step ...
    is_first                    yes                                               yes

so every observation is read back as its own slot's frame and those of the k - 1 slots before it.
A stretch that was cut without an end (the learner forgot it) is followed by the next `is_first`.
"""

from typing import NamedTuple

import torch

from agents import rollout

_FRAME, _STEP, _FINAL = 0, 1, 2


class Sequences(NamedTuple):
    """N replayed sequences of up to T steps; each stops where its episode ends."""

    inputs: rollout.Inputs
    """[T + 1, N, ...]: what was seen before each step and after the last; `is_first` only at 0, so
    that the core's state is reset there. From `length` on, the last one is repeated."""
    action: torch.Tensor
    """int64 [T, N]."""
    reward: torch.Tensor
    """As learned from [T, N]."""
    discount: torch.Tensor
    """gamma, or 0 after a termination or a life loss [T, N]."""
    terminated: torch.Tensor
    """bool [T, N]."""
    length: torch.Tensor
    """Steps of each sequence, int64 [N], 1 to T; beyond it, all of the above mean nothing."""


class SequenceBuffer:
    """Replay of a member's own recent steps, `num_slots` in all worlds together.

    Memory: one frame per slot, so 2,000 slots are 14 MB of grey or 42 MB of RGB frames of 84 x 84.

    Args:
        num_slots: Steps kept, over all worlds; an episode's end costs one more slot, and its
            beginning as many as a stack has older frames.
        num_envs: Worlds.
        obs_shape: (C, H, W) of uint8 images.
        frame_channels: Channels of one frame; C / frame_channels frames are stacked, oldest first.
        num_actions: Discrete actions.
        device: Where it lives.

    Raises:
        ValueError: the shape is no stack of such frames.
    """

    def __init__(
        self,
        num_slots: int,
        num_envs: int,
        obs_shape: tuple[int, ...],
        frame_channels: int,
        num_actions: int,
        device: torch.device,
    ) -> None:
        channels, height, width = obs_shape
        if channels % frame_channels:
            raise ValueError(
                f"observations of shape {obs_shape} are no stack of frames of {frame_channels} "
                "channels"
            )
        self.stack = channels // frame_channels
        self.num_slots = num_slots // num_envs
        """Of each world."""
        self._num_actions = num_actions
        shape = (num_envs, self.num_slots)
        self._frame = torch.zeros(
            (*shape, frame_channels, height, width), dtype=torch.uint8, device=device
        )
        self._kind = torch.zeros(shape, dtype=torch.uint8, device=device)
        self._is_first = torch.zeros(shape, dtype=torch.bool, device=device)
        self._action = torch.zeros(shape, dtype=torch.int64, device=device)
        self._reward = torch.zeros(shape, device=device)
        self._discount = torch.zeros(shape, device=device)
        self._terminated = torch.zeros(shape, dtype=torch.bool, device=device)
        self._written = torch.zeros(num_envs, dtype=torch.int64, device=device)

    def clear(self) -> None:
        """Forget everything."""
        self._written.zero_()

    def filled(self) -> float:
        """Which part of the slots is in use, 0 to 1."""
        return float((self._written / self.num_slots).clamp(max=1).mean())

    def append(self, batch: rollout.Rollout) -> None:
        """Remember an unroll that goes on where the last one stopped."""
        worlds = torch.arange(self._written.shape[0], device=self._written.device)
        for t, (inputs, step, ending) in enumerate(
            zip(batch.inputs, batch.steps, batch.endings, strict=True)
        ):
            frames = _frames(inputs.obs, self.stack)  # [B, stack, c, H, W]
            if self.stack > 1 and bool(inputs.is_first.any()):
                begun = worlds[inputs.is_first]
                for older in range(self.stack - 1):
                    self._write(begun, frames[begun, older], _FRAME)
            at = self._write(worlds, frames[:, -1], _STEP)
            self._is_first[worlds, at] = inputs.is_first
            self._action[worlds, at] = step.action
            self._reward[worlds, at] = batch.reward[t]
            self._discount[worlds, at] = batch.discount[t]
            self._terminated[worlds, at] = False
            if ending is not None:
                self._terminated[ending.slots, at[ending.slots]] = ending.terminated
                last = _frames(ending.obs, self.stack)[:, -1]
                self._write(ending.slots, last, _FINAL)

    def _write(self, worlds: torch.Tensor, frame: torch.Tensor, kind: int) -> torch.Tensor:
        at = self._written[worlds] % self.num_slots
        self._frame.flatten(0, 1).index_copy_(0, worlds * self.num_slots + at, frame)
        self._kind[worlds, at] = kind
        self._is_first[worlds, at] = False
        self._written[worlds] += 1
        return at

    def sample(self, length: int, count: int, generator: torch.Generator) -> Sequences | None:
        """Draw `count` sequences of up to `length` steps, uniformly over all possible starts.

        The newest `length` slots of a world start none, so that only an episode's end cuts one
        short. None if there is no possible start: too little was seen.
        """
        goes_on = self._goes_on()
        starts = goes_on.clone()
        starts[:, : self._margin] = False
        starts[:, max(0, self.num_slots - length) :] = False
        drawn = _draw(starts, count, generator)
        if drawn is None:
            return None
        world, start = drawn
        steps = torch.arange(length + 1, device=start.device)
        window = goes_on[world.unsqueeze(-1), start.unsqueeze(-1) + steps[:-1]]  # [N, T]
        lengths = window.cumprod(1).sum(1)
        position = start + torch.minimum(steps.unsqueeze(-1), lengths)  # [T + 1, N]
        at = self._physical(world, position)
        before = self._physical(world, position - 1)
        # What led to a step is known but at an episode's first, where nothing did.
        led = (~self._is_first[world, at]).float()
        last_action = torch.nn.functional.one_hot(self._action[world, before], self._num_actions)
        is_first = torch.zeros(at.shape, dtype=torch.bool, device=at.device)
        is_first[0] = True
        return Sequences(
            rollout.Inputs(
                self._obs(world, position),
                last_action * led.unsqueeze(-1),
                self._reward[world, before] * led,
                is_first,
            ),
            self._action[world, at[:-1]],
            self._reward[world, at[:-1]],
            self._discount[world, at[:-1]],
            self._terminated[world, at[:-1]],
            lengths,
        )

    def sample_rewards(
        self, count: int, least_reward: float, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Three observations in a row, and the reward that followed the last; skewed.

        Each of the `count` draws is rewarding, |reward| >= least_reward, with probability 1/2,
        whatever their share of the replay (Jaderberg et al. 2016, section 3.2); if there is only
        one kind, all are of that.

        Returns:
            Observations uint8 [count, 3, C, H, W], one prediction's together, and rewards [count];
            None if too little was seen.
        """
        goes_on = self._goes_on()
        third = goes_on.clone()
        third[:, 1:] &= goes_on[:, :-1]
        third[:, 2:] &= goes_on[:, :-2]
        third[:, : self._margin + 2] = False
        logical = torch.arange(self.num_slots, device=third.device).expand_as(third)
        worlds = torch.arange(third.shape[0], device=third.device).unsqueeze(-1).expand_as(third)
        reward = self._reward[worlds, self._physical(worlds, logical)]
        rewarding = _draw(third & (reward.abs() >= least_reward), count, generator)
        quiet = _draw(third & (reward.abs() < least_reward), count, generator)
        if rewarding is None or quiet is None:
            drawn = rewarding or quiet
            if drawn is None:
                return None
            world, position = drawn
        else:
            coin = torch.rand(count, generator=generator, device=third.device) < 0.5
            world = torch.where(coin, rewarding[0], quiet[0])
            position = torch.where(coin, rewarding[1], quiet[1])
        steps = torch.arange(-2, 1, device=position.device)
        obs = self._obs(world.unsqueeze(-1), position.unsqueeze(-1) + steps)
        return obs, reward[world, position]

    @property
    def _margin(self) -> int:
        """Oldest slots whose observation, or what led to it, may be overwritten."""
        return max(self.stack - 1, 1)

    def _goes_on(self) -> torch.Tensor:
        """Where a step is followed by what it led to, bool [B, slots], oldest slot first."""
        worlds = torch.arange(self._written.shape[0], device=self._written.device).unsqueeze(-1)
        logical = torch.arange(self.num_slots, device=self._written.device)
        at = self._physical(worlds, logical)
        kind = self._kind[worlds, at]
        goes_on = torch.zeros_like(kind, dtype=torch.bool)
        follows = (kind[:, 1:] != _FRAME) & ~self._is_first[worlds, at][:, 1:]
        goes_on[:, :-1] = (kind[:, :-1] == _STEP) & follows
        unused = (self.num_slots - self._written).clamp(min=0).unsqueeze(-1)
        return goes_on & (logical >= unused)

    def _physical(self, world: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        """Where in the ring the slot of this age lies; position 0 is the oldest."""
        return (self._written[world] + position) % self.num_slots

    def _obs(self, world: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        """Observations [..., C, H, W] of slots [...]."""
        ages = torch.arange(1 - self.stack, 1, device=position.device)
        at = self._physical(world.unsqueeze(-1), position.unsqueeze(-1) + ages)
        # Whole frames by one index: three times as fast as by two.
        frames = self._frame.flatten(0, 1)
        chosen = frames.index_select(0, (world.unsqueeze(-1) * self.num_slots + at).flatten())
        return chosen.view(*position.shape, -1, *frames.shape[2:])


def _draw(
    possible: torch.Tensor, count: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """`count` draws with replacement from the true entries of bool [B, slots]: (world, slot)."""
    choices = possible.nonzero()
    if len(choices) == 0:
        return None
    chosen = torch.randint(len(choices), (count,), generator=generator, device=possible.device)
    world, slot = choices[chosen].unbind(1)
    return world, slot


def _frames(obs: torch.Tensor, stack: int) -> torch.Tensor:
    """Stacked observations [B, C, H, W] as frames [B, stack, c, H, W]."""
    return obs.view(obs.shape[0], stack, -1, *obs.shape[2:])
