"""What vector environments share: types, checks of seeds and actions, one generator per slot.

A slot is one of the environments that are stepped together.
"""

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

Seed = int | Sequence[int] | NDArray[np.integer[Any]] | None
Stepped = tuple[Any, NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]
"""Observation, reward, terminated, truncated and info, as `envs.make.make_vec` says."""


def slot_seeds(seed: Seed, num_envs: int) -> list[int] | None:
    """Return one seed per slot: an int counts up from slot 0, a sequence is taken as it is.

    Raises:
        ValueError: A seed is negative, or there is not one per slot.
    """
    if seed is None:
        return None
    if isinstance(seed, (int, np.integer)):
        seeds = [int(seed) + slot for slot in range(num_envs)]
    else:
        seeds = [int(one) for one in seed]
    if len(seeds) != num_envs:
        raise ValueError(f"got {len(seeds)} seeds for {num_envs} environments: give one per slot")
    if min(seeds) < 0:
        raise ValueError(f"seed {min(seeds)} is negative: give 0 or more")
    return seeds


def check_open(closed: bool, started: bool = True) -> None:
    """Raise RuntimeError if an environment was closed, or was not reset yet."""
    if closed:
        raise RuntimeError("the environment is closed")
    if not started:
        raise RuntimeError("step before reset: call reset first")


def discrete(actions: Any, num_envs: int, num_actions: int) -> NDArray[np.integer[Any]]:
    """Return the actions of one step as an array `[B]`.

    Raises:
        ValueError: They are not one integer per slot, or one is not in 0..num_actions - 1.
    """
    given: NDArray[Any] = np.asarray(actions)
    if (
        given.shape != (num_envs,)
        or not np.issubdtype(given.dtype, np.integer)
        or given.min() < 0
        or given.max() >= num_actions
    ):
        raise ValueError(
            f"actions {given} ({given.dtype}, shape {given.shape}) are not {num_envs} integers in "
            f"0..{num_actions - 1}"
        )
    return given


def multi_discrete(
    actions: Any, num_envs: int, sizes: NDArray[np.integer[Any]]
) -> NDArray[np.integer[Any]]:
    """Return the actions of one step, of P parts each, as an array `[B, P]`.

    Args:
        actions: One integer per slot and part.
        num_envs: Number of slots.
        sizes: Number of values of each part, `[P]`.

    Raises:
        ValueError: There is not one integer per slot and part, or one is out of its range.
    """
    given: NDArray[Any] = np.asarray(actions)
    if (
        given.shape != (num_envs, len(sizes))
        or not np.issubdtype(given.dtype, np.integer)
        or given.min() < 0
        or (given >= sizes).any()
    ):
        raise ValueError(
            f"actions {given} ({given.dtype}, shape {given.shape}) are not {num_envs} rows of "
            f"{len(sizes)} integers, each from 0 and below {sizes.tolist()}"
        )
    return given


class SlotVectorEnv(gymnasium.vector.VectorEnv[Any, Any, Any]):
    """`num_envs` environments with discrete actions, each with a generator of its own.

    A subclass defines `reset`, which calls `_seed`, and `step`, which calls `_checked`.
    """

    def __init__(self, num_envs: int, observation: spaces.Box, num_actions: int) -> None:
        self.num_envs = num_envs
        self.metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}
        self.single_observation_space = observation
        self.single_action_space = spaces.Discrete(num_actions)
        self.observation_space = gymnasium.vector.utils.batch_space(observation, num_envs)
        self.action_space = gymnasium.vector.utils.batch_space(self.single_action_space, num_envs)
        self._num_actions = num_actions
        self._generators: list[np.random.Generator] = []  # one per slot; empty before a reset

    def _seed(self, seed: Seed) -> bool:
        """Make new generators, unless there are some and no seed; return whether they are new."""
        check_open(self.closed)
        seeds = slot_seeds(seed, self.num_envs)
        if seeds is None and self._generators:
            return False
        from_entropy: list[int | None] = [None] * self.num_envs
        self._generators = [np.random.default_rng(one) for one in seeds or from_entropy]
        return True

    def _checked(self, actions: Any) -> NDArray[np.integer[Any]]:
        """Return the actions of a step, which must be possible now."""
        check_open(self.closed, bool(self._generators))
        return discrete(actions, self.num_envs, self._num_actions)

    def _no_info(self) -> dict[str, Any]:
        """Return the info of a step in which no episode ended and no life was lost."""
        return {"final_obs": None, "life_lost": np.zeros(self.num_envs, dtype=np.bool_)}
