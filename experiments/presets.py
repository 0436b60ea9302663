"""Where experiments start from: the settings of each family of environments, and its presets."""

import dataclasses
import difflib
import math
from collections.abc import Mapping
from typing import Literal

from envs import atari, doom, lab
from experiments import config
from experiments.members import learner


@dataclasses.dataclass(frozen=True, kw_only=True)
class AtariConfig(config.PopulationConfig):
    """Atari games. One agent step = 4 emulator frames; scores are raw, learning clips rewards."""

    game: str = "Pong"
    """Any of ALE's games by name (Pong, MsPacman) or id (ALE/Pong-v5)."""
    protocol: Literal["a3c2016", "machado2018"] = "a3c2016"
    """"a3c2016": no sticky actions, up to 30 no-ops, minimal action set. "machado2018": sticky
    actions 0.25, all 18 actions. See envs/atari.py."""

    def check(self) -> None:
        """See `PopulationConfig.check`."""
        super().check()
        find_game(self.game)

    def learner_config(self) -> learner.LearnerConfig:
        """See `PopulationConfig.learner_config`."""
        return self.in_environment(find_game(self.game), self.protocol, clip_rewards=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GymConfig(config.PopulationConfig):
    """Gymnasium environments, and the suite's own toys. Rewards are not clipped."""

    env: str = "CartPole-v1"
    """Any Gymnasium id, or module:EnvId."""
    reward_scale: float | None = None
    """Factor of the rewards that members learn from. Discounted returns far from 1 make the
    value's gradient drown the policy's. Scores are raw. Default: a scale that is known to work in
    this environment, else 1."""

    def check(self) -> None:
        """See `PopulationConfig.check`."""
        super().check()
        if self.reward_scale is not None and not 0 < self.reward_scale < math.inf:
            raise ValueError(f"--reward-scale {self.reward_scale}: use a number above 0")

    def learned_scale(self) -> float:
        """Return the scale in force."""
        if self.reward_scale is None:
            return REWARD_SCALES.get(self.env, 1.0)
        return self.reward_scale

    def learner_config(self) -> learner.LearnerConfig:
        """See `PopulationConfig.learner_config`."""
        return self.in_environment(self.env, reward_scale=self.learned_scale())


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabConfig(config.PopulationConfig):
    """First-person levels. One agent step = 4 frames; scores are raw, learning clips rewards."""

    level: str = "MyWayHome"
    """A level of ViZDoom by name, or Lab/NAME for one of DeepMind Lab, where it is built."""

    def check(self) -> None:
        """See `PopulationConfig.check`."""
        super().check()
        find_level(self.level)

    def learner_config(self) -> learner.LearnerConfig:
        """See `PopulationConfig.learner_config`."""
        level = find_level(self.level)
        prefix = doom.PREFIX if isinstance(level, doom.Level) else lab.PREFIX
        return self.in_environment(
            prefix + level.name, clip_rewards=True, reward_scale=level.reward_scale
        )


REWARD_SCALES = {"CartPole-v0": 0.05, "CartPole-v1": 0.05}
"""CartPole pays 1 per step, so discounted returns reach 100. Unscaled, the gradient's norm is far
above the clip of 0.5, and policies that had learned to balance lost it again."""

# Population and ready interval are the paper's. It did not publish its priors, so learning rate,
# entropy cost and unroll length keep ours. It trained 80 members per game with FuN.
ATARI: Mapping[str, AtariConfig] = {
    "default": AtariConfig(),
    "paper": AtariConfig(
        preset="paper",
        population=80,
        total_steps=80_000_000,
        report_interval=100_000,
        ready_interval=1_000_000,
    ),
}

GYM: Mapping[str, GymConfig] = {
    "default": GymConfig(),
    "quick": GymConfig(
        preset="quick",
        total_steps=160_000,
        report_interval=4_000,
        ready_interval=16_000,
    ),
    "paper": GymConfig(
        preset="paper",
        population=40,
        total_steps=100_000_000,
        report_interval=100_000,
        ready_interval=1_000_000,
    ),
}

# The paper's agent for DeepMind Lab, and the prior of its authors for Labyrinth (Jaderberg et al.
# 2016, https://arxiv.org/abs/1611.05397).
_UNREAL = LabConfig(
    agent="unreal", pixel_control_cost=config.Range((1e-2, 1e-1), bounds=(1e-4, 1.0))
)
LAB: Mapping[str, LabConfig] = {
    "default": _UNREAL,
    # Population and the shortest of its ready intervals are the paper's; priors as for Atari.
    "paper": dataclasses.replace(
        _UNREAL,
        preset="paper",
        population=40,
        total_steps=100_000_000,
        report_interval=100_000,
        ready_interval=1_000_000,
    ),
}


def find_game(name: str) -> str:
    """Return an Atari game's plain name, from that name or its id.

    Raises:
        ValueError: There is no such game; one line with close matches.
    """
    game = atari.find_game(name)
    if game is None:
        close = difflib.get_close_matches(name, atari.games(), n=3, cutoff=0.5)
        hint = f"; did you mean {' or '.join(close)}?" if close else ": give one such as Pong."
        raise ValueError(
            f"--game {name}: unknown Atari game{hint} Other environments: "
            "python -m experiments.gym --env"
        )
    return game


def find_level(name: str) -> doom.Level | lab.Level:
    """Return a first-person level, from its plain name or its id.

    Raises:
        ValueError: There is no such level; one line with close matches.
    """
    if name in doom.LEVELS:
        return doom.LEVELS[name]
    try:
        level = doom.find_level(name) or lab.find_level(name)
    except ValueError as error:
        raise ValueError(f"--level {name}: {error}") from error
    if level is not None:
        return level
    known = {one.lower(): one for one in doom.LEVELS}
    known |= {one.lower(): lab.PREFIX + one for one in lab.PUBLISHED}
    matches = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(known[match] for match in matches)}?" if matches else "."
    raise ValueError(
        f"--level {name}: unknown level{hint} There are {', '.join(doom.LEVELS)}, and "
        f"{lab.PREFIX}NAME for DeepMind Lab's. Other environments: python -m experiments.gym --env"
    )
