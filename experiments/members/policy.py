"""A trained policy that acts in one environment and keeps its memory between steps.

    policy = load(".")                          # the directory that this file was exported to
    env = environment.Normalised(gymnasium.make("CartPole-v1"))
    observation, info = env.reset()
    policy.reset()
    reward, done = 0.0, False
    while not done:
        action = policy.act(observation, reward, action_mask=info.get("action_mask"))
        observation, reward, terminated, truncated, info = env.step(action)
        done = terminated or truncated

`python -m experiments.export RUN_DIR --to torch` copies this file beside the files that `load`
reads. It needs PyTorch and NumPy, and nothing of the suite that trained the policy. `policy.json`
says what the policy sees and does, and where it comes from. A policy for an environment of
Gymnasium also has `environment.py`, which needs Gymnasium. Its wrapper gives the environment the
spaces that the policy knows: several parts become images and one vector, and numbers count from 0.
"""

import itertools
import json
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

State = tuple[torch.Tensor, ...]
Obs = torch.Tensor | tuple[torch.Tensor, ...]
Step = Callable[..., tuple[torch.Tensor, torch.Tensor, State]]
PROGRAM, DESCRIPTION = "policy.pt2", "policy.json"
"""Names of the files of the network and of its description."""
ILLEGAL = -1e9
"""Logit of an illegal action, whose exponential is 0."""
_WAY_OUT = "use an environment with the protocol of its run, from make_env or environment.py"


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
        step: The network. From observations [B, ...] or a tuple of their parts, last actions
            [B, A], last rewards [B], whether an episode begins, bool [B], and the state, it makes
            the policy's parameters, values and the next state. The parameters are log-probabilities
            [B, A] of discrete actions, or mean and log-std [B, 2, A] of continuous ones. Those of
            an action of several parts lie side by side.
        seed: Seed of the actions, if they are sampled as in training.
        deterministic: Whether to take the most likely action, and not a sample.
    """

    def __init__(
        self,
        description: Mapping[str, Any],
        step: Step,
        seed: int = 0,
        deterministic: bool = False,
    ) -> None:
        self.description = description
        self.step = step
        self.generator = torch.Generator().manual_seed(seed)
        self.deterministic = deterministic
        # Bounds of each dimension of a continuous action; None where there is none.
        low, high = description["action_low"], description["action_high"]
        self._low = [-math.inf if bound is None else bound for bound in low]  # [A]
        self._high = [math.inf if bound is None else bound for bound in high]  # [A]
        # Sizes of the parts of an action, [P]; of none, if it is in one piece.
        self._sizes: list[int] = description["action_parts"]
        self._used = torch.tensor(description["action_used"])  # bool [functions, P - 1], or [0]
        offsets = list(itertools.accumulate(self._sizes[:-1], initial=0)) if self._sizes else []
        self._one_hot = OneHot(description["action_size"], offsets, torch.device("cpu"))
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
    ) -> int | NDArray[np.int64] | NDArray[np.float32]:
        """Choose an action, and remember what was seen.

        Args:
            observation: One observation, as the environment gives it. One of several parts is a
                mapping or a sequence of them, as `description["observation"]` lists them.
            reward: Raw reward of the last action, 0 at the first step. A network with a memory sees
                it. Without one it sees 0, which is said once.
            first: Whether an episode begins here, which is the same as calling `reset` before.
            action_mask: Which discrete actions are legal, [A], where the environment says so in
                `info["action_mask"]`; the masks of several parts side by side. None for all.

        Returns:
            A discrete action; the numbers of its parts, int64 [P], each from 0; or a continuous
            action within the environment's bounds, [A].

        Raises:
            ValueError: The observation has other parts or another shape than those that the policy
                has learned from, or the mask has another shape than the actions.
        """
        seen = self._seen(observation)
        mask = None if action_mask is None else self._seen_mask(action_mask)
        if first:
            self.reset()
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
            seen,  # [1, ...]
            self._last_action,
            seen_reward(raw, scale, clips, cpu),
            torch.tensor([self._is_first]),
        )
        with torch.no_grad():
            action, self._state = self._choose(inputs, mask)  # [1], [1, P] or [1, A]
        self._last_action = self._one_hot(action)
        self._is_first = False
        if self._sizes:
            numbers: NDArray[np.int64] = action[0].numpy()
            return numbers
        if not action.is_floating_point():
            return int(action)
        clipped = np.clip(action[0].numpy(), self._low, self._high)
        bounded: NDArray[np.float32] = clipped.astype(np.float32)
        return bounded

    def _seen(self, observation: Any) -> Obs:
        """Return an observation, or a tuple of its parts, as the network sees them, [1, ...]."""
        parts: list[torch.Tensor] = []
        listed = self.description["observation"]
        for one in listed:
            key, dtype, shape = one["key"], one["dtype"], tuple(one["shape"])
            name = "the observation" if key is None else f"part {key!r} of the observation"
            try:
                part = np.asarray(observation if key is None else observation[key], dtype)
            except (TypeError, ValueError, LookupError) as error:
                raise ValueError(
                    f"{name} is missing, or is no array of {dtype}: {_WAY_OUT}"
                ) from error
            if part.shape != shape:
                raise ValueError(
                    f"{name} has the shape {part.shape}, and the policy has learned from {shape}: "
                    f"{_WAY_OUT}"
                )
            parts.append(seen_obs(part[None], torch.device("cpu")))
        return parts[0] if listed[0]["key"] is None else tuple(parts)

    def _seen_mask(self, action_mask: Any) -> torch.Tensor:
        """Return a mask as bool [1, A]."""
        mask = np.asarray(action_mask, np.bool_)
        if self.description["continuous"] or mask.shape != (self.description["action_size"],):
            raise ValueError(
                f"the action mask has the shape {mask.shape}: give one value per discrete action, "
                f"{self.description['action_size']} in all, and none for continuous actions"
            )
        return torch.tensor(mask[None])

    def _choose(
        self, inputs: tuple[Any, ...], mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, State]:
        """Return an action, int64 [1] or [1, P] or float32 [1, A], and the next state."""
        parameters, _, state = self.step(*inputs, self._state)
        if self.description["continuous"]:
            mean, log_std = parameters.unbind(-2)  # [1, A] each
            if self.deterministic:
                return mean, state
            noise = torch.randn(mean.shape, generator=self.generator)
            return mean + log_std.exp() * noise, state
        if mask is not None:
            parameters = parameters.masked_fill(~mask, ILLEGAL)
        numbers = []
        for part in torch.split(parameters, self._sizes or parameters.shape[-1], dim=-1):
            # The network's softmax; under a mask, over what is legal.
            probs = (part if mask is None else part.log_softmax(-1)).exp()  # [1, size]
            if self.deterministic:
                numbers.append(probs.argmax(-1, keepdim=True))
            else:
                numbers.append(torch.multinomial(probs, 1, generator=self.generator))
        action = torch.cat(numbers, dim=-1)  # [1, P]
        if len(self._used):  # arguments that the function does not use are 0
            action[:, 1:] *= self._used[action[:, 0]]
        return action if self._sizes else action.squeeze(-1), state


def load(directory: str | Path, seed: int = 0, deterministic: bool = False) -> Policy:
    """Load an exported policy. Its `step` is a `torch.nn.Module` with the trained weights.

    Args:
        directory: The directory of the exported files.
        seed: Seed of the actions, if they are sampled.
        deterministic: Whether to take the most likely action, and not a sample.
    """
    program = torch.export.load(Path(directory) / PROGRAM)
    description = json.loads((Path(directory) / DESCRIPTION).read_text())
    return Policy(description, program.module(), seed, deterministic)
