"""First-person levels of ViZDoom: navigation and collection, seen through the player's eyes.

ViZDoom (https://vizdoom.farama.org; Kempka et al. 2016, arXiv 1605.02097) is the extra `vizdoom`:
its wheel carries the engine, the scenarios and the free Freedoom graphics. Ids are
`Doom/MyWayHome`, and for those that have one ViZDoom's own Gymnasium id, `VizdoomMyWayHome-v1`.

Observations are `[num_envs, 3, 84, 84]` uint8, RGB: the last frame of each agent step, rendered at
160 x 120 and averaged by area. One agent step is four tics (of 35 a second) with the same buttons
held; its reward is the sum over them, raw.

We drive `vizdoom.DoomGame` and not ViZDoom's Gymnasium environments. Those return Dict
observations at 320 x 240, give zeros as an episode's last observation, also where it was cut off,
and cannot start the engine as `envs.doom_engine` does.

How an episode ends:

- truncation: after the level's `max_tics`. We count them, since ViZDoom shows nothing more once its
  own time limit is met. The final observation is the frame after the last tic.
- termination: the player died or reached the goal. ViZDoom shows nothing then: the final
  observation is the frame the last action was chosen at. Learners do not bootstrap from it.

Each episode is seeded from its slot's generator; the engine then plays it the same way in a new
process and in one that has played before.
"""

import concurrent.futures
import dataclasses
import difflib
import importlib.util
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from envs import doom_engine, first_person

if TYPE_CHECKING:
    import vizdoom

PREFIX = "Doom/"
"""Of every id."""
MAX_THREADS = 4
"""Engines of one `DoomVectorEnv` that work at the same time."""

_MOVES = (
    (),
    ("MOVE_FORWARD",),
    ("TURN_LEFT",),
    ("TURN_RIGHT",),
    ("MOVE_FORWARD", "TURN_LEFT"),
    ("MOVE_FORWARD", "TURN_RIGHT"),
)
_TURNS_AND_FIRE = ((), ("TURN_LEFT",), ("TURN_RIGHT",), ("ATTACK",))


@dataclasses.dataclass(frozen=True)
class Level:
    """One of ViZDoom's scenarios, with what an agent may do there."""

    name: str
    config: str
    """File name of ViZDoom's settings: map, rewards, what is drawn."""
    actions: tuple[tuple[str, ...], ...]
    """The buttons that each action holds down; none: wait."""
    max_tics: int
    """Tics after which an episode is truncated."""
    reward_scale: float
    """What learning multiplies raw rewards by; it may clip them to [-1, 1] after that."""
    description: str
    """What to do for which rewards, and the mean return of random play over 112 episodes (its
    standard error is at most 9 % of that, or 0.1)."""


LEVELS = {
    level.name: level
    for level in (
        Level(
            "MyWayHome",
            "my_way_home.cfg",
            _MOVES,
            2_100,
            1.0,
            "find the vest in a maze of rooms: 1, less 0.0001 per tic; random -0.08",
        ),
        Level(
            "HealthGathering",
            "health_gathering.cfg",
            _MOVES,
            2_100,
            0.01,
            "collect medikits on an acid floor: 1 per tic, -100 for dying; random 388",
        ),
        Level(
            "HealthGatheringSupreme",
            "health_gathering_supreme.cfg",
            _MOVES,
            2_100,
            0.01,
            "the same in a maze, with poison between the medikits; random 320",
        ),
        Level(
            "DeadlyCorridor",
            "deadly_corridor.cfg",
            (
                (),
                ("MOVE_FORWARD",),
                ("MOVE_LEFT",),
                ("MOVE_RIGHT",),
                ("TURN_LEFT",),
                ("TURN_RIGHT",),
                ("ATTACK",),
            ),
            2_100,
            0.01,
            "get down a guarded corridor: the distance, -100 for dying; random -60",
        ),
        Level(
            "TakeCover",
            "take_cover.cfg",
            ((), ("MOVE_LEFT",), ("MOVE_RIGHT",)),
            2_100,
            0.01,
            "dodge more and more fireballs: 1 per tic; random 288",
        ),
        Level(
            "DefendCenter",
            "defend_the_center.cfg",
            _TURNS_AND_FIRE,
            2_100,
            1.0,
            "shoot who comes near, 26 bullets: 1 each, -1 for dying; random 0.3",
        ),
        Level(
            "DefendLine",
            "defend_the_line.cfg",
            _TURNS_AND_FIRE,
            2_100,
            1.0,
            "shoot who comes down a hall: 1 each, -1 for dying; random 7.7",
        ),
        Level(
            "PredictPosition",
            "predict_position.cfg",
            _TURNS_AND_FIRE,
            300,
            1.0,
            "hit who walks by with a slow rocket: 1, less 0.001 per tic; random -0.02",
        ),
        Level(
            "Basic",
            "basic.cfg",
            ((), ("MOVE_LEFT",), ("MOVE_RIGHT",), ("ATTACK",)),
            300,
            0.01,
            "step in front of a monster and shoot: 106, -5 per shot, -1 per tic; random -196",
        ),
    )
}


