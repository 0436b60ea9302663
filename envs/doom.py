"""First-person levels of ViZDoom: navigation and collection, seen through the player's eyes.

ViZDoom (https://vizdoom.farama.org; Kempka et al. 2016, arXiv 1605.02097) is the extra `vizdoom`:
its wheel has the engine, the scenarios and the free Freedoom graphics. Ids are `Doom/MyWayHome`, or
ViZDoom's own Gymnasium ids such as `VizdoomMyWayHome-v1`.

Observations are `[num_envs, 3, 84, 84]` uint8, RGB: the last frame of each agent step, rendered at
160 x 120 and averaged by area. One agent step is four tics (of 35 a second) with the same buttons
held. Its reward is the sum over them, raw.

We drive `vizdoom.DoomGame` and not ViZDoom's Gymnasium environments. Those return Dict
observations at 320 x 240, return zeros as an episode's last observation, even after a truncation,
and cannot start the engine as `envs.doom_engine` does.

An episode ends in one of two ways:

- Truncation, after the level's `max_tics`. We count tics ourselves, since ViZDoom shows nothing
  after its own time limit. The final observation is the frame after the last tic.
- Termination, when the player dies or reaches the goal. ViZDoom then shows nothing, so the final
  observation is the frame before the last action. Learners do not bootstrap from it.

Each episode is seeded from its slot's generator. The engine plays a seed the same way in a new
process and in one that has played before.
"""

import concurrent.futures
import dataclasses
import importlib.util
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from envs import doom_engine, first_person, ids

if TYPE_CHECKING:
    import vizdoom

PREFIX = "Doom/"
"""Beginning of every id."""
MAX_THREADS = 4
"""Number of engines of one `DoomVectorEnv` that work at the same time."""

_FORWARD, _LEFT, _RIGHT = "MOVE_FORWARD", "TURN_LEFT", "TURN_RIGHT"
_STRAFES = (("MOVE_LEFT",), ("MOVE_RIGHT",))
_MOVES = ((), (_FORWARD,), (_LEFT,), (_RIGHT,), (_FORWARD, _LEFT), (_FORWARD, _RIGHT))
_TURNS_AND_FIRE = ((), (_LEFT,), (_RIGHT,), ("ATTACK",))


@dataclasses.dataclass(frozen=True)
class Level:
    """One of ViZDoom's scenarios, with the actions of an agent there."""

    name: str
    """Name without `PREFIX`."""
    config: str
    """Name of ViZDoom's settings file, without .cfg: map, rewards, what is drawn."""
    actions: tuple[tuple[str, ...], ...]
    """Buttons that each action holds down; none to wait."""
    description: str
    """What to do for which rewards, and the mean return of random play."""
    max_tics: int = 2_100
    """Tics after which an episode is truncated."""
    reward_scale: float = 1.0
    """Factor of raw rewards to learn from; learners may clip the product to [-1, 1]."""

    @property
    def env_id(self) -> str:
        """The id in its shortest form."""
        return PREFIX + self.name

    @property
    def num_actions(self) -> int:
        """Number of discrete actions."""
        return len(self.actions)


LEVELS = {
    level.name: level
    for level in (
        Level(
            "MyWayHome",
            "my_way_home",
            _MOVES,
            "find the vest in a maze of rooms: 1, less 0.0001 per tic; random -0.08",
        ),
        Level(
            "HealthGathering",
            "health_gathering",
            _MOVES,
            "collect medikits on an acid floor: 1 per tic, -100 for dying; random 388",
            reward_scale=0.01,
        ),
        Level(
            "HealthGatheringSupreme",
            "health_gathering_supreme",
            _MOVES,
            "the same in a maze, with poison between the medikits; random 320",
            reward_scale=0.01,
        ),
        Level(
            "DeadlyCorridor",
            "deadly_corridor",
            ((), (_FORWARD,), *_STRAFES, (_LEFT,), (_RIGHT,), ("ATTACK",)),
            "get down a guarded corridor: the distance, -100 for dying; random -60",
            reward_scale=0.01,
        ),
        Level(
            "TakeCover",
            "take_cover",
            ((), *_STRAFES),
            "dodge more and more fireballs: 1 per tic; random 288",
            reward_scale=0.01,
        ),
        Level(
            "DefendCenter",
            "defend_the_center",
            _TURNS_AND_FIRE,
            "shoot monsters that come near, 26 bullets: 1 each, -1 for dying; random 0.3",
        ),
        Level(
            "DefendLine",
            "defend_the_line",
            _TURNS_AND_FIRE,
            "shoot monsters at the end of a hall: 1 each, -1 for dying; random 7.7",
        ),
        Level(
            "PredictPosition",
            "predict_position",
            _TURNS_AND_FIRE,
            "hit a monster that walks by with a slow rocket: 1, less 0.001 per tic; random -0.02",
            max_tics=300,
        ),
        Level(
            "Basic",
            "basic",
            ((), *_STRAFES, ("ATTACK",)),
            "step in front of a monster and shoot: 106, -5 per shot, -1 per tic; random -196",
            max_tics=300,
            reward_scale=0.01,
        ),
    )
}


