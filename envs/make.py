"""Build any environment with `make_vec` or `make_single`; read its properties with `describe`.

    envs = make.make_vec("Pong", num_envs=16)
    obs, _ = envs.reset(seed=0)
    while training:
        obs, reward, terminated, truncated, info = envs.step(actions)

Ids: an Atari game by plain name (`Pong`, `MsPacman`) or as `ALE/Pong-v5`; a first-person level of
ViZDoom (`Doom/MyWayHome`, or `VizdoomMyWayHome-v1`) or of DeepMind Lab (`Lab/nav_maze_static_01`);
a mini-game of StarCraft II (`StarCraft/MoveToBeacon`); a toy environment (`Catch`, `MemoryChain`,
`RepeatPrevious`, `CuedTMaze`, `Counter`); a Gymnasium id (`CartPole-v1`); `module:EnvId`, where
importing `module` registers `EnvId`. An id may carry arguments of the constructor, as
`FrozenLake-v1?is_slippery=False` does; see `envs.ids`.
"""

import dataclasses
import functools
import inspect
from pathlib import Path
from typing import Any

import ale_py
import gymnasium
import numpy as np
from ale_py import roms
from gymnasium import spaces

from envs import atari, doom, first_person, gym, ids, lab, parts, single, starcraft, toy

_FIRST_PERSON: dict[type, Any] = {doom.Level: doom.DoomVectorEnv, lab.Level: lab.LabVectorEnv}


@dataclasses.dataclass(frozen=True)
class EnvSpec:
    """Properties of an environment that a learner needs before it builds one."""

    name: str
    """The id in its shortest form: `Pong` for `ALE/Pong-v5`."""
    single_observation_space: spaces.Box | spaces.Tuple[Any] | spaces.Dict
    """Space of one observation: a vector of any number type, or a uint8 image `[C, H, W]`; or
    several of these, see `envs.parts`."""
    single_action_space: spaces.Discrete | spaces.MultiDiscrete | spaces.Box
    """Space of one action: `Discrete(n)` from 0, `MultiDiscrete` from 0 (also `FunctionCall`), or a
    float `Box` of one dimension."""
    frames_per_step: int
    """Emulator frames per agent step; 1 without an emulator."""
    is_atari: bool
    """Whether this is an Atari game: rewards need clipping, and `life_lost` may be true."""
    frame_channels: int
    """Channels of one frame: 1 for Atari, which stacks 4 frames, and without images; all channels
    for other images."""
    reward_scale: float = 1.0
    """Factor of raw rewards to learn from; 1 where none is known."""
    is_large: bool = False
    """Whether each environment is a game process that takes much memory and seconds to start."""


def describe(env_id: str, *, preset: str | atari.Preset | None = None, **keywords: Any) -> EnvSpec:
    """Check an id and its settings, and return its properties; leaves no environment open.

    Args:
        env_id: See the module's docstring.
        preset: As in `make_vec`.
        **keywords: As in `make_vec`.

    Raises:
        ValueError: The id or a setting is wrong; one line with what is possible.
    """
    chosen = atari.find_preset(preset, env_id)
    plain, own = ids.split(env_id)
    keywords = {**own, **keywords}
    if plain in toy.ENVS:
        envs = _make_toy(plain, 1, keywords)
        return _spec(env_id, envs.single_observation_space, envs.single_action_space)
    level = find_level(plain)
    if level is not None:
        vector_env = _FIRST_PERSON[type(level)]
        _check_keywords(level.env_id, vector_env, keywords)
        vector_env.check(level, **keywords)
        return EnvSpec(
            name=level.env_id + env_id.removeprefix(plain),
            single_observation_space=spaces.Box(0, 255, first_person.OBSERVATION_SHAPE, np.uint8),
            single_action_space=spaces.Discrete(level.num_actions),
            frames_per_step=first_person.FRAMES_PER_STEP,
            is_atari=False,
            frame_channels=first_person.OBSERVATION_SHAPE[0],
            reward_scale=level.reward_scale,
        )
    mini_game = starcraft.find_mini_game(plain)
    if mini_game is not None:
        _check_keywords(mini_game.env_id, starcraft.StarCraftVectorEnv, keywords)
        starcraft.StarCraftVectorEnv.check(mini_game)
        return EnvSpec(
            name=mini_game.env_id,
            single_observation_space=mini_game.observation_space,
            single_action_space=mini_game.action_space,
            frames_per_step=starcraft.GAME_LOOPS_PER_STEP,
            is_atari=False,
            frame_channels=1,
            is_large=True,
        )
    game = atari.find_game(plain)
    if game is None:
        return _spec(env_id, *gym.inspect(plain, keywords))
    if keywords:
        raise ValueError(f"{game} takes no {sorted(keywords)}: its settings are the preset's")
    return EnvSpec(
        name=game,
        single_observation_space=spaces.Box(0, 255, (4, 84, 84), np.uint8),
        single_action_space=spaces.Discrete(18 if chosen.full_action_space else _actions(game)),
        frames_per_step=atari.FRAMES_PER_STEP,
        is_atari=True,
        frame_channels=1,
    )