def ids() -> list[str]:
    """The id of every level."""
    return [PREFIX + name for name in LEVELS]


def find_level(env_id: str) -> Level | None:
    """The level of `Doom/MyWayHome` or `VizdoomMyWayHome-v1`; None if it can mean none.

    Raises:
        ValueError: it can only mean a level, but is none we know; with close matches.
    """
    if env_id.startswith(PREFIX):
        name = env_id.removeprefix(PREFIX)
    elif env_id.startswith("Vizdoom"):
        name = env_id.removeprefix("Vizdoom").removesuffix("-v1")
    else:
        return None
    if env_id in (PREFIX + name, f"Vizdoom{name}-v1") and name in LEVELS:
        return LEVELS[name]
    folded = {known.lower(): known for known in LEVELS}
    close = difflib.get_close_matches(name.partition("-")[0].lower(), folded, n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(PREFIX + folded[one] for one in close)}?" if close else "."
    raise ValueError(f"unknown ViZDoom level {env_id!r}{hint} There are {', '.join(LEVELS)}")


def check_installed() -> None:
    """Raise ValueError with the way to get ViZDoom, in one line, if it is not there."""
    if importlib.util.find_spec("vizdoom") is None:
        raise ValueError(
            "ViZDoom is not installed: pip install -c constraints.txt -e '.[vizdoom]' gets it"
        )


def episode_tics(level: Level, max_tics: int | None = None) -> int:
    """Tics after which an episode of the level is truncated: its own, or those given.

    Raises:
        ValueError: fewer than one agent step, or not whole steps.
    """
    if max_tics is None:
        return level.max_tics
    if max_tics < 1 or max_tics % first_person.FRAMES_PER_STEP:
        raise ValueError(
            f"max_tics is {max_tics}: an agent step is {first_person.FRAMES_PER_STEP} tics, give a "
            "multiple of that"
        )
    return max_tics


