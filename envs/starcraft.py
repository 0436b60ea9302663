"""Mini-games of StarCraft II through PySC2, for users who have the game.

The StarCraft II Learning Environment (Vinyals et al. 2017, https://arxiv.org/abs/1708.04782) has
seven mini-games (https://github.com/google-deepmind/pysc2/blob/master/docs/mini_games.md). PySC2 is
the extra `starcraft`. The game itself and the maps cannot be had from a package index, and the game
has Blizzard's licence; `envs.starcraft_game.HOW_TO_INSTALL` says where they are. This module was
tested against a stand-in that speaks the game's protocol, never against the game.

Ids are `StarCraft/MoveToBeacon`, with screen and minimap of 64 x 64 pixels, or
`StarCraft/MoveToBeacon-32` for 32 x 32. Module `envs.starcraft_interface` describes observations
and actions.

- An agent step is 8 game loops. Its reward is the change of the map's score, raw.
- `info["action_mask"]`, from `reset` and `step`, is bool `[B, S]`: whether each value of each part
  of an action is legal, the parts side by side as in `action_space`. Functions may be unavailable,
  all arguments are legal. An unavailable function raises ValueError before any game acts.
- `info["refused"]`, int64 `[B]`, counts the orders that the game refused.
- An episode is truncated at the map's time limit, which observations do not show. It terminates
  earlier where a map ends it with the player's last unit.
- Seeding: a seeded `reset` starts new processes, seeded from the slots' generators. Later episodes
  begin by the game's fast restart and go on with its own randomness.
- A game's process that dies, hangs or fails is replaced. The episode is truncated, its last
  observation is the last one seen, and `info["lost"]`, bool `[B]`, is true there.
"""

import concurrent.futures
import dataclasses
import logging
import re
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from envs import function_call, ids, slots, starcraft_game, starcraft_interface

_LOG = logging.getLogger(__name__)

PREFIX = "StarCraft/"
"""Beginning of every id."""
RESOLUTION = 64
"""Pixels a side of screen and minimap, where an id does not say."""
RESOLUTIONS = (8, 256)
"""The least and the largest resolution."""
MAX_LOSSES = 3
"""Number of losses of a slot's process that are made up for, with no finished episode between them.
The next one raises."""
GAME_LOOPS_PER_STEP = starcraft_game.GAME_LOOPS_PER_STEP
"""Game loops per agent step."""
GAME_LOOPS_PER_SECOND = 16
"""Game loops per second of the maps' time limits."""

Result = TypeVar("Result")
Observation = dict[str, NDArray[Any]]
"""Arrays by name, of one slot or `[B, ...]` of all."""


@dataclasses.dataclass(frozen=True)
class MiniGame:
    """A map, and how it is seen."""

    name: str
    """PySC2's name."""
    description: str
    """What to do for which rewards."""
    time_limit_s: int | None = None
    """Time limit in seconds, of maps that may end before it; None for those that cannot."""
    resolution: int = RESOLUTION
    """Pixels a side of screen and minimap."""

    @property
    def env_id(self) -> str:
        """The id in its shortest form."""
        size = "" if self.resolution == RESOLUTION else f"-{self.resolution}"
        return f"{PREFIX}{self.name}{size}"

    @property
    def observation_space(self) -> spaces.Dict:
        """Space of one observation."""
        return starcraft_interface.observation_space(self.resolution)

    @property
    def action_space(self) -> function_call.FunctionCall:
        """Space of one action."""
        return starcraft_interface.action_space(self.resolution)

    @property
    def protocol(self) -> str:
        """What is played, in one line."""
        size, functions = self.resolution, len(starcraft_interface.FUNCTIONS)
        return (
            f"{self.env_id}: screen and minimap of {size} x {size}, {functions} functions, "
            f"{GAME_LOOPS_PER_STEP} game loops per agent step"
        )


MINI_GAMES = {
    one.name: one
    for one in (
        MiniGame("MoveToBeacon", "walk to a beacon, which then moves: 1"),
        MiniGame("CollectMineralShards", "collect shards with two marines: 1"),
        MiniGame("FindAndDefeatZerglings", "explore and fight: 1, -1 for a marine lost", 180),
        MiniGame("DefeatRoaches", "fight in rounds: 10, -1 for a marine lost", 120),
        MiniGame("DefeatZerglingsAndBanelings", "fight in rounds: 5, -1 for a marine lost", 120),
        MiniGame("CollectMineralsAndGas", "run an economy: the minerals and gas collected"),
        MiniGame("BuildMarines", "run an economy, for marines: 1"),
    )
}
"""The seven mini-games. Rewards and ends are those of PySC2's documentation."""