def make_vec(
    env_id: str,
    num_envs: int,
    *,
    preset: str | atari.Preset | None = None,
    num_threads: int = 1,
    **keywords: Any,
) -> gymnasium.vector.VectorEnv[Any, Any, Any]:
    """Build `num_envs` copies of an environment.

    Every environment keeps this contract:

    - `reset(seed=...)` takes an int (slot `i` gets `seed + i`), a sequence of one int per slot, or
      None. Episodes after a slot's first continue with that slot's own generator.
    - Autoreset is SAME_STEP: where `terminated | truncated`, the returned observation is already
      the next episode's first.
    - `step` returns observations `[B, ...]`, raw rewards float64 `[B]`, `terminated` and
      `truncated` bool `[B]`, and `info`. Both flags mean the end of the whole game, never of a
      life. Observations of several parts are a tuple or dict of such arrays.
    - `info["final_obs"]` is None if no episode ended. Else it is an array like the observations,
      whose row `i` is the last observation of the episode that ended in slot `i`. Other rows are
      meaningless.
    - `info["action_mask"]` says which discrete actions are legal for the observations that `reset`
      or `step` returns, bool `[B, n]`; of a `MultiDiscrete`, with the values of all parts side by
      side. It is in every info or in none.
    - `info["life_lost"]`, bool `[B]`, is true where a life was lost and the game continues. It is
      false outside Atari, and in protocols without this signal.
    - The caller may keep all arrays: none is written again.
    - Actions outside the action space raise ValueError (a `Box`'s are clipped to its bounds).

    Args:
        env_id: See the module's docstring.
        num_envs: Number of copies, stepped together.
        preset: Atari's protocol, by name (`atari.PRESETS`) or one of your own. Default: that of
            ale-py for an id like `ALE/Pong-v5`, that of A3C for a plain name. Ignored elsewhere.
        num_threads: Number of emulator threads, Atari only. 1 where workers fill the cores.
        **keywords: Arguments of the constructor, as `length=10` for MemoryChain. Atari has none.

    Raises:
        ValueError: The id or a setting is wrong; one line with what is possible.
    """
    if num_envs < 1:
        raise ValueError(f"num_envs is {num_envs}: give at least 1")
    if num_threads < 1:
        raise ValueError(f"num_threads is {num_threads}: give at least 1")
    spec = describe(env_id, preset=preset, **keywords)
    if spec.is_atari:
        return atari.AtariVectorEnv(
            spec.name, num_envs, atari.find_preset(preset, env_id), num_threads
        )
    plain, own = ids.split(env_id)
    keywords = {**own, **keywords}
    level = find_level(plain)
    if level is not None:
        envs: first_person.FirstPersonVectorEnv
        envs = _FIRST_PERSON[type(level)](level, num_envs, **keywords)
        return envs
    mini_game = starcraft.find_mini_game(plain)
    if mini_game is not None:
        return starcraft.StarCraftVectorEnv(mini_game, num_envs)
    if plain in toy.ENVS:
        return _make_toy(plain, num_envs, keywords)
    return gym.GymVectorEnv(plain, num_envs, keywords)


