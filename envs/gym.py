"""Gymnasium environments with one convention for spaces and episode ends.

The scalar form is always vectorised here (`vectorization_mode="sync"`, SAME_STEP). Some built-in
vector environments are NEXT_STEP, where the step after an episode's end is no transition, but would
enter the learner as one.

`envs.parts` says which spaces an environment may have, and which ones the learner sees instead.
All other spaces are refused. Masks of discrete actions in `info["action_mask"]` become bool arrays,
as `envs.make.make_vec` says.
"""

import importlib.util
import textwrap
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import concatenate, create_empty_array
from numpy.typing import NDArray

from envs import atari, doom, ids, parts, slots, toy

PACKAGES = {"MiniGrid-": "minigrid", "BabyAI-": "minigrid", "MiniWorld-": "miniworld"}
"""Packages that register environments when they are imported, by how the names begin."""


def unsupported(
    env_id: str, observation: spaces.Space[Any], action: spaces.Space[Any]
) -> str | None:
    """Return why the learner cannot use these spaces, and what it can use; None if it can."""
    if not parts.is_of_discrete(action) and not (
        isinstance(action, spaces.Box)
        and len(action.shape) == 1
        and np.issubdtype(action.dtype, np.floating)
    ):
        return (
            f"{env_id} has action space {action}: supported is Discrete, MultiDiscrete, "
            "MultiBinary, a Dict or Tuple of these, or a float Box of one dimension"
        )
    if isinstance(observation, spaces.Box):
        if len(observation.shape) == 1 or parts.is_image(observation):
            return None
        return f"{_described(env_id, observation)}. {wrapping(env_id, 'FlattenObservation(e)')}"
    if parts.is_of_numbers(observation):
        return None
    kept: list[Any] = []
    if isinstance(observation, spaces.Dict):
        kept = [name for name, part in observation.items() if parts.is_of_numbers(part)]
    elif isinstance(observation, spaces.Tuple):
        kept = [at for at, part in enumerate(observation) if parts.is_of_numbers(part)]
    if not kept:
        return _described(env_id, observation) + ": write a wrapper that returns one of these"
    wrapped = wrapping(env_id, f"FilterObservation(e, {kept})")
    return f"{_described(env_id, observation)}. {wrapped} to learn from {kept} alone"


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
        "MultiDiscrete, MultiBinary, and a Dict or Tuple of these and of other boxes"
    )


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
                wrappers=[parts.Normalised],
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
        self._gives_masks = parts.MASK in info
        return obs, info

    def step(self, actions: Any) -> slots.Stepped:
        """Play one step in every slot; see `envs.make.make_vec`."""
        slots.check_open(self.env.closed, self._started)
        actions = self._checked(np.asarray(actions))
        obs, reward, terminated, truncated, info = self.env.step(actions)
        last = info.get("final_obs")  # an object array with None where no episode ended
        info["final_obs"] = None
        if last is not None:
            info["final_obs"] = _rows(obs, last, np.flatnonzero(terminated | truncated))
        info["life_lost"] = np.zeros(self.num_envs, dtype=np.bool_)
        if (parts.MASK in info) != self._gives_masks or not info.get(f"_{parts.MASK}", _ALL).all():
            raise ValueError(
                f"the environment gives info['{parts.MASK}'] in some steps only: give it in every "
                "reset and step, with 1 for all actions where all are legal"
            )
        return obs, reward, terminated, truncated, info

    def _checked(self, actions: NDArray[Any]) -> NDArray[Any]:
        action = self.single_action_space
        if isinstance(action, spaces.Discrete):
            return slots.discrete(actions, self.num_envs, int(action.n))
        if isinstance(action, spaces.MultiDiscrete):
            return slots.multi_discrete(actions, self.num_envs, action.nvec)
        if actions.shape != self.action_space.shape:
            raise ValueError(f"actions have shape {actions.shape}: give {self.action_space.shape}")
        return actions


_ALL = np.ones(1, dtype=np.bool_)


def _rows(obs: Any, last: Sequence[Any] | NDArray[Any], ended: NDArray[np.intp]) -> Any:
    """Return arrays like `obs` with the last observations of the slots that `ended`."""
    if isinstance(obs, tuple):
        columns = [[one if one is None else one[at] for one in last] for at in range(len(obs))]
        pairs = zip(obs, columns, strict=True)
        return tuple(_rows(part, column, ended) for part, column in pairs)
    rows = np.zeros_like(obs)
    for slot in ended:
        rows[slot] = last[slot]
    return rows


def inspect(env_id: str, keywords: dict[str, Any]) -> tuple[spaces.Space[Any], spaces.Space[Any]]:
    """Return the outer observation and action space of an environment, which is built and closed.

    Args:
        env_id: Registered id, or module:EnvId.
        keywords: Arguments of the environment's constructor.

    Raises:
        ValueError: The id is unknown, a package is missing, a keyword is wrong, a space is not
            supported, or the environment cannot be reset.
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
        outer = parts.Normalised(env)
        _try_reset(env_id, outer)
        return outer.observation_space, outer.action_space
    finally:
        env.close()


def _try_reset(env_id: str, env: parts.Normalised) -> None:
    """Reset an environment once, as its vector form will, and raise `ValueError` if it fails."""
    space = env.observation_space
    try:
        obs, _ = env.reset(seed=0)
        batch: Any = create_empty_array(space, 1)
        concatenate(space, [obs], batch)
    except Exception as error:  # an environment's own code may raise anything
        raise ValueError(
            f"{env_id} cannot be reset with a seed, or returns another observation than its space "
            f"{space} says: {type(error).__name__}: {error}"
        ) from error


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
    if ":" in env_id:
        return (
            f"unknown environment {env_id!r}{hint} Importing {env_id.rpartition(':')[0]} registers "
            f"no {name}: give an id that it registers"
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
