"""Spaces of an environment as the learner sees them: images, vectors and discrete numbers.

Each class here converts between a space of an environment, `inner`, and what the learner sees,
`outer`. `Normalised` does so for all that a Gymnasium environment gives and takes.

| inner | outer |
|---|---|
| observation `Box` of one dimension, any number type | unchanged |
| observation `Discrete(n)`, with any `start` | one-hot float32 vector `[n]` |
| observation `Box` uint8 image `[H, W, C]`, `[C, H, W]` or `[H, W]` | `[C, H, W]`, contiguous |
| observations of several parts without images | one vector, by `flatten` |
| observations of several parts with images | `Tuple` of these and, last, a vector of all else |
| action `Discrete(n, start=s)` | `Discrete(n)`: 0 is played as `s` |
| action `Box` of one dimension, float | the same bounds; actions outside are clipped to them |
| actions of several discrete numbers | `MultiDiscrete` from 0 |

Parts are taken in the order of the space, at any depth. Where there is one part alone, outer is
that part. `gymnasium.spaces.flatten` shows discrete numbers one-hot.

This file needs Gymnasium alone, and lies beside exported policies as `environment.py`.
"""

import textwrap
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

MASK = "action_mask"
"""Key of an `info` under which an environment says which actions are legal now."""
_DISCRETE = (spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)


def is_image(space: spaces.Space[Any]) -> bool:
    """Return whether a space is one of images, uint8 `[H, W, C]`, `[C, H, W]` or `[H, W]`."""
    return isinstance(space, spaces.Box) and len(space.shape) in (2, 3) and space.dtype == np.uint8


def is_of_numbers(space: spaces.Space[Any]) -> bool:
    """Return whether a space, or each part of it, is one of numbers of a fixed shape; not empty."""
    leaves = _leaves(space)
    return bool(leaves) and all(isinstance(leaf, (spaces.Box, *_DISCRETE)) for leaf in leaves)


def is_of_discrete(space: spaces.Space[Any]) -> bool:
    """Return whether a space, or each part of it, is one of discrete numbers, and not empty."""
    leaves = _leaves(space)
    return bool(leaves) and all(isinstance(leaf, _DISCRETE) for leaf in leaves)


def _leaves(space: spaces.Space[Any]) -> list[spaces.Space[Any]]:
    """Return the parts of a space that have no parts themselves, in order."""
    if isinstance(space, spaces.Dict):
        return [leaf for part in space.values() for leaf in _leaves(part)]
    if isinstance(space, spaces.Tuple):
        return [leaf for part in space for leaf in _leaves(part)]
    return [space]


def _values(space: spaces.Space[Any], value: Any) -> list[Any]:
    """Return the parts of a value of a space, as `_leaves` orders them; None has parts None."""
    if isinstance(space, spaces.Dict):
        of_parts = [(part, None if value is None else value[k]) for k, part in space.items()]
    elif isinstance(space, spaces.Tuple):
        of_parts = list(zip(space, [None] * len(space) if value is None else value, strict=True))
    else:
        return [value]
    return [one for part, inside in of_parts for one in _values(part, inside)]


class Image:
    """Images with their channels first.

    The smaller one of an image's first and last axis is its channels, the last if both are equal.
    """

    def __init__(self, inner: spaces.Box) -> None:
        self._shape = inner.shape
        self.outer = spaces.Box(
            self._channels_first(inner.low).copy(),
            self._channels_first(inner.high).copy(),
            dtype=np.uint8,
        )

    def seen(self, obs: Any) -> NDArray[np.uint8]:
        """Return a contiguous copy of an image, [C, H, W]."""
        image: NDArray[np.uint8] = self._channels_first(np.asarray(obs)).copy(order="C")
        return image

    def _channels_first(self, image: NDArray[Any]) -> NDArray[Any]:
        if len(self._shape) == 2:
            return image[None]  # [1, H, W]
        if self._shape[2] <= self._shape[0]:
            return image.transpose(2, 0, 1)  # [H, W, C] -> [C, H, W]
        return image


