"""One environment with the protocol of `envs.make.make_vec`, as a plain Gymnasium environment."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector.utils import iterate


class SingleEnv(gymnasium.Env[Any, Any]):
    """The only environment of a vector of one.

    Observations, actions and limits are those of the vector. `step` returns the last observation
    of an episode where one ends, and `reset` begins the next one.

    Args:
        envs: Environments from `envs.make.make_vec`, one of them.
    """

    def __init__(self, envs: gymnasium.vector.VectorEnv[Any, Any, Any]) -> None:
        self._envs = envs
        self.observation_space = envs.single_observation_space
        self.action_space = envs.single_action_space
        self.metadata = envs.metadata

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode; return its first observation and info. There are no options."""
        super().reset(seed=seed)
        obs, info = self._envs.reset(seed=seed)
        return self._only(obs), _mask(info)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Act once.

        Args:
            action: A discrete action, or an array of its parts or of the dimensions of a
                continuous one.

        Returns:
            Observation, raw reward, whether the episode terminated, whether it was truncated, and
            an info with "life_lost" and, where the environment gives it, "action_mask".
        """
        obs, reward, terminated, truncated, info = self._envs.step(np.asarray(action)[None])
        ended = bool(terminated[0] or truncated[0])
        last = info["final_obs"] if ended else obs  # [1, ...]
        return (
            self._only(last),
            float(reward[0]),
            bool(terminated[0]),
            bool(truncated[0]),
            {"life_lost": bool(info["life_lost"][0])} | _mask(info),
        )

    def _only(self, obs: Any) -> Any:
        """Return the observation of the only environment."""
        return next(iter(iterate(self._envs.observation_space, obs)))

    def close(self) -> None:
        """Close the environment."""
        self._envs.close()


def _mask(info: dict[str, Any]) -> dict[str, Any]:
    return {"action_mask": info["action_mask"][0]} if "action_mask" in info else {}
