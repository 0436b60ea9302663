"""`make_vec`: one door to every world; and `describe`, which looks in without leaving it open.

    worlds = make.make_vec("Pong", num_envs=16)
    obs, _ = worlds.reset(seed=0)
    while training:
        obs, reward, terminated, truncated, info = worlds.step(actions)

Ids: an Atari game by plain name (`Pong`, `MsPacman`) or as `ALE/Pong-v5`; a first-person level of
ViZDoom (`Doom/MyWayHome`, or `VizdoomMyWayHome-v1`) or of DeepMind Lab (`Lab/nav_maze_static_01`);
a toy world (`Catch`, `MemoryChain`, `RepeatPrevious`, `Counter`); a Gymnasium id (`CartPole-v1`);
`module:EnvId`, where importing `module` registers `EnvId`.
"""

import dataclasses
import functools
import inspect
from typing import Any

import ale_py
import gymnasium
import numpy as np
from ale_py import roms
from gymnasium import spaces

from envs import atari, doom, first_person, gym, lab, toy


@dataclasses.dataclass(frozen=True)
class EnvSpec:
    """What a learner must know of a world before it builds any."""

    name: str
    """The id in its shortest form: `Pong` for `ALE/Pong-v5`."""
    single_observation_space: spaces.Box
    """A vector (one dimension, any number type) or a uint8 image `[C, H, W]`."""
    single_action_space: spaces.Discrete | spaces.Box
    """`Discrete(n)` from 0, or a float `Box` of one dimension."""
    frames_per_step: int
    """Emulator frames per agent step; 1 where there is no emulator."""
    is_atari: bool
    """Rewards are raw game scores, to be clipped for learning; `life_lost` may be true."""
    frame_channels: int
    """Channels of one frame: 1 for Atari, whose 4 are the last 4 frames; all for any other image;
    1 for a vector, which has none."""
    reward_scale: float = 1.0
    """What learning should multiply raw rewards by; 1 where nothing is known."""


def describe(env_id: str, *, preset: str | atari.Preset = "a3c2016", **keywords: Any) -> EnvSpec:
    """Check an id, its settings and its spaces; leaves no environment open.

    Takes what `make_vec` takes, but for counts.

    Raises:
        ValueError: one line that says what was given, what is possible, and close matches.
    """
    chosen = atari.find_preset(preset)
    if env_id in toy.ENVS:
        worlds = _make_toy(env_id, 1, keywords)
        return _spec(env_id, worlds.single_observation_space, worlds.single_action_space)
    level = _find_level(env_id)
    if level is not None:
        return _first_person_spec(level, keywords)
    game = atari.find_game(env_id)
    if game is None:
        return _spec(env_id, *gym.inspect(env_id, keywords))
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
    preset: str | atari.Preset = "a3c2016",
    num_threads: int = 1,
    **keywords: Any,
) -> gymnasium.vector.VectorEnv[Any, Any, Any]:
    """Build `num_envs` copies of a world.

    Every world keeps this contract:

    - `reset(seed=...)`: an int (slot `i` gets `seed + i`), a sequence of one int per slot, or
      None. Episodes after a slot's first go on with that slot's own generator.
    - Autoreset is SAME_STEP: where `terminated | truncated`, the returned observation is already
      the next episode's first.
    - `step` returns observations `[B, ...]`, raw rewards float64 `[B]`, `terminated` and
      `truncated` bool `[B]`, and `info`. Both flags mean the end of the whole game, never of a
      life.
    - `info["final_obs"]`: None if no episode ended, else an array like the observations, whose row
      `i` is the last observation of the episode that ended in slot `i`. Other rows mean nothing.
    - `info["life_lost"]`: bool `[B]`, a life was lost and the game goes on; false outside Atari.
    - All arrays are the caller's to keep: none is written again.
    - Actions outside the action space raise ValueError (a `Box`'s are clipped to its bounds).

    Args:
        env_id: See the module's docstring.
        num_envs: How many copies, stepped together.
        preset: Atari's protocol, by name (`atari.PRESETS`) or one of your own. Ignored elsewhere.
        num_threads: Emulator threads, Atari only. 1 where workers fill the cores.
        **keywords: For the world's constructor, as `length=10` for MemoryChain. Atari takes none.

    Raises:
        ValueError: one line that says what was given, what is possible, and close matches.
    """
    if num_envs < 1:
        raise ValueError(f"num_envs is {num_envs}: give at least 1")
    if num_threads < 1:
        raise ValueError(f"num_threads is {num_threads}: give at least 1")
    spec = describe(env_id, preset=preset, **keywords)
    if spec.is_atari:
        return atari.AtariVectorEnv(spec.name, num_envs, atari.find_preset(preset), num_threads)
    level = _find_level(env_id)
    if isinstance(level, doom.Level):
        return doom.DoomVectorEnv(level, num_envs, **keywords)
    if isinstance(level, lab.Level):
        return lab.LabVectorEnv(level, num_envs, **keywords)
    if env_id in toy.ENVS:
        return _make_toy(env_id, num_envs, keywords)
    return gym.GymVectorEnv(spec.name, num_envs, keywords)