def find_level(env_id: str) -> Level | None:
    """Return the level of `Doom/MyWayHome` or `VizdoomMyWayHome-v1`; None for other kinds of id.

    Raises:
        ValueError: The id is of this kind, but there is no such level.
    """
    if env_id.startswith(PREFIX):
        name = env_id.removeprefix(PREFIX)
    elif env_id.startswith("Vizdoom"):
        name = env_id.removeprefix("Vizdoom").removesuffix("-v1")
    else:
        return None
    if env_id in (PREFIX + name, f"Vizdoom{name}-v1") and name in LEVELS:
        return LEVELS[name]
    known = {level.name: level.env_id for level in LEVELS.values()}
    raise ValueError(
        f"unknown ViZDoom level {env_id!r}{ids.did_you_mean(name.partition('-')[0], known)} "
        f"There are {', '.join(LEVELS)}"
    )


class DoomVectorEnv(first_person.FirstPersonVectorEnv):
    """`num_envs` copies of one level. See `envs.make.make_vec` for the contract of `step`.

    Every copy is an engine process of its own, of about 8 MB. If an engine dies, `step` raises, and
    so does every later `step`; `close` still ends the others.

    Args:
        level: Level to play.
        num_envs: Number of copies.
        max_tics: Tics after which an episode is truncated; default: the level's.
    """

    @staticmethod
    def check(level: Level, max_tics: int | None = None) -> None:
        """Refuse settings, and an installation, that a level cannot be built with.

        Raises:
            ValueError: `max_tics` is not a number of agent steps, or ViZDoom is not installed.
        """
        tics = first_person.FRAMES_PER_STEP
        if max_tics is not None and (max_tics < 1 or max_tics % tics):
            raise ValueError(
                f"max_tics is {max_tics}: an agent step is {tics} tics, give a multiple of that"
            )
        if importlib.util.find_spec("vizdoom") is None:
            raise ValueError(
                "ViZDoom is not installed: pip install -c constraints.txt -e '.[vizdoom]' gets it"
            )

    def __init__(self, level: Level, num_envs: int, max_tics: int | None = None) -> None:
        self.check(level, max_tics)
        super().__init__(num_envs, level.num_actions)
        self._max_tics = max_tics or level.max_tics
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
                game.load_config(str(Path(vizdoom.scenarios_path, f"{level.config}.cfg")))
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
                # Not in parallel: OpenBLAS ends its threads before each fork, and two forks at the
                # same time wait for each other for ever (with SciPy 1.17).
                game.init()
                doom_engine.unlink_shared_memory(game.get_instance_id())

    def _in_every_slot(
        self, play: Callable[[int], first_person.Result]
    ) -> list[first_person.Result]:
        """Call `play` for every slot, several at a time; raise only after all calls have ended."""
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
    """Return `[outer, inner]`, the weight of each inner pixel in the mean of each outer pixel."""
    edges = np.arange(outer + 1) * inner / outer
    pixels = np.arange(inner)
    covered = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    weights: NDArray[np.float32] = (np.maximum(covered, 0) * outer / inner).astype(np.float32)
    return weights


# 120 rows become 84 as 12 blocks of 10 become 7; 160 columns, as 4 blocks of 40 become 21.
_ROWS = _area_weights(10, 7)
_COLUMNS = np.ascontiguousarray(_area_weights(40, 21).T)


def shrink(screen: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a screen `[3, 120, 160]` averaged by area to `[3, 84, 84]`."""
    rows = np.matmul(_ROWS, screen.astype(np.float32).reshape(36, 10, 160))  # [36, 7, 160]
    means: NDArray[np.float32] = rows.reshape(-1, 40) @ _COLUMNS  # [3 * 84 * 4, 21]
    means += 0.5  # round to the nearest
    return means.astype(np.uint8).reshape(first_person.OBSERVATION_SHAPE)
