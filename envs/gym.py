"""Gymnasium environments with one convention for spaces and episode ends.

The scalar form is always vectorised here (`vectorization_mode="sync"`, SAME_STEP). Some built-in
vector environments are NEXT_STEP, where the step after an episode's end is no transition, but would
enter the learner as one.

Spaces of an environment, and the spaces that the learner sees:

| inside | outside |
|---|---|
| observation `Box` of one dimension, any number type | unchanged |
| observation `Discrete(n)`, with any `start` | one-hot float32 vector `[n]` |
| observation `Box` uint8 image `[H, W, C]`, `[C, H, W]` or `[H, W]` | `[C, H, W]`, contiguous |
| observation `Dict`, `Tuple`, `MultiDiscrete` or `MultiBinary` of numbers | vector, by `flatten` |
| action `Discrete(n, start=s)` | `Discrete(n)`: 0 is played as `s` |
| action `Box` of one dimension, float | the same bounds; actions outside are clipped to them |

`gymnasium.spaces.flatten` shows `Discrete` parts one-hot. The smaller one of an image's first and
last axis is its channels, the last if both are equal. All other spaces are refused.
"""

import importlib.util
import textwrap
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from envs import atari, doom, ids, slots, toy

PACKAGES = {"MiniGrid-": "minigrid", "BabyAI-": "minigrid", "MiniWorld-": "miniworld"}
"""Packages that register environments when they are imported, by how the names begin."""


def unsupported(
    env_id: str, observation: spaces.Space[Any], action: spaces.Space[Any]
) -> str | None:
    """Return why the learner cannot use these spaces, and what it can use; None if it can."""
    if not isinstance(action, spaces.Discrete) and not (
        isinstance(action, spaces.Box)
        and len(action.shape) == 1
        and np.issubdtype(action.dtype, np.floating)
    ):
        return (
            f"{env_id} has action space {action}: supported is Discrete, or a float Box of one "
            "dimension"
        )
    if (
        isinstance(observation, spaces.Discrete)
        or _is_vector_or_image(observation)
        or _is_flattened(observation)
    ):
        return None
    wrapped, picked = "FlattenObservation(e)", ""
    if isinstance(observation, spaces.Dict):
        parts = [name for name, part in observation.items() if _is_vector_or_image(part)]
        if not parts:
            return _described(env_id, observation) + ": write a wrapper that returns one of these"
        name = next((one for one in parts if len(observation[one].shape or ()) > 1), parts[0])
        wrapped = f"TransformObservation(e, lambda o: o[{name!r}], e.observation_space[{name!r}])"
        picked = f" to learn from {name!r} alone"
    elif not isinstance(observation, spaces.Box):
        return _described(env_id, observation) + ": write a wrapper that returns one of these"
    return f"{_described(env_id, observation)}. {wrapping(env_id, wrapped)}{picked}"


def wrapping(env_id: str, wrapped: str) -> str:
    """Return how to register an environment in a wrapper, and what to start then, in one line.

    Args:
        env_id: The environment.
        wrapped: Expression of a wrapper from `gymnasium.wrappers` around the environment e.
    """
    name, _, arguments = wrapped.partition("(e")
    made = f'{name}(e := g.make("{env_id}"){arguments}'
    code = f"import gymnasium as g; g.register('Mine-v0', lambda **_: g.wrappers.{made})"
    return f"Write the line `{code}` into mine.py, and start with --env mine:Mine-v0"


def _described(env_id: str, observation: spaces.Space[Any]) -> str:
    said = " ".join(str(observation).split())
    return (
        f"{env_id} has observation space {textwrap.shorten(said, 300)}: supported is a Box of one "
        "dimension (a vector), a uint8 Box of two or three (an image), Discrete (seen one-hot), "
        "and what Gymnasium flattens into a vector of numbers"
    )


def _is_vector_or_image(space: spaces.Space[Any]) -> bool:
    return isinstance(space, spaces.Box) and (
        len(space.shape) == 1 or (len(space.shape) in (2, 3) and space.dtype == np.uint8)
    )


def _is_flattened(space: spaces.Space[Any]) -> bool:
    """Return whether a space is a composite one of numbers, and none of its parts an image."""
    if isinstance(space, spaces.Dict):
        return all(_is_flattened(part) or _is_number(part) for part in space.values())
    if isinstance(space, spaces.Tuple):
        return all(_is_flattened(part) or _is_number(part) for part in space)
    return isinstance(space, spaces.MultiDiscrete | spaces.MultiBinary)


