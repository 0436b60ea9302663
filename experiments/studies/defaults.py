"""The suite's settings for anything that a population can learn, for commands that take any.

| environment | settings | learned rewards |
|---|---|---|
| Atari game | `presets.ATARI["default"]` | clipped to [-1, 1] |
| first-person level | `presets.LAB["default"]` | scaled by the level's factor, then clipped |
| StarCraft II mini-game | `presets.STARCRAFT["default"]` | raw |
| "translation", "gan" | `presets.TRANSLATION["default"]`, `presets.GAN["default"]` | none |
| any other | `presets.GYM["default"]` | scaled by the environment's factor, if it has one |
"""

import dataclasses
import typing
from collections.abc import Mapping

from envs import make, starcraft
from experiments import config, presets
from experiments.members import learner

OTHERS: Mapping[str, config.EngineConfig] = {
    "translation": presets.TRANSLATION["default"]["translator"],
    "gan": presets.GAN["default"]["gan"],
}
"""Settings of learners without an environment, by the command that trains them."""


def base(env_id: str, agent: str | None = None) -> config.EngineConfig:
    """Return the suite's settings for an environment and an agent, or for another learner.

    Args:
        env_id: Any environment of the suite, or a name in `OTHERS`.
        agent: Any agent of the suite; default: A3C. Other learners have none.

    Raises:
        ValueError: There is no such environment or agent; one line with close matches.
    """
    if env_id not in OTHERS:
        return defaults(env_id, agent or "a3c")
    if agent is not None:
        raise ValueError(f"--agent {agent}: {env_id} has no agents, leave it out")
    return OTHERS[env_id]


def defaults(env_id: str, agent: str = "a3c") -> config.PopulationConfig:
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
        settings = dataclasses.replace(presets.ATARI["default"][agent], game=env_id)
    elif make.find_level(spec.name):
        settings = dataclasses.replace(presets.LAB["default"][agent], level=spec.name)
    elif mini_game := starcraft.find_mini_game(spec.name):
        settings = dataclasses.replace(
            presets.STARCRAFT["default"][agent],
            map=mini_game.name,
            resolution=mini_game.resolution,
        )
    else:
        settings = dataclasses.replace(presets.GYM["default"][agent], env=spec.name)
    return settings
