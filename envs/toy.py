"""Five fast environments in NumPy: Catch, a memory chain, repetition, a maze, and a counter.

All are SAME_STEP: where an episode ends, the returned observation is the next one's first, and
`info["final_obs"]` holds the last. `t` counts the steps of an episode from 0.

**Catch** (after bsuite, Osband et al. 2020, arXiv 1908.03568): a ball falls down a board of 10
rows and 5 columns, from a random column of row 0. A paddle moves along row 9. Observation: the
board, float32 `[50]`, 1 at the ball and at the paddle. Actions: 0 left, 1 stay, 2 right. After 9
steps the ball is in row 9. The reward is +1 if the paddle is there, else -1, and the episode
terminates. The best return is 1; random play has a mean of -0.6.

**MemoryChain** (after bsuite's memory length): a cue `c`, 0 or 1 with equal probability, is shown
at `t = 0` only. The answer is due at `t = length`. Observation, float32 `[3]`: `(1, 0, 0)` or
`(0, 1, 0)` for the cue at `t = 0`, `(0, 0, 1)` at `t = length`, else zeros. The action at
`t = length` is rewarded with +1 if it equals `c`, else with -1, and the episode terminates. All
other rewards are 0. The observation at the answer does not depend on the cue, so without memory
every policy has an expected return of 0; with memory the best return is 1. (An agent that sees its
own last action has a memory.)

**RepeatPrevious** (after POPGym, Morad et al. 2023, arXiv 2303.01859): each step shows one of
`symbols` symbols with equal probability, and the action should be the symbol shown `delay` steps
before. Observation: the present symbol, one-hot, float32 `[symbols]`. Actions: the symbols. Reward:
0 in the first `delay` steps, then +1 for the right symbol, else -1. The episode terminates after
`delay + answers` steps. The present symbol tells nothing about the answer, so without memory every
policy has an expected return of `answers * (2 / symbols - 1)`; with memory the best is `answers`.

**CuedTMaze**: a corridor of `corridor` cells leads to a junction, with an arm of `arms` cells on
either side. Observation: the place, one-hot over corridor, junction, left arm from the junction
outwards and right arm, then the two cues, float32 `[corridor + 1 + 2 * arms + 2]`. A cue, left or
right with equal probability, is shown at `t = 0` only. Actions: 0 forward in the corridor, 1 left
and 2 right from the junction on; an action that leads into a wall does nothing. The episode
terminates at the end of either arm, with reward 1 if the cue named it, else 0. It is truncated
after `limit` steps. Without memory the best return is 0.5 in expectation, with memory 1. The arms
are longer than the default horizon of a FeUdal Network, so that a goal can name one.

**Counter** has no randomness, and every number tells where it comes from. For slot `i`, episode `e`
and step `t`, with the action `a` in 0..3 taken at that observation:

    observation   (i, e, t)                                  int32 [3]
    reward        1000 t + 100 (i mod 10) + 10 (e mod 10) + a
    length        3 + (i + 2 e) mod 5                        agent steps
    end           truncation if i + e is odd, else termination

The final observation is `(i, e, length)`, the next episode's first `(i, e + 1, 0)`. Seeds change
nothing; `reset` returns to `e = 0`.
"""

from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from envs import slots

Outcome = tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_]]
"""Reward, terminated and truncated of one step, [B] each."""


class ToyVectorEnv(slots.SlotVectorEnv):
    """The part that the five share: episode ends. Contract: `envs.make.make_vec`.

    A subclass defines `_begin`, `_observe` and `_advance`.
    """

    def reset(
        self, *, seed: slots.Seed = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[Any], dict[str, Any]]:
        """Start a new episode in every slot; without a seed, with the slots' own generators."""
        self._seed(seed)
        self._restart()
        self._begin(np.arange(self.num_envs))
        return self._observe(), {}

    def step(self, actions: NDArray[np.integer[Any]]) -> slots.Stepped:
        """Play one step in every slot."""
        reward, terminated, truncated = self._advance(self._checked(actions))
        info = self._no_info()
        over = np.flatnonzero(terminated | truncated)
        if over.size:
            info["final_obs"] = self._observe()
            self._begin(over)
        return self._observe(), reward, terminated, truncated, info

    def _restart(self) -> None:
        """Reset what outlives an episode."""

    def _begin(self, which: NDArray[np.intp]) -> None:
        """Begin a new episode in the given slots."""
        raise NotImplementedError

    def _observe(self) -> NDArray[Any]:
        """Return the current observation of every slot, in new memory."""
        raise NotImplementedError

    def _advance(self, actions: NDArray[np.integer[Any]]) -> Outcome:
        """Play one step in every slot."""
        raise NotImplementedError