def _is_number(space: spaces.Space[Any]) -> bool:
    return isinstance(space, spaces.Discrete) or (
        isinstance(space, spaces.Box) and (len(space.shape) < 2 or space.dtype != np.uint8)
    )


class Normalised(gymnasium.Wrapper[Any, Any, Any, Any]):
    """One scalar environment with the outer spaces of the module's docstring.

    Every observation is a copy. Otherwise the reset of an environment that returns its own buffer
    would overwrite the last observation of the episode before it is read.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        inner, action = env.observation_space, env.action_space
        self._convert_obs: Callable[[Any], NDArray[Any]] = np.array  # a copy
        if isinstance(inner, spaces.Discrete):
            first, count = int(inner.start), int(inner.n)
            self.observation_space = spaces.Box(0.0, 1.0, (count,), np.float32)
            one_hot = np.eye(count, dtype=np.float32)
            self._convert_obs = lambda obs: one_hot[int(obs) - first].copy()
        elif _is_flattened(inner):
            self.observation_space = spaces.flatten_space(inner)
            self._convert_obs = lambda obs: np.array(spaces.flatten(inner, obs))
        elif isinstance(inner, spaces.Box) and len(inner.shape) > 1:
            channels_first = _channels_first(inner.shape)
            self.observation_space = spaces.Box(
                channels_first(inner.low).copy(), channels_first(inner.high).copy(), dtype=np.uint8
            )
            self._convert_obs = lambda obs: channels_first(np.asarray(obs)).copy(order="C")
        self._convert_action: Callable[[Any], Any] = lambda action: action
        if isinstance(action, spaces.Discrete):
            start = action.start
            self.action_space = spaces.Discrete(int(action.n))
            if start != 0:
                self._convert_action = lambda chosen: chosen + start
        elif isinstance(action, spaces.Box):
            low, high, dtype = action.low, action.high, action.dtype
            self._convert_action = lambda chosen: np.clip(chosen, low, high).astype(dtype)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[Any], dict[str, Any]]:
        """Start an episode."""
        obs, info = self.env.reset(seed=seed, options=options)
        return self._convert_obs(obs), info

    def step(self, action: Any) -> tuple[NDArray[Any], float, bool, bool, dict[str, Any]]:
        """Play one step."""
        obs, reward, terminated, truncated, info = self.env.step(self._convert_action(action))
        return self._convert_obs(obs), float(reward), bool(terminated), bool(truncated), info


def _channels_first(shape: tuple[int, ...]) -> Callable[[NDArray[Any]], NDArray[Any]]:
    """Return a function that moves the channels of an image of this shape to the front."""
    if len(shape) == 2:
        return lambda image: image[None]  # [1, H, W]
    if shape[2] <= shape[0]:
        return lambda image: image.transpose(2, 0, 1)  # [H, W, C] -> [C, H, W]
    return lambda image: image


class GymVectorEnv(gymnasium.vector.VectorWrapper):
    """Copies of one Gymnasium environment. See `envs.make.make_vec` for the contract of `step`.

    Args:
        env_id: Registered id.
        num_envs: Number of copies.
        keywords: Arguments of the environment's constructor.
    """

    def __init__(self, env_id: str, num_envs: int, keywords: dict[str, Any]) -> None:
        super().__init__(
            gymnasium.make_vec(
                env_id,
                num_envs,
                vectorization_mode="sync",
                vector_kwargs={"autoreset_mode": AutoresetMode.SAME_STEP},
                wrappers=[Normalised],
                **keywords,
            )
        )
        self._started = False

    def reset(
        self, *, seed: slots.Seed = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start a new episode in every slot; see `envs.make.make_vec`."""
        # SyncVectorEnv takes a list of seeds, which VectorEnv's own signature does not say.
        seeds: Any = slots.slot_seeds(seed, self.num_envs)
        obs, info = self.env.reset(seed=seeds, options=options)
        self._started = True
        return obs, info

    def step(self, actions: Any) -> slots.Stepped:
        """Play one step in every slot; see `envs.make.make_vec`."""
        slots.check_open(self.env.closed, self._started)
        actions = self._checked(np.asarray(actions))
        obs, reward, terminated, truncated, info = self.env.step(actions)
        last = info.get("final_obs")  # an object array with None where no episode ended
        info["final_obs"] = None
        if last is not None:
            info["final_obs"] = np.zeros_like(obs)
            for slot in np.flatnonzero(terminated | truncated):
                info["final_obs"][slot] = last[slot]
        info["life_lost"] = np.zeros(self.num_envs, dtype=np.bool_)
        return obs, reward, terminated, truncated, info

    def _checked(self, actions: NDArray[Any]) -> NDArray[Any]:
        action = self.single_action_space
        if isinstance(action, spaces.Discrete):
            return slots.discrete(actions, self.num_envs, int(action.n))
        if actions.shape != self.action_space.shape:
            raise ValueError(f"actions have shape {actions.shape}: give {self.action_space.shape}")
        return actions