def find_mini_game(env_id: str) -> MiniGame | None:
    """Return the mini-game of `StarCraft/MoveToBeacon-32`; None for other kinds of id.

    Raises:
        ValueError: The id is of this kind, but there is no such mini-game or resolution.
    """
    if not env_id.startswith(PREFIX):
        return None
    given, _, size = env_id.removeprefix(PREFIX).partition("-")
    if given not in MINI_GAMES:
        known = {one.name: one.env_id for one in MINI_GAMES.values()}
        raise ValueError(
            f"unknown StarCraft II mini-game {env_id!r}{ids.did_you_mean(given, known)} "
            f"There are {', '.join(MINI_GAMES)}"
        )
    if env_id == PREFIX + given:
        return MINI_GAMES[given]
    resolution = int(size) if re.fullmatch(r"[1-9]\d{0,3}", size, re.ASCII) else 0
    least, most = RESOLUTIONS
    if not least <= resolution <= most:
        raise ValueError(
            f"{env_id!r} does not end in a resolution from {least} to {most}: give "
            f"{PREFIX}{given}, which is {RESOLUTION} x {RESOLUTION}, or as {PREFIX}{given}-32"
        )
    return dataclasses.replace(MINI_GAMES[given], resolution=resolution)


class _Seen(NamedTuple):
    """What one slot shows after a reset or step."""

    obs: Observation
    available: NDArray[np.bool_]  # [functions]


class _Outcome(NamedTuple):
    """What one agent step in one slot led to."""

    reward: float
    terminated: bool
    truncated: bool
    lost: bool
    refused: int
    last: _Seen
    first: _Seen | None  # of the next episode, where one ended