class Catch(ToyVectorEnv):
    """Catch a falling ball with a paddle; see the module's docstring."""

    def __init__(self, num_envs: int, rows: int = 10, columns: int = 5) -> None:
        if rows < 2 or columns < 1:
            raise ValueError(f"a board of {rows} x {columns}: give at least 2 rows and 1 column")
        super().__init__(num_envs, spaces.Box(0.0, 1.0, (rows * columns,), np.float32), 3)
        self._rows, self._columns = rows, columns
        self._ball_row = np.zeros(num_envs, dtype=np.int64)  # [B]
        self._ball_column = np.zeros(num_envs, dtype=np.int64)  # [B]
        self._paddle = np.zeros(num_envs, dtype=np.int64)  # [B]

    def _begin(self, which: NDArray[np.intp]) -> None:
        self._ball_row[which] = 0
        self._ball_column[which] = [
            self._generators[slot].integers(self._columns) for slot in which
        ]
        self._paddle[which] = self._columns // 2

    def _observe(self) -> NDArray[Any]:
        board = np.zeros((self.num_envs, self._rows, self._columns), dtype=np.float32)
        every = np.arange(self.num_envs)
        board[every, self._ball_row, self._ball_column] = 1.0
        board[every, self._rows - 1, self._paddle] = 1.0
        return board.reshape(self.num_envs, -1)

    def _advance(self, actions: NDArray[np.integer[Any]]) -> Outcome:
        self._paddle = np.clip(self._paddle + actions - 1, 0, self._columns - 1)
        self._ball_row += 1
        landed = self._ball_row == self._rows - 1
        caught = self._ball_column == self._paddle
        reward = np.where(landed, np.where(caught, 1.0, -1.0), 0.0)
        return reward, landed, np.zeros(self.num_envs, dtype=np.bool_)


class MemoryChain(ToyVectorEnv):
    """Tell after `length` steps what the first one showed; see the module's docstring."""

    def __init__(self, num_envs: int, length: int = 5) -> None:
        if length < 1:
            raise ValueError(
                f"length is {length}: give at least 1 step between the cue and the answer"
            )
        super().__init__(num_envs, spaces.Box(0.0, 1.0, (3,), np.float32), 2)
        self._length = length
        self._cue = np.zeros(num_envs, dtype=np.int64)  # [B]
        self._t = np.zeros(num_envs, dtype=np.int64)  # [B]

    def _begin(self, which: NDArray[np.intp]) -> None:
        self._cue[which] = [self._generators[slot].integers(2) for slot in which]
        self._t[which] = 0

    def _observe(self) -> NDArray[Any]:
        obs = np.zeros((self.num_envs, 3), dtype=np.float32)
        obs[:, 0] = (self._t == 0) & (self._cue == 0)
        obs[:, 1] = (self._t == 0) & (self._cue == 1)
        obs[:, 2] = self._t == self._length
        return obs

    def _advance(self, actions: NDArray[np.integer[Any]]) -> Outcome:
        answered = self._t == self._length
        reward = np.where(answered, np.where(actions == self._cue, 1.0, -1.0), 0.0)
        self._t += 1
        return reward, answered, np.zeros(self.num_envs, dtype=np.bool_)


class RepeatPrevious(ToyVectorEnv):
    """Tell at every step what was shown `delay` steps before; see the module's docstring."""

    def __init__(self, num_envs: int, symbols: int = 3, delay: int = 2, answers: int = 12) -> None:
        if symbols < 2 or delay < 1 or answers < 1:
            raise ValueError(
                f"symbols={symbols}, delay={delay}, answers={answers}: give at least 2 symbols, "
                "a delay of 1 step and 1 answer"
            )
        super().__init__(num_envs, spaces.Box(0.0, 1.0, (symbols,), np.float32), symbols)
        self._symbols, self._delay, self._answers = symbols, delay, answers
        # Symbols of the running episode, and one more that is shown at its end.
        self._shown = np.zeros((num_envs, delay + answers + 1), dtype=np.int64)  # [B, T + 1]
        self._t = np.zeros(num_envs, dtype=np.int64)  # [B]
        self._slot = np.arange(num_envs)

    def _begin(self, which: NDArray[np.intp]) -> None:
        for slot in which:
            self._shown[slot] = self._generators[slot].integers(
                self._symbols, size=self._shown.shape[1]
            )
        self._t[which] = 0

    def _observe(self) -> NDArray[Any]:
        obs = np.zeros((self.num_envs, self._symbols), dtype=np.float32)
        obs[self._slot, self._shown[self._slot, self._t]] = 1.0
        return obs

    def _advance(self, actions: NDArray[np.integer[Any]]) -> Outcome:
        asked = self._t - self._delay
        right = self._shown[self._slot, np.maximum(asked, 0)] == actions
        reward = np.where(asked < 0, 0.0, np.where(right, 1.0, -1.0))
        self._t += 1
        over = self._t == self._delay + self._answers
        return reward, over, np.zeros(self.num_envs, dtype=np.bool_)


