"""Replay of the most recent steps of a member's environments.

Each environment has a ring of slots. A slot holds one frame, not a stack of frames, and what was
done there. An episode with stacks of k frames begins with k - 1 slots that hold only a frame, and
ends with a slot that holds only its last frame. For k = 4:

    kind      frame frame frame step step step ... step final | frame frame frame step ...
    is_first                    yes                                               yes

So the frames of each observation are in its own slot and the k - 1 slots before it. Where the
learner started over in the middle of an episode, the next `is_first` follows without a final slot.
"""

from typing import NamedTuple

import torch

from agents import frames, rollout

_FRAME, _STEP, _FINAL = 0, 1, 2

REWARDING_SHARE = 0.5
"""Probability of a rewarding draw in `sample_rewards` (Jaderberg et al. 2016, section 3.2)."""


class Sequences(NamedTuple):
    """N replayed sequences of up to T steps. Each stops where its episode ends."""

    inputs: rollout.Inputs
    """Inputs before each step and after the last, [T + 1, N, ...]. `is_first` is true at 0 only.
    From `length` on, the last inputs are repeated."""
    action: torch.Tensor
    """Actions, int64 [T, N]."""
    reward: torch.Tensor
    """Rewards as the agent learned from them, [T, N]."""
    discount: torch.Tensor
    """gamma, or 0 where the episode terminated or a life was lost, [T, N]."""
    terminated: torch.Tensor
    """Whether the step terminated its episode, bool [T, N]."""
    length: torch.Tensor
    """Steps of each sequence, 1 to T, int64 [N]. Beyond it, the fields above are meaningless."""


