"""`Worlds`: settings for any world of the suite, for commands that take any.

A world's kind says where its settings start from:

| kind | population settings | learned rewards |
|---|---|---|
| an Atari game | `experiments.atari`, preset "default" | clipped to [-1, 1] |
| a first-person level | `experiments.lab`, preset "default" | times the level's scale, clipped |
| all others | `experiments.gym`, preset "default" | times the world's scale, if it has one |
"""

import dataclasses
import typing

from envs import doom, lab, make
from experiments import atari, config, gym, learner
from experiments import lab as levels


@dataclasses.dataclass(frozen=True)
class Worlds:
    """A population's settings, and what each of its members is."""

    settings: config.PopulationConfig
    learner_config: learner.LearnerConfig


def defaults(world: str, agent: str = "a3c") -> Worlds:
    """The suite's settings for a world and an agent.

    Raises:
        ValueError: no such world or agent, in one line with close matches.
    """
    known = typing.get_args(typing.get_type_hints(config.PopulationConfig)["agent"])
    if agent not in known:
        raise ValueError(f"--agent {agent}: use one of {', '.join(known)}")
    spec = make.describe(world)
    is_level = bool(doom.find_level(spec.name) or lab.find_level(spec.name))
    start: config.PopulationConfig
    reward_scale = spec.reward_scale
    if spec.is_atari:
        start = atari.PRESETS["default"]
    elif is_level:
        start = levels.PRESETS["default"]
    else:
        start = gym.PRESETS["default"]
        reward_scale = gym.REWARD_SCALES.get(spec.name, 1.0)
    settings = plain(start, agent)
    learner_config = learner.LearnerConfig(
        env_id=spec.name,
        num_envs=settings.num_envs,
        agent=settings.agent,
        settings=settings.agent_config(),
        auxiliary=settings.auxiliary_config(),
        clip_rewards=spec.is_atari or is_level,
        reward_scale=reward_scale,
        device=settings.device,
    )
    return Worlds(settings, learner_config)


def plain(settings: config.PopulationConfig, agent: str) -> config.PopulationConfig:
    """The population's settings without those of its world, for an agent."""
    fields = {
        field.name: getattr(settings, field.name)
        for field in dataclasses.fields(config.PopulationConfig)
    }
    return config.PopulationConfig(**{**fields, "agent": agent})