class DoomVectorEnv(first_person.FirstPersonVectorEnv):
    """`num_envs` copies of one level. See `envs.make.make_vec` for the contract of `step`.

    Every copy is an engine process of its own, of about 8 MB. An engine that dies raises in `step`,
    and in every later one; `close` still ends the others.

    Args:
        level: Which.
        num_envs: How many copies.
        max_tics: Truncate episodes after so many, in place of the level's own number.
    """

    def __init__(self, level: Level, num_envs: int, max_tics: int | None = None) -> None:
        check_installed()
        super().__init__(num_envs, len(level.actions))
        self._max_tics = episode_tics(level, max_tics)
        buttons = sorted({button for action in level.actions for button in action})
        self._held = [[button in action for button in buttons] for action in level.actions]
        self._tics = [0] * num_envs  # of the running episode
        self._pool = concurrent.futures.ThreadPoolExecutor(
            min(MAX_THREADS, num_envs), thread_name_prefix="doom"
        )
        self._games: list[vizdoom.DoomGame] = []
        try:
            self._launch(level, buttons)
        except BaseException:
            self.close()
            raise

    def _launch(self, level: Level, buttons: Sequence[str]) -> None:
        import vizdoom

        with doom_engine.launcher(vizdoom.exe_path) as executable:
            for _ in range(self.num_envs):
                game = vizdoom.DoomGame()
                game.load_config(str(Path(vizdoom.scenarios_path, level.config)))
                game.set_vizdoom_path(executable)
                game.set_doom_config_path(os.devnull)
                game.set_window_visible(False)
                game.set_screen_resolution(vizdoom.ScreenResolution.RES_160X120)
                game.set_screen_format(vizdoom.ScreenFormat.CRCGCB)  # planes of R, G and B
                game.set_mode(vizdoom.Mode.PLAYER)
                game.set_available_buttons([getattr(vizdoom.Button, name) for name in buttons])
                game.set_available_game_variables([])
                game.set_episode_timeout(0)  # tics are counted here
                self._games.append(game)
                # One after another: OpenBLAS ends its threads before each fork, and two forks at
                # the same time wait for each other for ever (seen with SciPy 1.17).
                game.init()
                doom_engine.unlink_shared_memory(game.get_instance_id())

    def _in_every_slot(
        self, play: Callable[[int], first_person.Result]
    ) -> list[first_person.Result]:
        """Call for every slot, several at a time; raises only when none is at work any more."""
        threads = min(MAX_THREADS, self.num_envs)

        def play_some(first: int) -> list[first_person.Result]:
            return [play(slot) for slot in range(first, self.num_envs, threads)]

        futures = [self._pool.submit(play_some, first) for first in range(threads)]
        concurrent.futures.wait(futures)
        results = [future.result() for future in futures]
        return [results[slot % threads][slot // threads] for slot in range(self.num_envs)]

    def _begin(self, slot: int) -> NDArray[np.uint8]:
        game = self._games[slot]
        game.set_seed(int(self._generators[slot].integers(2**32)))
        game.new_episode()
        self._tics[slot] = 0
        return shrink(game.get_state().screen_buffer)

    def _act(self, slot: int, action: int) -> first_person.Outcome:
        game = self._games[slot]
        reward = game.make_action(self._held[action], first_person.FRAMES_PER_STEP)
        self._tics[slot] += first_person.FRAMES_PER_STEP
        if game.is_episode_finished():
            return first_person.Outcome(reward, True, False, None)
        frame = shrink(game.get_state().screen_buffer)
        return first_person.Outcome(reward, False, self._tics[slot] >= self._max_tics, frame)

    def close_extras(self, **kwargs: Any) -> None:
        """End the engines."""
        self._pool.shutdown()
        for game in self._games:
            game.close()


def _area_weights(inner: int, outer: int) -> NDArray[np.float32]:
    """`[outer, inner]`: what each of `inner` pixels weighs in the mean over each outer one."""
    edges = np.arange(outer + 1) * inner / outer
    pixels = np.arange(inner)
    covered = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    weights: NDArray[np.float32] = (np.maximum(covered, 0) * outer / inner).astype(np.float32)
    return weights


# 120 rows to 84 are 12 times 10 to 7, 160 columns to 84 are 4 times 40 to 21.
_ROWS = _area_weights(10, 7)
_COLUMNS = np.ascontiguousarray(_area_weights(40, 21).T)


def shrink(screen: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The mean over each pixel's area: `[3, 120, 160]` to `[3, 84, 84]`."""
    rows = np.matmul(_ROWS, screen.astype(np.float32).reshape(36, 10, 160))  # [36, 7, 160]
    means: NDArray[np.float32] = rows.reshape(-1, 40) @ _COLUMNS  # [3 * 84 * 4, 21]
    means += 0.5  # to the nearest
    return means.astype(np.uint8).reshape(first_person.OBSERVATION_SHAPE)