class SequenceBuffer:
    """A ring of slots for each environment; see the module's docstring.

    Args:
        num_slots: Slots of all environments together. A step takes one; an episode takes one more
            at its end, and one at its beginning for each older frame of a stack.
        num_envs: Number of environments.
        obs_shape: (C, H, W) of uint8 images.
        frame_channels: Channels of one frame; C / frame_channels frames are stacked, oldest first.
        num_actions: Number of discrete actions.
        device: Device of all tensors.

    Raises:
        ValueError: Observations are not stacks of such frames.
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
                f"observations of shape {obs_shape} are not stacks of frames of {frame_channels} "
                "channels"
            )
        self.stack = channels // frame_channels
        self._frame_channels = frame_channels
        self.num_slots = num_slots // num_envs
        """Slots of each environment."""
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
        """Empty all slots."""
        self._written.zero_()

    def filled(self) -> float:
        """Return the share of slots in use, from 0 to 1."""
        return float((self._written / self.num_slots).clamp(max=1).mean())

    def append(self, batch: rollout.Rollout) -> None:
        """Add an unroll that continues where the last one stopped.

        Args:
            batch: T steps of B environments, with their endings.
        """
        envs = torch.arange(self._written.shape[0], device=self._written.device)  # [B]
        for t, (inputs, step, ending) in enumerate(
            zip(batch.inputs, batch.steps, batch.endings, strict=True)
        ):
            assert isinstance(inputs.obs, torch.Tensor)  # images have no parts
            stacks = frames.split(inputs.obs, self._frame_channels)  # [B, stack, c, H, W]
            if self.stack > 1 and bool(inputs.is_first.any()):
                begun = envs[inputs.is_first]
                for older in range(self.stack - 1):
                    self._write(begun, stacks[begun, older], _FRAME)
            at = self._write(envs, stacks[:, -1], _STEP)  # [B]
            self._is_first[envs, at] = inputs.is_first
            self._action[envs, at] = step.action
            self._reward[envs, at] = batch.reward[t]
            self._discount[envs, at] = batch.discount[t]
            self._terminated[envs, at] = False
            if ending is not None:
                self._terminated[ending.slots, at[ending.slots]] = ending.terminated
                assert isinstance(ending.obs, torch.Tensor)
                last = frames.split(ending.obs, self._frame_channels)[:, -1]  # [n, c, H, W]
                self._write(ending.slots, last, _FINAL)

    def _write(self, envs: torch.Tensor, frame: torch.Tensor, kind: int) -> torch.Tensor:
        """Write one frame [n, c, H, W] into the next slot of each of `envs` [n]; return where."""
        at = self._written[envs] % self.num_slots
        self._frame.flatten(0, 1).index_copy_(0, envs * self.num_slots + at, frame)
        self._kind[envs, at] = kind
        self._is_first[envs, at] = False
        self._written[envs] += 1
        return at

    def sample(self, length: int, count: int, generator: torch.Generator) -> Sequences | None:
        """Draw sequences uniformly over all possible starts.

        The newest `length` slots are no possible starts, so that only an episode's end makes a
        sequence shorter.

        Args:
            length: Largest number of steps T.
            count: Number of sequences N.
            generator: Source of the draws.

        Returns:
            The sequences; None if there is no possible start yet.
        """
        goes_on = self._goes_on()  # [B, slots]
        starts = goes_on.clone()
        starts[:, : self._margin] = False
        starts[:, max(0, self.num_slots - length) :] = False
        drawn = _draw(starts, count, generator)
        if drawn is None:
            return None
        env, start = drawn
        steps = torch.arange(length + 1, device=start.device)
        window = goes_on[env.unsqueeze(-1), start.unsqueeze(-1) + steps[:-1]]  # [N, T]
        lengths = window.cumprod(1).sum(1)  # [N]
        position = start + torch.minimum(steps.unsqueeze(-1), lengths)  # [T + 1, N]
        at = self._physical(env, position)
        before = self._physical(env, position - 1)
        # An episode's first step has no last action and no last reward.
        led = (~self._is_first[env, at]).float()  # [T + 1, N]
        last_action = torch.nn.functional.one_hot(self._action[env, before], self._num_actions)
        is_first = torch.zeros(at.shape, dtype=torch.bool, device=at.device)
        is_first[0] = True
        return Sequences(
            rollout.Inputs(
                self._obs(env, position),
                last_action * led.unsqueeze(-1),  # [T + 1, N, A]
                self._reward[env, before] * led,
                is_first,
            ),
            self._action[env, at[:-1]],
            self._reward[env, at[:-1]],
            self._discount[env, at[:-1]],
            self._terminated[env, at[:-1]],
            lengths,
        )

    def sample_rewards(
        self, count: int, least_reward: float, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Draw three observations in a row and the reward that followed, skewed to rewards.

        Half of the draws, in expectation, are rewarding, whatever their share of the replay
        (Jaderberg et al. 2016, section 3.2). If only one kind was seen, all draws are of it.

        Args:
            count: Number of draws N.
            least_reward: Absolute reward from which a step is rewarding.
            generator: Source of the draws.

        Returns:
            Observations, uint8 [N, 3, C, H, W], and rewards [N]; None if too little was seen.
        """
        goes_on = self._goes_on()  # [B, slots]
        third = goes_on.clone()
        third[:, 1:] &= goes_on[:, :-1]
        third[:, 2:] &= goes_on[:, :-2]
        third[:, : self._margin + 2] = False
        logical = torch.arange(self.num_slots, device=third.device).expand_as(third)
        envs = torch.arange(third.shape[0], device=third.device).unsqueeze(-1).expand_as(third)
        reward = self._reward[envs, self._physical(envs, logical)]  # [B, slots]
        rewarding = _draw(third & (reward.abs() >= least_reward), count, generator)
        quiet = _draw(third & (reward.abs() < least_reward), count, generator)
        if rewarding is None or quiet is None:
            drawn = rewarding or quiet
            if drawn is None:
                return None
            env, position = drawn
        else:
            skewed = torch.rand(count, generator=generator, device=third.device) < REWARDING_SHARE
            env = torch.where(skewed, rewarding[0], quiet[0])
            position = torch.where(skewed, rewarding[1], quiet[1])
        steps = torch.arange(-2, 1, device=position.device)
        obs = self._obs(env.unsqueeze(-1), position.unsqueeze(-1) + steps)  # [N, 3, C, H, W]
        return obs, reward[env, position]

    @property
    def _margin(self) -> int:
        """Number of oldest slots that lack older frames, or their last action and reward."""
        return max(self.stack - 1, 1)

    def _goes_on(self) -> torch.Tensor:
        """Return whether the next slot holds what a step led to, bool [B, slots], oldest first."""
        envs = torch.arange(self._written.shape[0], device=self._written.device).unsqueeze(-1)
        logical = torch.arange(self.num_slots, device=self._written.device)
        at = self._physical(envs, logical)  # [B, slots]
        kind = self._kind[envs, at]
        goes_on = torch.zeros_like(kind, dtype=torch.bool)
        follows = (kind[:, 1:] != _FRAME) & ~self._is_first[envs, at][:, 1:]
        goes_on[:, :-1] = (kind[:, :-1] == _STEP) & follows
        unused = (self.num_slots - self._written).clamp(min=0).unsqueeze(-1)
        return goes_on & (logical >= unused)

    def _physical(self, env: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        """Return the index in the ring of a position; position 0 is the oldest slot."""
        return (self._written[env] + position) % self.num_slots

    def _obs(self, env: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        """Return the observations [..., C, H, W] at positions [...]."""
        ages = torch.arange(1 - self.stack, 1, device=position.device)
        at = self._physical(env.unsqueeze(-1), position.unsqueeze(-1) + ages)  # [..., stack]
        # One index for both axes is several times as fast as two.
        slots = self._frame.flatten(0, 1)  # [B * slots, c, H, W]
        chosen = slots.index_select(0, (env.unsqueeze(-1) * self.num_slots + at).flatten())
        return chosen.view(*position.shape, -1, *slots.shape[2:])


def _draw(
    possible: torch.Tensor, count: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Draw `count` true entries of bool [B, slots] with replacement: environments and slots."""
    choices = possible.nonzero()
    if len(choices) == 0:
        return None
    chosen = torch.randint(len(choices), (count,), generator=generator, device=possible.device)
    env, slot = choices[chosen].unbind(1)
    return env, slot