def protocol(env_id: str, *, preset: str | atari.Preset = "a3c2016") -> str:
    """What a score must be read with: the world and, for Atari, how it is played, in one line."""
    spec = describe(env_id, preset=preset)
    level = _find_level(env_id)
    if level is not None:
        assert isinstance(spec.single_action_space, spaces.Discrete)
        limit = f", at most {level.max_tics:,} frames" if isinstance(level, doom.Level) else ""
        return (
            f"{spec.name}: 84 x 84 RGB, {spec.single_action_space.n} actions, "
            f"{spec.frames_per_step} frames per agent step{limit}"
        )
    if not spec.is_atari:
        return f"{spec.name}, as Gymnasium registers it" if env_id not in toy.ENVS else spec.name
    chosen = atari.find_preset(preset)
    return (
        f"{spec.name}, {chosen.name}: sticky actions {chosen.repeat_action_probability:g}, "
        f"0 to {chosen.max_noops} no-ops at the start, "
        f"{'all 18 actions' if chosen.full_action_space else 'minimal action set'}, "
        f"{'FIRE after reset' if chosen.fire_reset else 'no FIRE after reset'}, "
        f"{spec.frames_per_step} frames per agent step, at most {chosen.max_frames:,} frames"
    )


def _spec(name: str, observation: spaces.Space[Any], action: spaces.Space[Any]) -> EnvSpec:
    assert isinstance(observation, spaces.Box)
    assert isinstance(action, (spaces.Discrete, spaces.Box))
    return EnvSpec(
        name,
        observation,
        action,
        frames_per_step=1,
        is_atari=False,
        frame_channels=observation.shape[0] if len(observation.shape) == 3 else 1,
    )


def _find_level(env_id: str) -> doom.Level | lab.Level | None:
    return doom.find_level(env_id) or lab.find_level(env_id)


def _first_person_spec(level: doom.Level | lab.Level, keywords: dict[str, Any]) -> EnvSpec:
    if isinstance(level, doom.Level):
        name, num_actions = doom.PREFIX + level.name, len(level.actions)
        _check_keywords(name, doom.DoomVectorEnv, keywords)
        doom.episode_tics(level, **keywords)
        doom.check_installed()
    else:
        name, num_actions = lab.PREFIX + level.name, len(lab.ACTIONS)
        _check_keywords(name, lab.LabVectorEnv, keywords)
        lab.check_renderer(**keywords)
        lab.check_installed()
    return EnvSpec(
        name=name,
        single_observation_space=spaces.Box(0, 255, first_person.OBSERVATION_SHAPE, np.uint8),
        single_action_space=spaces.Discrete(num_actions),
        frames_per_step=first_person.FRAMES_PER_STEP,
        is_atari=False,
        frame_channels=first_person.OBSERVATION_SHAPE[0],
        reward_scale=level.reward_scale,
    )


def _make_toy(name: str, num_envs: int, keywords: dict[str, Any]) -> toy.ToyVectorEnv:
    world = toy.ENVS[name]
    _check_keywords(name, world, keywords)
    return world(num_envs, **keywords)


def _check_keywords(name: str, worlds: type[Any], keywords: dict[str, Any]) -> None:
    known = set(inspect.signature(worlds).parameters) - {"num_envs", "level"}
    unknown = sorted(set(keywords) - known)
    if unknown:
        raise ValueError(f"{name} does not take {unknown}: give {sorted(known) or 'nothing'}")


@functools.cache
def _actions(game: str) -> int:
    """How many actions do something in a game; loads its ROM once, about 0.1 s."""
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    ale = ale_py.ALEInterface()
    ale.loadROM(str(roms.get_rom_path(atari.games()[game])))
    return len(ale.getMinimalActionSet())