class Observation:
    """Observations of several parts."""

    outer: spaces.Box | spaces.Tuple[Any]

    def __init__(self, inner: spaces.Space[Any]) -> None:
        self._inner = inner
        leaves = _leaves(inner)
        self._images = {
            at: Image(leaf)
            for at, leaf in enumerate(leaves)
            if isinstance(leaf, spaces.Box) and is_image(leaf)
        }
        rest = [leaf for leaf in leaves if not is_image(leaf)]
        # Without images, flattened as it is: the vectors of the runs that were begun so.
        self._rest = spaces.Tuple(rest) if self._images else inner
        outer: list[spaces.Space[Any]] = [image.outer for image in self._images.values()]
        if rest:
            outer.append(spaces.flatten_space(self._rest))
        self._alone = len(outer) == 1
        self._has_rest = bool(rest)
        only = outer[0]
        assert isinstance(only, spaces.Box)
        self.outer = only if self._alone else spaces.Tuple(outer)

    def seen(self, obs: Any) -> NDArray[Any] | tuple[NDArray[Any], ...]:
        """Return the parts of an observation, as copies."""
        if not self._images:
            return np.array(spaces.flatten(self._rest, obs))
        values = _values(self._inner, obs)
        seen: list[NDArray[Any]] = [image.seen(values[at]) for at, image in self._images.items()]
        if self._has_rest:
            rest = tuple(value for at, value in enumerate(values) if at not in self._images)
            seen.append(np.array(spaces.flatten(self._rest, rest)))
        return seen[0] if self._alone else tuple(seen)


class Action:
    """Actions of several discrete parts, and their masks."""

    outer: spaces.Discrete | spaces.MultiDiscrete

    def __init__(self, inner: spaces.Space[Any]) -> None:
        self._inner = inner
        self._leaves = _leaves(inner)
        self._sizes = [size for leaf in self._leaves for size in _sizes(leaf)]
        if hasattr(inner, "used"):  # an `envs.function_call.FunctionCall`
            function_call: Any = type(inner)
            self.outer = function_call(self._sizes, inner.used)
        elif len(self._sizes) == 1:
            self.outer = spaces.Discrete(self._sizes[0])
        else:
            self.outer = spaces.MultiDiscrete(self._sizes)

    def played(self, action: Any) -> Any:
        """Return the action of the inner space for a number, or for numbers `[P]`."""
        return _built(self._inner, iter(np.atleast_1d(action)))

    def mask(self, mask: Any) -> NDArray[np.bool_]:
        """Return which values of all parts are legal, side by side, bool `[sum of sizes]`.

        A part whose mask allows nothing has its first value, as Gymnasium's `sample(mask)` does.

        Args:
            mask: A mask as Gymnasium's `inner.sample(mask)` takes it, or the masks of all parts
                side by side in one array. None for a part allows all of its values.

        Raises:
            ValueError: The mask does not fit the space.
        """
        try:
            masks = self._split(mask)
            fits = [part.shape for part in masks] == [(size,) for size in self._sizes]
        except (ValueError, TypeError, KeyError, IndexError, AttributeError):
            fits = False
        if not fits:
            raise ValueError(
                f"info['{MASK}'] is {textwrap.shorten(repr(mask), 200)}: give one as {self._inner} "
                "takes it in sample(mask)"
            )
        for part in masks:
            part[0] |= not part.any()
        return np.concatenate(masks)

    def _split(self, mask: Any) -> list[NDArray[np.bool_]]:
        """Return the masks of all numbers of an action; wrong masks may raise anything."""
        if isinstance(mask, np.ndarray) and mask.shape == (sum(self._sizes),):
            return np.split(mask.astype(np.bool_), np.cumsum(self._sizes)[:-1])
        pairs = zip(self._leaves, _values(self._inner, mask), strict=True)
        return [part for leaf, of_leaf in pairs for part in _masks(leaf, of_leaf)]