class StarCraftVectorEnv(gymnasium.vector.VectorEnv[Any, Any, Any]):
    """`num_envs` games of one map. See `envs.make.make_vec` for the contract of `step`.

    Games start at the first `reset`, each in a process of its own. Observations and
    `info["final_obs"]` are dicts of arrays `[B, ...]`.

    Args:
        mini_game: Map to play.
        num_envs: Number of games.
    """

    @staticmethod
    def check(mini_game: MiniGame) -> None:
        """Refuse an installation without PySC2, the game or the map.

        Raises:
            ValueError: Something is missing; the message says how to get it.
        """
        starcraft_game.check(mini_game.name)

    def __init__(self, mini_game: MiniGame, num_envs: int) -> None:
        self.check(mini_game)
        self.num_envs = num_envs
        self.metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}
        batch = gymnasium.vector.utils.batch_space
        self._sizes = mini_game.action_space.nvec  # of an action's parts, the function first
        self.single_observation_space = mini_game.observation_space
        self.single_action_space = mini_game.action_space
        self.observation_space = batch(self.single_observation_space, num_envs)
        self.action_space = batch(self.single_action_space, num_envs)
        self.lost_episodes = 0
        """Number of episodes that were truncated because a process was lost."""
        self._mini_game = mini_game
        self._generators: list[np.random.Generator] = []  # one per slot; empty before a reset
        self._games: list[Any] = [None] * num_envs
        self._loops = [0] * num_envs  # played by the slot's process in earlier episodes
        self._losses = [0] * num_envs  # since a reset or the slot's last finished episode
        self._seen: list[_Seen] = []
        # The games work while a thread waits. A process ends with the thread that started it.
        self._pool = concurrent.futures.ThreadPoolExecutor(num_envs, thread_name_prefix="starcraft")

    def reset(
        self, *, seed: slots.Seed = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start a new episode in every slot; see `envs.make.make_vec`."""
        slots.check_open(self.closed)
        if options:
            raise ValueError(f"StarCraft II takes no reset options, got {sorted(options)}")
        seeds = slots.slot_seeds(seed, self.num_envs)
        if seeds is not None or not self._generators:
            self._close_games()
            from_entropy: list[int | None] = [None] * self.num_envs
            self._generators = [np.random.default_rng(one) for one in seeds or from_entropy]
        self._losses = [0] * self.num_envs
        self._seen = self._played(self._begin)
        return self._batch(), {"action_mask": self._mask()}

    def step(
        self, actions: NDArray[np.integer[Any]]
    ) -> tuple[
        Observation, NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]
    ]:
        """Play one agent step in every slot; see `envs.make.make_vec`.

        Raises:
            ValueError: The actions are no array of the action space, or a function is unavailable.
            RuntimeError: A game was lost more than `MAX_LOSSES` times with no finished episode.
        """
        chosen = self._checked(actions)
        outcomes = self._played(lambda slot: self._play(slot, chosen[slot]))
        ended = [outcome.first is not None for outcome in outcomes]
        self._seen = [outcome.last for outcome in outcomes]
        final_obs = self._batch() if any(ended) else None
        self._seen = [outcome.first or outcome.last for outcome in outcomes]
        lost = np.array([outcome.lost for outcome in outcomes])
        self.lost_episodes += int(lost.sum())
        info = {
            "final_obs": final_obs,
            "life_lost": np.zeros(self.num_envs, dtype=np.bool_),
            "action_mask": self._mask(),
            "refused": np.array([outcome.refused for outcome in outcomes]),
            "lost": lost,
        }
        return (
            self._batch(),
            np.array([outcome.reward for outcome in outcomes], dtype=np.float64),
            np.array([outcome.terminated for outcome in outcomes]),
            np.array([outcome.truncated for outcome in outcomes]),
            info,
        )

    def _checked(self, actions: Any) -> NDArray[np.integer[Any]]:
        """Return the actions of a step, which must be possible now."""
        slots.check_open(self.closed, bool(self._generators))
        given: NDArray[Any] = np.asarray(actions)
        sizes = self._sizes
        if (
            given.shape != (self.num_envs, len(sizes))
            or not np.issubdtype(given.dtype, np.integer)
            or (given < 0).any()
            or (given >= sizes).any()
        ):
            raise ValueError(
                f"actions {given} ({given.dtype}, shape {given.shape}) are not integers of shape "
                f"{(self.num_envs, len(sizes))} from 0 to below {sizes.tolist()}"
            )
        functions = list(starcraft_interface.FUNCTIONS)
        for slot, seen in enumerate(self._seen):
            if not seen.available[given[slot, 0]]:
                possible = [functions[at] for at in np.flatnonzero(seen.available)]
                raise ValueError(
                    f"action {functions[given[slot, 0]]} is unavailable in slot {slot}: take one "
                    f'that info["action_mask"] allows, {", ".join(possible)}'
                )
        return given

    def _play(self, slot: int, action: NDArray[np.integer[Any]]) -> _Outcome:
        """Play one step; begin the next episode too, if this one ended."""
        game, mini_game = self._games[slot], self._mini_game
        call = starcraft_interface.pysc2_call(action, mini_game.resolution)
        try:
            (timestep,) = game.step([call])
        except starcraft_game.failures() as error:
            return self._lost(slot, error)
        seen = _see(timestep.observation)
        refused = len(timestep.observation["action_result"])
        reward = float(timestep.reward)
        if not timestep.last():
            return _Outcome(reward, False, False, False, refused, seen, None)
        loops = int(timestep.observation["game_loop"][0])
        self._loops[slot] += loops
        self._losses[slot] = 0
        limit_s = mini_game.time_limit_s
        # The last step may be cut short by less than an agent step.
        least = 0 if limit_s is None else limit_s * GAME_LOOPS_PER_SECOND
        in_time = loops > least - GAME_LOOPS_PER_STEP
        first = self._begin(slot)
        return _Outcome(reward, not in_time, in_time, False, refused, seen, first)

    def _begin(self, slot: int) -> _Seen:
        """Begin an episode, in a new process if there is none or the present one is worn out."""
        mini_game = self._mini_game
        if self._loops[slot] >= starcraft_game.MAX_GAME_LOOPS:
            self._close_game(slot)
        while True:
            try:
                if self._games[slot] is None:
                    seed = int(self._generators[slot].integers(2**32))
                    self._games[slot] = starcraft_game.launch(
                        mini_game.name, mini_game.resolution, seed
                    )
                (timestep,) = self._games[slot].reset()
            except starcraft_game.failures() as error:
                self._count_loss(slot, error)
            else:
                return _see(timestep.observation)

    def _lost(self, slot: int, error: Exception) -> _Outcome:
        """Replace a slot's process, and truncate its episode."""
        self._count_loss(slot, error)
        return _Outcome(0.0, False, True, True, 0, self._seen[slot], self._begin(slot))

    def _count_loss(self, slot: int, error: Exception) -> None:
        """Close a slot's game after an error; raise if there were too many."""
        self._close_game(slot)
        self._losses[slot] += 1
        said = f"StarCraft II failed in slot {slot} ({type(error).__name__}: {error})"
        if self._losses[slot] > MAX_LOSSES:
            raise RuntimeError(
                f"{said}, for the {self._losses[slot]}th time with no finished episode"
            ) from error
        _LOG.warning("%s; a new process replaces it", said)

    def _batch(self) -> Observation:
        """Return the observations of all slots, `[B, ...]`, in new memory."""
        names = self._seen[0].obs
        return {name: np.stack([seen.obs[name] for seen in self._seen]) for name in names}

    def _mask(self) -> NDArray[np.bool_]:
        """Return which values of an action's parts are legal, `[B, S]`."""
        mask = np.ones((self.num_envs, int(self._sizes.sum())), dtype=np.bool_)
        mask[:, : self._sizes[0]] = [seen.available for seen in self._seen]
        return mask

    def _played(self, play: Callable[[int], Result]) -> list[Result]:
        """Call `play` for every slot; end all games if it fails for one."""
        try:
            return self._in_every_slot(play)
        except BaseException:
            self._close_games()
            self._generators = []
            raise

    def _in_every_slot(self, play: Callable[[int], Result]) -> list[Result]:
        """Call `play` for every slot, all at the same time; raise only after all have ended."""
        futures = [self._pool.submit(play, slot) for slot in range(self.num_envs)]
        concurrent.futures.wait(futures)
        return [future.result() for future in futures]

    def _close_game(self, slot: int) -> None:
        game, self._games[slot], self._loops[slot] = self._games[slot], None, 0
        if game is not None:
            starcraft_game.close(game)

    def _close_games(self) -> None:
        self._in_every_slot(self._close_game)

    def close_extras(self, **kwargs: Any) -> None:
        """End the games."""
        self._close_games()
        self._pool.shutdown()


def _see(seen: Any) -> _Seen:
    obs = starcraft_interface.observe(seen)
    return _Seen(obs, obs["available_actions"] > 0)
