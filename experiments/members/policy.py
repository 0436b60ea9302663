"""A trained policy that acts in one environment and keeps its memory between steps.

    policy = load(".")                          # the directory that this file was exported to
    observation, _ = env.reset()
    policy.reset()
    reward, done = 0.0, False
    while not done:
        action = policy.act(observation, reward)
        observation, reward, terminated, truncated, _ = env.step(action)
        done = terminated or truncated

`python -m experiments.export RUN_DIR --to torch` copies this file beside the files that `load`
reads. It needs PyTorch and NumPy, and nothing of the suite that trained the policy. `policy.json`
says what the policy sees and does, and where it comes from.
"""

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

State = tuple[torch.Tensor, ...]
Step = Callable[..., tuple[torch.Tensor, torch.Tensor, State]]
PROGRAM, DESCRIPTION = "policy.pt2", "policy.json"
"""Names of the files of the network and of its description."""


def seen_obs(obs: NDArray[Any], device: torch.device) -> torch.Tensor:
    """Return observations [B, ...] as the network sees them."""
    tensor = torch.from_numpy(obs).to(device)
    if tensor.dtype != torch.uint8 or tensor.ndim < 4:  # a flattened image is a vector of bytes
        return tensor.float()
    return tensor.contiguous(memory_format=torch.channels_last)  # as convolutions want it


class OneHot:
    """Actions as the network sees them a step later, [B, A].

    Args:
        width: A: number of discrete actions, of the values of all parts of one of several parts, or
            dimensions of a continuous one.
        offsets: Where the codes of the parts begin; empty for an action in one piece.
        device: Where the actions are.
    """

    def __init__(self, width: int, offsets: Sequence[int], device: torch.device) -> None:
        self.width = width
        self._offsets = torch.tensor(offsets, device=device) if offsets else None  # [P]
        # As many actions of several parts as StarCraft's would need too large a matrix.
        self._codes = None if offsets else torch.eye(width, device=device)  # [A, A]

    def __call__(self, action: torch.Tensor) -> torch.Tensor:
        """Return the codes [B, A] of actions int64 [B] or [B, P]; continuous ones as they are."""
        if action.is_floating_point():
            return action
        if self._offsets is None:
            assert self._codes is not None
            return self._codes[action]
        codes = torch.zeros(len(action), self.width, device=action.device)
        return codes.scatter_(1, action + self._offsets, 1.0)


def seen_reward(
    reward: NDArray[Any], scale: float, clips: bool, device: torch.device
) -> torch.Tensor:
    """Return raw rewards as the network sees them a step later, [B]: scaled, then clipped."""
    seen = torch.as_tensor(reward * scale, dtype=torch.float32, device=device)
    return seen.clamp(-1, 1) if clips else seen


class Policy:
    """A policy for one environment.

    Args:
        description: The content of `policy.json`.
        step: The network. From observations [B, ...], last actions [B, A], last rewards [B],
            whether an episode begins, bool [B], and the state, it makes the policy's parameters,
            values and the next state. The parameters are log-probabilities [B, A] of discrete
            actions, or mean and log-std [B, 2, A] of continuous ones.
        seed: Seed of the actions, which are sampled as in training.
    """

    def __init__(self, description: Mapping[str, Any], step: Step, seed: int = 0) -> None:
        self.description = description
        self.step = step
        self.generator = torch.Generator().manual_seed(seed)
        self._one_hot = OneHot(description["action_size"], (), torch.device("cpu"))
        self._warned = False
        self.reset()

    def reset(self) -> None:
        """Forget what was seen. Call it where an episode begins."""
        self._state: State = tuple(
            torch.zeros(shape, dtype=getattr(torch, dtype))
            for shape, dtype in self.description["state"]
        )
        self._last_action = torch.zeros(1, self.description["action_size"])  # [1, A]
        self._is_first = True

    def act(
        self,
        observation: Any,
        reward: float | None = None,
        *,
        first: bool = False,
        action_mask: Any = None,
    ) -> int | NDArray[np.float32]:
        """Choose an action, and remember what was seen.

        Args:
            observation: One observation, as the environment gives it.
            reward: Raw reward of the last action, 0 at the first step. A network with a memory sees
                it. Without one it sees 0, which is said once.
            first: Whether an episode begins here, which is the same as calling `reset` before.
            action_mask: Which discrete actions are legal, [A], where the environment says so in
                `info["action_mask"]`. None for all.

        Returns:
            A discrete action, or a continuous one within the environment's bounds, [A].

        Raises:
            ValueError: The observation has another shape than those that the policy has learned
                from.
        """
        if first:
            self.reset()
        seen = np.asarray(observation, self.description["observation_dtype"])
        if list(seen.shape) != self.description["observation_shape"]:
            raise ValueError(
                f"the observation has the shape {seen.shape}, and the policy has learned from "
                f"{tuple(self.description['observation_shape'])}: use an environment with the "
                "protocol of its run"
            )
        if reward is None and not self._is_first and self._state and not self._warned:
            self._warned = True
            warnings.warn(
                "the policy sees the reward of its last action, which was not given and counts as "
                "0: write act(observation, reward)",
                stacklevel=2,
            )
        scale, clips = self.description["reward_scale"], self.description["clip_rewards"]
        raw = np.array([0.0 if self._is_first or reward is None else reward])  # [1]
        cpu = torch.device("cpu")
        inputs = (
            seen_obs(seen[None], cpu),  # [1, ...]
            self._last_action,
            seen_reward(raw, scale, clips, cpu),
            torch.tensor([self._is_first]),
        )
        mask = None if action_mask is None else torch.tensor(np.array([action_mask], np.bool_))
        with torch.no_grad():
            action, self._state = self._choose(inputs, mask)  # [1] or [1, A]
        self._last_action = self._one_hot(action)
        self._is_first = False
        if not action.is_floating_point():
            return int(action)
        low, high = self.description["action_low"], self.description["action_high"]
        bounded: NDArray[np.float32] = np.clip(action[0].numpy(), low, high).astype(np.float32)
        return bounded

    def _choose(
        self, inputs: tuple[torch.Tensor, ...], mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, State]:
        """Return an action, int64 [1] or float32 [1, A], and the next state."""
        parameters, _, state = self.step(*inputs, self._state)
        if self.description["continuous"]:
            mean, log_std = parameters.unbind(-2)  # [1, A] each
            noise = torch.randn(mean.shape, generator=self.generator)
            return mean + log_std.exp() * noise, state
        if mask is not None:  # the network's softmax, over what is legal
            parameters = parameters.masked_fill(~mask, -1e9).log_softmax(-1)
        action = torch.multinomial(parameters.exp(), 1, generator=self.generator)  # [1, 1]
        return action.squeeze(-1), state


def load(directory: str | Path, seed: int = 0) -> Policy:
    """Load an exported policy. Its `step` is a `torch.nn.Module` with the trained weights.

    Args:
        directory: The directory of the exported files.
        seed: Seed of the actions.
    """
    program = torch.export.load(Path(directory) / PROGRAM)
    description = json.loads((Path(directory) / DESCRIPTION).read_text())
    return Policy(description, program.module(), seed)