def inspect(env_id: str, keywords: dict[str, Any]) -> tuple[spaces.Space[Any], spaces.Space[Any]]:
    """Return the outer observation and action space of an environment, which is built and closed.

    Args:
        env_id: Registered id, or module:EnvId.
        keywords: Arguments of the environment's constructor.

    Raises:
        ValueError: The id is unknown, a package is missing, a keyword is wrong, or a space is not
            supported.
    """
    _import_module_of(env_id)
    name = env_id.rpartition(":")[2]
    if name not in gymnasium.registry:
        raise ValueError(_unknown(env_id, name))
    if gymnasium.registry[name].entry_point is None:
        raise ValueError(
            f"{env_id} is registered as a vector environment only: register its scalar form too "
            "(entry_point), which is vectorised here with episode ends kept apart"
        )
    try:
        env = gymnasium.make(name, **keywords)
    except gymnasium.error.DependencyNotInstalled as error:
        raise ValueError(f"{env_id} needs another package: {error}") from error
    except ImportError as error:
        raise ValueError(f"{env_id} cannot be imported: {error}") from error
    except TypeError as error:
        if not keywords:
            raise
        raise ValueError(f"{env_id} does not take {sorted(keywords)}: {error}") from error
    try:
        problem = unsupported(env_id, env.observation_space, env.action_space)
        if problem is not None:
            raise ValueError(problem)
        outer = Normalised(env)
        return outer.observation_space, outer.action_space
    finally:
        env.close()


def _import_module_of(env_id: str) -> None:
    """Import `module` of `module:EnvId`, which registers the environment."""
    module, colon, _ = env_id.rpartition(":")
    if not colon:
        return
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and (module == error.name or module.startswith(f"{error.name}.")):
            raise ValueError(
                f"{env_id}: no module named {error.name!r}; install it, or start the command "
                "where it can be imported"
            ) from error
        raise ValueError(f"{env_id}: {module} cannot be imported: {error}") from error
    except (ImportError, ValueError) as error:
        raise ValueError(f"{env_id}: {module!r} cannot be imported: {error}") from error


def _unknown(env_id: str, name: str) -> str:
    """Return the message about an unknown id; other versions of it are suggested first."""
    levels = [level.env_id for level in doom.LEVELS.values()]
    known = {one: one for one in (*gymnasium.registry, *atari.games(), *levels, *toy.ENVS)}
    stem = name.partition("-v")[0]
    versions = sorted(other for other in known if other.partition("-v")[0] == stem)
    hint = ids.did_you_mean(name, known, cutoff=0.6)
    if versions:
        hint = f"; did you mean {' or '.join(versions)}?"
    if (package := _package_of(name)) is not None and ":" not in env_id:
        return (
            f"unknown environment {env_id!r}: import {package}, which registers it, is missing. "
            f"Give {package}:{name}, after pip install {package}"
        )
    return (
        f"unknown environment {env_id!r}{hint} Give an Atari game (Pong), a first-person level "
        f"(Doom/MyWayHome), a Gymnasium id (CartPole-v1), or a toy environment "
        f"({', '.join(toy.ENVS)}). If a package registers it when it is imported, name that too: "
        f"module:{name or 'EnvId'}"
    )


def _package_of(name: str) -> str | None:
    """Return the package that registers environments whose names begin so, if it is well known."""
    return next((package for start, package in PACKAGES.items() if name.startswith(start)), None)
