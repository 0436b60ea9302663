"""A population of A3C agents learns any Gymnasium world under PBT.

    python -m experiments.gym --preset quick          # CartPole, 70 seconds on two idle cores
    python -m experiments.gym --env Pendulum-v1
    python -m experiments.gym --env my_module:MyEnv-v0

Discrete and Box actions, vector and image observations. The same command again resumes.
"""

import dataclasses
import math

from experiments import command, config, launch, learner


@dataclasses.dataclass(frozen=True, kw_only=True)
class GymConfig(config.PopulationConfig):
    """Gymnasium worlds, and the suite's own toy worlds. Rewards are not clipped."""

    env: str = "CartPole-v1"
    """Any Gymnasium id, or module:EnvId."""
    reward_scale: float | None = None
    """Learn from rewards multiplied by this: discounted returns far from 1 make the value's
    gradient drown the policy's. Scores are raw. Default: what is known to work in this world
    (`REWARD_SCALES`), else 1."""

    def check(self) -> None:
        """See `PopulationConfig.check`."""
        super().check()
        if self.reward_scale is not None and not 0 < self.reward_scale < math.inf:
            raise ValueError(f"--reward-scale {self.reward_scale}: use a number above 0")

    def learned_scale(self) -> float:
        """The scale in force."""
        if self.reward_scale is None:
            return REWARD_SCALES.get(self.env, 1.0)
        return self.reward_scale


REWARD_SCALES = {"CartPole-v0": 0.05, "CartPole-v1": 0.05}
"""CartPole pays 1 per step, so discounted returns reach 100: unscaled, the gradient's norm is far
above the clip of 0.5, and policies that stood fell again."""

PRESETS = {
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


@command.quiet
def main() -> None:
    """Parse the command line and run."""
    settings = config.parse(PRESETS, __doc__)
    launch.run_experiment(
        f"gym-{launch.slug(settings.env)}",
        settings,
        learner.LearnerConfig(
            env_id=settings.env,
            num_envs=settings.num_envs,
            agent=settings.agent,
            settings=settings.agent_config(),
            auxiliary=settings.auxiliary_config(),
            reward_scale=settings.learned_scale(),
            device=settings.device,
        ),
    )


if __name__ == "__main__":
    main()