def make_single(env_id: str, **keywords: Any) -> gymnasium.Env[Any, Any]:
    """Build one environment with the protocol of `make_vec`, as a plain Gymnasium environment.

    Args:
        env_id: See the module's docstring.
        **keywords: Those of `make_vec`.

    Raises:
        ValueError: The id or a setting is wrong; one line with what is possible.
    """
    return single.SingleEnv(make_vec(env_id, 1, **keywords))


def protocol(env_id: str, *, preset: str | atari.Preset | None = None) -> str:
    """Return, in one line, the environment and, for Atari, its protocol, to read a score with."""
    spec = describe(env_id, preset=preset)
    plain, own = ids.split(env_id)
    level = find_level(plain)
    if level is not None:
        limit = f", at most {level.max_tics:,} frames" if isinstance(level, doom.Level) else ""
        return (
            f"{spec.name}: 84 x 84 RGB, {level.num_actions} actions, "
            f"{spec.frames_per_step} frames per agent step{limit}"
        )
    mini_game = starcraft.find_mini_game(plain)
    if mini_game is not None:
        return mini_game.protocol
    if not spec.is_atari:
        given = ", ".join(f"{name}={value}" for name, value in own.items())
        source = "" if plain in toy.ENVS else ", as Gymnasium registers it"
        return f"{plain}{source}{f' with {given}' if given else ''}"
    chosen = atari.find_preset(preset, env_id)
    return (
        f"{spec.name}, {chosen.name}: sticky actions {chosen.repeat_action_probability:g}, "
        f"0 to {chosen.max_noops} no-ops at the start, "
        f"{'all 18 actions' if chosen.full_action_space else 'minimal action set'}, "
        f"{'FIRE after reset' if chosen.fire_reset else 'no FIRE after reset'}, "
        f"{spec.frames_per_step} frames per agent step, at most {chosen.max_frames:,} frames"
    )


def wrapper_file(env_id: str) -> Path | None:
    """Return the file that alone gives an environment the protocol of `make_single`.

    It is a Python file that needs Gymnasium, and its wrapper is called `Normalised`. None where the
    environment is none of Gymnasium's own.
    """
    plain, _ = ids.split(env_id)
    if plain in toy.ENVS or find_level(plain) or starcraft.find_mini_game(plain):
        return None
    return None if atari.find_game(plain) else Path(parts.__file__)


def flattening(env_id: str) -> str:
    """Return how to register an environment whose images are seen as vectors, in one line."""
    return gym.wrapping(ids.split(env_id)[0], "FlattenObservation(e)")


def find_level(env_id: str) -> doom.Level | lab.Level | None:
    """Return the first-person level of an id; None for other kinds of id.

    Raises:
        ValueError: The id is of this kind, but there is no such level.
    """
    return doom.find_level(env_id) or lab.find_level(env_id)


def _spec(name: str, observation: spaces.Space[Any], action: spaces.Space[Any]) -> EnvSpec:
    assert isinstance(observation, (spaces.Box, spaces.Tuple, spaces.Dict))
    assert isinstance(action, (spaces.Discrete, spaces.MultiDiscrete, spaces.Box))
    shape = observation.shape or ()
    return EnvSpec(
        name,
        observation,
        action,
        frames_per_step=1,
        is_atari=False,
        frame_channels=shape[0] if len(shape) == 3 else 1,
    )


def _make_toy(name: str, num_envs: int, keywords: dict[str, Any]) -> toy.ToyVectorEnv:
    vector_env = toy.ENVS[name]
    _check_keywords(name, vector_env, keywords)
    return vector_env(num_envs, **keywords)


def _check_keywords(name: str, vector_env: type[Any], keywords: dict[str, Any]) -> None:
    known = set(inspect.signature(vector_env).parameters) - {"num_envs", "level", "mini_game"}
    unknown = sorted(set(keywords) - known)
    if unknown:
        raise ValueError(f"{name} does not take {unknown}: give {sorted(known) or 'nothing'}")


@functools.cache
def _actions(game: str) -> int:
    """Return the number of actions that a game uses; loads its ROM once."""
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    ale = ale_py.ALEInterface()
    ale.loadROM(str(roms.get_rom_path(atari.games()[game])))
    return len(ale.getMinimalActionSet())