class CuedTMaze(ToyVectorEnv):
    """Walk to the end of the arm that the first step showed; see the module's docstring."""

    def __init__(self, num_envs: int, corridor: int = 8, arms: int = 12, limit: int = 60) -> None:
        if corridor < 1 or arms < 1 or limit < corridor + arms:
            raise ValueError(
                f"corridor={corridor}, arms={arms}, limit={limit}: give a corridor and arms of at "
                "least 1 cell, and a limit of at least as many steps as both together"
            )
        cells = corridor + 1 + 2 * arms
        super().__init__(num_envs, spaces.Box(0.0, 1.0, (cells + 2,), np.float32), 3)
        self._corridor, self._arms, self._limit = corridor, arms, limit
        self._cue = np.zeros(num_envs, dtype=np.int64)  # 0 left, 1 right; [B]
        self._along = np.zeros(num_envs, dtype=np.int64)  # cell of the corridor, then junction
        self._across = np.zeros(num_envs, dtype=np.int64)  # cells right of the junction; [B]
        self._t = np.zeros(num_envs, dtype=np.int64)  # [B]

    def _begin(self, which: NDArray[np.intp]) -> None:
        self._cue[which] = [self._generators[slot].integers(2) for slot in which]
        self._along[which] = self._across[which] = self._t[which] = 0

    def _observe(self) -> NDArray[Any]:
        obs = np.zeros((self.num_envs, self._corridor + 2 * self._arms + 3), dtype=np.float32)
        every, outwards = np.arange(self.num_envs), np.abs(self._across)
        is_right = self._across > 0
        obs[every, self._along + outwards + is_right * self._arms] = 1.0
        obs[every, self._cue - 2] = self._t == 0
        return obs

    def _advance(self, actions: NDArray[np.integer[Any]]) -> Outcome:
        at_junction = self._along == self._corridor
        self._along += (actions == 0) & ~at_junction
        self._across += np.where(at_junction & (actions > 0), np.where(actions == 1, -1, 1), 0)
        self._t += 1
        over = np.abs(self._across) == self._arms
        right = (self._across > 0) == (self._cue == 1)
        return (over & right).astype(np.float64), over, ~over & (self._t == self._limit)


class Counter(ToyVectorEnv):
    """An environment that counts, for tests of alignment; see the module's docstring."""

    def __init__(self, num_envs: int) -> None:
        limit = int(np.iinfo(np.int32).max)
        super().__init__(num_envs, spaces.Box(0, limit, (3,), np.int32), 4)
        self._episode = np.zeros(num_envs, dtype=np.int64)  # [B]
        self._t = np.zeros(num_envs, dtype=np.int64)  # [B]
        self._slot = np.arange(num_envs)  # [B]

    @staticmethod
    def episode_length(slot: Any, episode: Any) -> Any:
        """Return the number of steps of an episode; arguments are ints or arrays of them."""
        return 3 + (slot + 2 * episode) % 5

    @staticmethod
    def reward(slot: Any, episode: Any, step: Any, action: Any) -> Any:
        """Return the reward of `action` at the observation `(slot, episode, step)`."""
        return 1000 * step + 100 * (slot % 10) + 10 * (episode % 10) + action

    @staticmethod
    def truncates(slot: Any, episode: Any) -> Any:
        """Return whether an episode ends by truncation, not by termination."""
        return (slot + episode) % 2 == 1

    def _restart(self) -> None:
        self._episode[:] = -1

    def _begin(self, which: NDArray[np.intp]) -> None:
        self._episode[which] += 1
        self._t[which] = 0

    def _observe(self) -> NDArray[Any]:
        return np.stack([self._slot, self._episode, self._t], axis=1).astype(np.int32)

    def _advance(self, actions: NDArray[np.integer[Any]]) -> Outcome:
        reward = self.reward(self._slot, self._episode, self._t, actions).astype(np.float64)
        self._t += 1
        over = self._t == self.episode_length(self._slot, self._episode)
        truncates = self.truncates(self._slot, self._episode)
        return reward, over & ~truncates, over & truncates


ENVS: dict[
    str,
    type[Catch] | type[MemoryChain] | type[RepeatPrevious] | type[CuedTMaze] | type[Counter],
] = {
    "Catch": Catch,
    "MemoryChain": MemoryChain,
    "RepeatPrevious": RepeatPrevious,
    "CuedTMaze": CuedTMaze,
    "Counter": Counter,
}
