"""Actions that are a function and its arguments, of which each function uses its own."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray


class FunctionCall(spaces.MultiDiscrete):
    """A `MultiDiscrete` space whose first number decides which of the others count.

    The environment ignores what does not count, and the policy's log-probability and entropy leave
    it out. In StarCraft II a function such as `move` takes some of all arguments (Vinyals et al.
    2017, section 3.3).

    Args:
        nvec: Number of functions, then of the values of each argument, `[1 + arguments]`.
        used: Whether each function uses each argument, bool `[functions, arguments]`.
        seed: Seed of `sample`.

    Raises:
        ValueError: The table does not fit `nvec`.
    """

    def __init__(
        self,
        nvec: Sequence[int] | NDArray[np.integer[Any]],
        used: ArrayLike,
        seed: int | np.random.Generator | None = None,
    ) -> None:
        super().__init__(np.asarray(nvec), seed=seed)
        self.used: NDArray[np.bool_] = np.array(used, np.bool_)
        shape = (int(self.nvec[0]), len(self.nvec) - 1)
        if self.used.shape != shape:
            raise ValueError(
                f"the table of used arguments has shape {self.used.shape}: give {shape}, functions "
                "and arguments"
            )

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, FunctionCall)
            and super().__eq__(other)
            and np.array_equal(self.used, other.used)
        )