class Normalised(gymnasium.Wrapper[Any, Any, Any, Any]):
    """One scalar environment with the outer spaces of the module's docstring.

    Masks of discrete actions in `info["action_mask"]` become bool arrays.

    Every observation is a copy. Otherwise the reset of an environment that returns its own buffer
    would overwrite the last observation of the episode before it is read.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        inner, action = env.observation_space, env.action_space
        self._convert_obs: Callable[[Any], Any] = np.array  # a copy
        if isinstance(inner, spaces.Discrete):
            first, count = int(inner.start), int(inner.n)
            self.observation_space = spaces.Box(0.0, 1.0, (count,), np.float32)
            one_hot = np.eye(count, dtype=np.float32)
            self._convert_obs = lambda obs: one_hot[int(obs) - first].copy()
        elif isinstance(inner, spaces.Box) and len(inner.shape) > 1:
            image = Image(inner)
            self.observation_space, self._convert_obs = image.outer, image.seen
        elif not isinstance(inner, spaces.Box):
            several = Observation(inner)
            self.observation_space, self._convert_obs = several.outer, several.seen
        self._convert_action: Callable[[Any], Any] = lambda action: action
        self._action = None if isinstance(action, spaces.Box) else Action(action)
        if isinstance(action, spaces.Discrete):
            start = action.start
            self.action_space = spaces.Discrete(int(action.n))
            if start != 0:
                self._convert_action = lambda chosen: chosen + start
        elif isinstance(action, spaces.Box):
            low, high, dtype = action.low, action.high, action.dtype
            self._convert_action = lambda chosen: np.clip(chosen, low, high).astype(dtype)
        elif self._action is not None:
            self.action_space, self._convert_action = self._action.outer, self._action.played

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start an episode."""
        obs, info = self.env.reset(seed=seed, options=options)
        return self._convert_obs(obs), self._convert_info(info)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Play one step."""
        obs, reward, terminated, truncated, info = self.env.step(self._convert_action(action))
        info = self._convert_info(info)
        return self._convert_obs(obs), float(reward), bool(terminated), bool(truncated), info

    def _convert_info(self, info: dict[str, Any]) -> dict[str, Any]:
        """Return an info whose mask of discrete actions, if it has one, is a bool array."""
        if self._action is None or MASK not in info:
            return info
        return {**info, MASK: self._action.mask(info[MASK])}


def _sizes(leaf: spaces.Space[Any]) -> list[int]:
    """Return how many values each number in a discrete space has."""
    if isinstance(leaf, spaces.Discrete):
        return [int(leaf.n)]
    if isinstance(leaf, spaces.MultiDiscrete):
        return [int(size) for size in leaf.nvec.flatten()]
    assert isinstance(leaf, spaces.MultiBinary)
    return [2] * int(np.prod(leaf.shape))


def _built(space: spaces.Space[Any], numbers: Iterator[Any]) -> Any:
    """Return an action of a space from as many numbers as it needs."""
    if isinstance(space, spaces.Dict):
        return {name: _built(part, numbers) for name, part in space.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(_built(part, numbers) for part in space)
    if isinstance(space, spaces.Discrete):
        return space.start + next(numbers)
    count = int(np.prod(space.shape or ()))
    values = np.array([next(numbers) for _ in range(count)]).reshape(space.shape)
    start = space.start if isinstance(space, spaces.MultiDiscrete) else 0
    return (values + start).astype(space.dtype)


def _masks(leaf: spaces.Space[Any], mask: Any) -> list[NDArray[np.bool_]]:
    """Return the masks of all numbers of a discrete space, bool `[size]` each."""
    if mask is None:
        return [np.ones(size, np.bool_) for size in _sizes(leaf)]
    if isinstance(leaf, spaces.Discrete):
        return [np.array(mask, np.bool_)]
    if isinstance(leaf, spaces.MultiBinary):
        # Of each number: 0 and 1 say its only value, 2 leaves it free.
        return [np.array([one != 1, one != 0]) for one in np.asarray(mask).flatten()]
    assert isinstance(leaf, spaces.MultiDiscrete)
    if leaf.nvec.ndim == 1:
        of_all = (
            np.ones(size) if of_one is None else of_one
            for size, of_one in zip(leaf.nvec, mask, strict=True)
        )
        return [np.array(of_one, np.bool_) for of_one in of_all]
    rows = zip((leaf[at] for at in range(len(leaf.nvec))), mask, strict=True)
    return [part for row, of_row in rows for part in _masks(row, of_row)]
