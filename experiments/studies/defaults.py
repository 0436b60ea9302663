"""The suite's settings for any environment, for commands that take any.

| environment | settings | learned rewards |
|---|---|---|
| Atari game | `presets.ATARI["default"]` | clipped to [-1, 1] |
| first-person level | `presets.LAB["default"]` | scaled by the level's factor, then clipped |
| "translation", "gan" | their default presets | |
| any other | `presets.GYM["default"]` | scaled by the environment's factor, if it has one |
"""

import dataclasses
import typing
from collections.abc import Mapping

from envs import doom, lab, make
from experiments import config, presets
from experiments.members import learner

OTHERS: Mapping[str, config.EngineConfig] = {
    "translation": presets.TRANSLATION["default"]["translator"],
    "gan": presets.GAN["default"]["gan"],
}
"""Settings of learners without an environment, by the command that trains them."""


def defaults(env_id: str, agent: str = "a3c") -> config.EngineConfig:
    """Return the suite's settings for an environment and an agent, or for another learner.

    Raises:
        ValueError: There is no such environment or agent; one line with close matches.
    """
    if env_id in OTHERS:
        return OTHERS[env_id]
    return of_agents(env_id, agent)


def of_agents(env_id: str, agent: str) -> config.PopulationConfig:
    """Return the suite's settings for an environment and an agent.

    Raises:
        ValueError: There is no such environment or agent; one line with close matches.
    """
    known = typing.get_args(learner.AgentName)
    if agent not in known:
        raise ValueError(f"--agent {agent}: use one of {', '.join(known)}")
    spec = make.describe(env_id)
    settings: config.PopulationConfig
    if spec.is_atari:
        settings = dataclasses.replace(presets.ATARI["default"][agent], game=spec.name)
    elif doom.find_level(spec.name) or lab.find_level(spec.name):
        settings = dataclasses.replace(presets.LAB["default"][agent], level=spec.name)
    else:
        settings = dataclasses.replace(presets.GYM["default"][agent], env=spec.name)
    return settings
