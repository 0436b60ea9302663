"""What worlds with one generator per slot share, and what every world checks on its way in."""

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

Seed = int | Sequence[int] | NDArray[np.integer[Any]] | None


def slot_seeds(seed: Seed, num_envs: int) -> list[int] | None:
    """One seed per slot: an int counts up from slot 0, as in Gymnasium; a sequence is taken as is.

    Raises:
        ValueError: a negative seed, or not one per slot.
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


def discrete(actions: Any, num_envs: int, num_actions: int) -> NDArray[np.integer[Any]]:
    """The actions of one step, as an array `[B]`.

    Raises:
        ValueError: they are not one integer per slot, each of them an action.
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


class SlotVectorEnv(gymnasium.vector.VectorEnv[Any, Any, Any]):
    """`num_envs` worlds with discrete actions, each with a generator of its own.

    A world defines `reset`, which calls `_seed`, and `step`, which calls `_checked`.
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
        """Make the slots' generators, or let them run on without a seed; whether they are new."""
        if self.closed:
            raise RuntimeError("the environment is closed")
        seeds = slot_seeds(seed, self.num_envs)
        if seeds is None and self._generators:
            return False
        from_entropy: list[int | None] = [None] * self.num_envs
        self._generators = [np.random.default_rng(one) for one in seeds or from_entropy]
        return True

    def _checked(self, actions: Any) -> NDArray[np.integer[Any]]:
        """The actions of a step that may be taken now."""
        if self.closed:
            raise RuntimeError("the environment is closed")
        if not self._generators:
            raise RuntimeError("step before reset: call reset first")
        return discrete(actions, self.num_envs, self._num_actions)
