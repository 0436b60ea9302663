"""Atari games through ALE's own C++ vector environment, with named presets.

Observations are `[num_envs, 4, 84, 84]` uint8: the last four agent steps, oldest first, each the
pixel-wise maximum of the last two of four emulator frames, in luminance, resized by area. One
agent step is four emulator frames. All this is bit-equal to Gymnasium's `AtariPreprocessing`
followed by `FrameStackObservation(4, padding_type="zero")`.

ale-py 0.12.1 has these traits, each observed, and this module handles them:

- `episodic_life=True` resets the game at a lost life, so that a score is that of one life. We never
  pass it.
- `life_loss_info=True` reports a lost life as `terminated`, although the game continues, and hides
  a truncation in the same step. We leave it off, so that `terminated` and `truncated` mean the
  game's end, and derive `life_lost` from the counter of lives.
- Rewards are clipped by default. We switch that off.
- An action outside the set raises in ALE's worker thread, and `recv` then waits for ever. We refuse
  such actions first.
- Returned arrays are new memory at every call, so we do not copy them.
- `noop_max=n` draws from 0 to n - 1 no-ops, so "up to 30" is 31.
- The limit of frames counts from the end of the no-ops.
- Seeds are C++ ints, so larger ones are folded. Seeding an environment loads its ROM again, which
  takes as long as building it: seed once, at the start.
- After its first episode an environment continues with its own generator: no-ops and sticky actions
  of later episodes follow from the slot's seed and the play so far.
"""

import dataclasses
import functools
from typing import Any

import gymnasium
import numpy as np
from ale_py import roms, vector_env
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from envs import ids, slots

FRAMES_PER_STEP = 4
"""Emulator frames per agent step (Human-level control ..., Mnih et al. 2015, methods)."""

_TWO_PLAYER_ONLY = frozenset({"combat", "joust", "maze_craze", "warlords"})
"""ROMs without a single-player mode. ALE ends the whole process on loading one."""


@dataclasses.dataclass(frozen=True)
class Preset:
    """A published protocol: how episodes start and end, and which actions there are.

    Raises:
        ValueError: A value is out of its range.
    """

    name: str
    """Name for users and records."""
    repeat_action_probability: float
    """Sticky actions: probability, at each frame, that the previous action is played instead."""
    max_noops: int
    """Largest number of no-op frames at the start of an episode, drawn uniformly from 0 on."""
    full_action_space: bool
    """Whether there are all 18 joystick actions, or only those that the game uses."""
    fire_reset: bool
    """Whether FIRE is pressed once after a reset, in games that wait for it."""
    max_frames: int
    """Emulator frames after which an episode is truncated."""
    life_loss_signal: bool
    """Whether `info["life_lost"]` tells of lost lives, at which agents end the return. Machado
    et al. 2018 advise against it."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.repeat_action_probability < 1.0:
            raise ValueError(
                f"repeat_action_probability is {self.repeat_action_probability}: give at least 0 "
                "and less than 1 (at 1 no action is ever played)"
            )
        if self.max_noops < 0:
            raise ValueError(f"max_noops is {self.max_noops}: give 0 or more frames")
        if self.max_frames < FRAMES_PER_STEP:
            raise ValueError(
                f"max_frames is {self.max_frames}: an agent step is {FRAMES_PER_STEP} frames, "
                "give at least that many"
            )


A3C2016 = Preset(
    name="a3c2016",
    repeat_action_probability=0.0,
    max_noops=30,
    full_action_space=False,
    fire_reset=False,
    max_frames=108_000,
    life_loss_signal=True,
)
"""Asynchronous Methods for Deep Reinforcement Learning, Mnih et al. 2016 (arXiv 1602.01783).

Deterministic emulator, up to 30 no-ops, minimal actions, 30 minutes of play at 60 Hz. The paper
describes no FIRE reset: the agent has to find the button.
"""

MACHADO2018 = Preset(
    name="machado2018",
    repeat_action_probability=0.25,
    max_noops=0,
    full_action_space=True,
    fire_reset=False,
    max_frames=18_000,
    life_loss_signal=False,
)
"""Revisiting the Arcade Learning Environment, Machado et al. 2018 (arXiv 1709.06009).

Sticky actions in place of no-op starts, all 18 actions, 5 minutes of play at 60 Hz, no FIRE reset.
A lost life ends neither the episode nor the return that agents learn from. (Dopamine has the same
sticky actions, but a limit of 108,000 frames.)
"""

ALE_V5 = Preset(
    name="ale-v5",
    repeat_action_probability=0.25,
    max_noops=0,
    full_action_space=False,
    fire_reset=False,
    max_frames=108_000,
    life_loss_signal=False,
)
"""What ale-py registers as `ALE/...-v5`: sticky actions, minimal actions, 30 minutes at 60 Hz.

