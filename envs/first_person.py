"""First-person environments: one engine per slot, 84 x 84 RGB observations, SAME_STEP autoreset."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from envs import slots

OBSERVATION_SHAPE = (3, 84, 84)
"""Shape of an observation: RGB, channels first; uint8."""
FRAMES_PER_STEP = 4
"""Engine frames per agent step, all with the same action, as in the paper on DeepMind Lab."""

Result = TypeVar("Result")


class Outcome(NamedTuple):
    """What one agent step in one slot led to."""

    reward: float
    """Raw reward, summed over the frames of the step."""
    terminated: bool
    """Whether the episode terminated."""
    truncated: bool
    """Whether the episode was truncated."""
    frame: NDArray[np.uint8] | None
    """Frame after the step, `[3, 84, 84]`; None if the engine shows none at an episode's end."""


class FirstPersonVectorEnv(slots.SlotVectorEnv):
    """`num_envs` engines stepped together. See `envs.make.make_vec` for the contract of `step`.

    A subclass defines `check`, `_begin` and `_act`, each of the latter for one slot, and
    `close_extras`. The final observation of an episode is the frame of its last step or, if there
    is none, the frame before it.
    """

    def __init__(self, num_envs: int, num_actions: int) -> None:
        super().__init__(num_envs, spaces.Box(0, 255, OBSERVATION_SHAPE, np.uint8), num_actions)
        self._seen = np.zeros((num_envs, *OBSERVATION_SHAPE), dtype=np.uint8)  # [B, 3, 84, 84]

    def reset(
        self, *, seed: slots.Seed = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        """Start a new episode in every slot; see `envs.make.make_vec`."""
        if options:
            raise ValueError(f"first-person levels take no reset options, got {sorted(options)}")
        if self._seed(seed):
            self._restart()
        self._seen = np.stack(self._in_every_slot(self._begin))
        return self._seen.copy(), {}

    def step(self, actions: NDArray[np.integer[Any]]) -> slots.Stepped:
        """Play one agent step in every slot; see `envs.make.make_vec`."""
        chosen = self._checked(actions).tolist()
        outcomes = self._in_every_slot(lambda slot: self._play(slot, chosen[slot]))
        terminated = np.array([outcome.terminated for outcome, _ in outcomes], dtype=np.bool_)
        truncated = np.array([outcome.truncated for outcome, _ in outcomes], dtype=np.bool_)
        info = self._no_info()
        if (terminated | truncated).any():
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
        """Play one step; return the next episode's first frame too, if the episode ended."""
        outcome = self._act(slot, action)
        over = outcome.terminated or outcome.truncated
        return outcome, self._begin(slot) if over else None

    def _in_every_slot(self, play: Callable[[int], Result]) -> list[Result]:
        """Call `play` for every slot."""
        return [play(slot) for slot in range(self.num_envs)]

    def _restart(self) -> None:
        """Reset what outlives an episode, after a seeded reset."""

    def _begin(self, slot: int) -> NDArray[np.uint8]:
        """Begin an episode, seeded from the slot's generator; return its first frame."""
        raise NotImplementedError

    def _act(self, slot: int, action: int) -> Outcome:
        """Play one agent step."""
        raise NotImplementedError
