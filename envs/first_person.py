"""What first-person worlds share: one engine per slot, seen as 84 x 84 RGB, SAME_STEP autoreset."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from envs import slots

OBSERVATION_SHAPE = (3, 84, 84)
"""RGB, channels first; uint8."""
FRAMES_PER_STEP = 4
"""Engine frames per agent step, with the same action; the paper's too, on DeepMind Lab."""

Result = TypeVar("Result")


class Outcome(NamedTuple):
    """What one agent step in one slot led to."""

    reward: float
    """Raw, summed over the step's frames."""
    terminated: bool
    truncated: bool
    frame: NDArray[np.uint8] | None
    """`[3, 84, 84]`; None if the engine shows nothing at an episode's end."""


class FirstPersonVectorEnv(slots.SlotVectorEnv):
    """`num_envs` engines stepped together. See `envs.make.make_vec` for the contract of `step`.

    A world defines `_begin` and `_act`, each for one slot, and `close_extras`. An episode's final
    observation is the frame of its last step or, where there was none, the frame before it.
    """

    def __init__(self, num_envs: int, num_actions: int) -> None:
        super().__init__(num_envs, spaces.Box(0, 255, OBSERVATION_SHAPE, np.uint8), num_actions)
        self._seen = np.zeros((num_envs, *OBSERVATION_SHAPE), dtype=np.uint8)

    def reset(
        self,
        *,
        seed: slots.Seed = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        """Start a new episode in every slot; see `envs.make.make_vec`."""
        if options:
            raise ValueError(f"first-person worlds take no reset options, got {sorted(options)}")
        if self._seed(seed):
            self._restart()
        self._seen = np.stack(self._in_every_slot(self._begin))
        return self._seen.copy(), {}

    def step(
        self, actions: NDArray[np.integer[Any]]
    ) -> tuple[
        NDArray[np.uint8],
        NDArray[np.float64],
        NDArray[np.bool_],
        NDArray[np.bool_],
        dict[str, Any],
    ]:
        """Play one agent step in every slot; see `envs.make.make_vec`."""
        chosen = self._checked(actions).tolist()
        outcomes = self._in_every_slot(lambda slot: self._play(slot, chosen[slot]))
        terminated = np.array([outcome.terminated for outcome, _ in outcomes], dtype=np.bool_)
        truncated = np.array([outcome.truncated for outcome, _ in outcomes], dtype=np.bool_)
        info: dict[str, Any] = {
            "final_obs": None,
            "life_lost": np.zeros(self.num_envs, dtype=np.bool_),
        }
        over = np.flatnonzero(terminated | truncated)
        if over.size:
            info["final_obs"] = np.zeros_like(self._seen)
        for slot, (outcome, first) in enumerate(outcomes):
            if outcome.frame is not None:
                self._seen[slot] = outcome.frame
            if first is not None:
                info["final_obs"][slot] = self._seen[slot]
                self._seen[slot] = first
        reward = np.array([outcome.reward for outcome, _ in outcomes], dtype=np.float64)
        return self._seen.copy(), reward, terminated, truncated, info

    def _play(self, slot: int, action: int) -> tuple[Outcome, NDArray[np.uint8] | None]:
        """One step, and the next episode's first frame where one ended."""
        outcome = self._act(slot, action)
        over = outcome.terminated or outcome.truncated
        return outcome, self._begin(slot) if over else None

    def _in_every_slot(self, play: Callable[[int], Result]) -> list[Result]:
        """Call for every slot."""
        return [play(slot) for slot in range(self.num_envs)]

    def _restart(self) -> None:
        """Forget what outlives an episode: the generators are new."""

    def _begin(self, slot: int) -> NDArray[np.uint8]:
        """Begin an episode, seeded from the slot's generator; return its first frame."""
        raise NotImplementedError

    def _act(self, slot: int, action: int) -> Outcome:
        """Play one agent step."""
        raise NotImplementedError