A lost life ends nothing. Observations are this module's, not the raw screens of these ids.
"""

PRESETS = {preset.name: preset for preset in (A3C2016, MACHADO2018, ALE_V5)}


def usual_preset(env_id: str) -> Preset:
    """Return the protocol that an id asks for: `ALE/Pong-v5` that of v5, `Pong` that of A3C."""
    return ALE_V5 if env_id.startswith("ALE/") else A3C2016


@functools.cache
def games() -> dict[str, str]:
    """Return the ROM of each single-player game, as `ms_pacman`, by plain name, as `MsPacman`."""
    single_player = (rom for rom in roms.get_all_rom_ids() if rom not in _TWO_PLAYER_ONLY)
    return {rom.title().replace("_", ""): rom for rom in sorted(single_player)}


def find_game(env_id: str) -> str | None:
    """Return the plain name of a game given as `MsPacman` or `ALE/MsPacman-v5`; else None.

    Raises:
        ValueError: The id can only mean a game (`ALE/...`, an old id, other capitals), but is none
            that can be played; the message suggests one.
    """
    if env_id in games():
        return env_id
    if env_id.startswith("ALE/"):
        name = env_id.removeprefix("ALE/").removesuffix("-v5")
        if env_id == f"ALE/{name}-v5" and name in games():
            return name
        stem = name.partition("-")[0]
        _refuse_two_players(env_id, stem)
        raise ValueError(
            f"unknown Atari game {env_id!r}{ids.did_you_mean(stem, {one: one for one in games()})} "
            "Give a plain name (Pong) or ALE/Pong-v5"
        )
    _refuse_two_players(env_id, env_id)
    registered = gymnasium.registry.get(env_id)
    by_folded_name = {_fold(game): game for game in games()}
    meant = by_folded_name.get(_fold(env_id))
    if registered is not None:
        if not str(registered.entry_point).startswith("ale_py"):
            return None  # Blackjack-v1 is a card game of Gymnasium's own
        meant = by_folded_name[_fold(registered.kwargs["game"])]
    if meant is not None:
        raise ValueError(
            f"unknown environment {env_id!r}; did you mean {meant}? Its frame skip and sticky "
            "actions come from the preset, not from the id"
        )
    return None


def _refuse_two_players(env_id: str, name: str) -> None:
    if _fold(name) in {_fold(rom) for rom in _TWO_PLAYER_ONLY}:
        raise ValueError(f"{env_id} has no single-player mode in ALE: choose another game")


def _fold(name: str) -> str:
    return name.replace("_", "").lower()


def find_preset(preset: "str | Preset | None", env_id: str) -> Preset:
    """Return a preset by name, the given one, or for None the one that an id asks for.

    Raises:
        ValueError: There is no preset of that name.
    """
    if preset is None:
        return usual_preset(env_id)
    if isinstance(preset, Preset):
        return preset
    if preset not in PRESETS:
        raise ValueError(f"unknown Atari preset {preset!r}: choose from {', '.join(PRESETS)}")
    return PRESETS[preset]


class AtariVectorEnv(gymnasium.vector.VectorEnv[Any, Any, Any]):
    """`num_envs` copies of one game. See `envs.make.make_vec` for the contract of `step`.

    Args:
        game: Plain name of the game.
        num_envs: Number of copies.
        preset: Protocol of all copies.
        num_threads: Number of emulator threads.
    """

    def __init__(self, game: str, num_envs: int, preset: Preset, num_threads: int) -> None:
        self._ale: vector_env.AtariVectorEnv | None = vector_env.AtariVectorEnv(
            games()[game],
            num_envs,
            num_threads=num_threads,
            autoreset_mode=AutoresetMode.SAME_STEP,
            max_num_frames_per_episode=preset.max_frames,
            repeat_action_probability=preset.repeat_action_probability,
            full_action_space=preset.full_action_space,
            noop_max=preset.max_noops + 1 if preset.max_noops else 0,
            use_fire_reset=preset.fire_reset,
            frameskip=FRAMES_PER_STEP,
            reward_clipping=False,
            life_loss_info=False,
        )
        self.num_envs = num_envs
        self.preset = preset
        self.metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}
        self.single_observation_space = self._ale.single_observation_space
        self.single_action_space = self._ale.single_action_space
        self.observation_space = self._ale.observation_space
        self.action_space = self._ale.action_space
        assert isinstance(self.single_action_space, spaces.Discrete)
        self._num_actions = int(self.single_action_space.n)
        self._lives: NDArray[np.int32] | None = None  # [B], None before the first reset

    def reset(
        self, *, seed: slots.Seed = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        """Start a new episode in every slot; see `envs.make.make_vec`."""
        if options:
            raise ValueError(f"Atari takes no reset options, got {sorted(options)}")
        slots.check_open(self.closed)
        assert self._ale is not None
        seeds = slots.slot_seeds(seed, self.num_envs)
        folded = None if seeds is None else np.array([s % 2**31 for s in seeds], dtype=np.int64)
        obs, info = self._ale.reset(seed=folded)
        self._lives = info["lives"]
        return obs, info

    def step(self, actions: NDArray[np.integer[Any]]) -> slots.Stepped:
        """Play one agent step in every slot; see `envs.make.make_vec`."""
        slots.check_open(self.closed, self._lives is not None)
        assert self._ale is not None
        actions = slots.discrete(actions, self.num_envs, self._num_actions)
        obs, reward, terminated, truncated, ale_info = self._ale.step(actions.astype(np.int64))
        info: dict[str, Any] = {"final_obs": None, **ale_info}
        done = terminated | truncated  # [B]
        # Where an episode ended, `lives` is already the next one's, and its fall means nothing.
        lost = (info["lives"] < self._lives) & ~done
        info["life_lost"] = lost & self.preset.life_loss_signal
        self._lives = info["lives"]
        return obs, reward.astype(np.float64), terminated, truncated, info

    def close_extras(self, **kwargs: Any) -> None:
        """Free the emulators and their threads (ale-py's own `close` does nothing)."""
        self._ale = None
