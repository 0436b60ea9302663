"""A population of A3C agents learns any Gymnasium world under PBT.

    python -m experiments.gym --preset quick          # CartPole, 70 seconds on two idle cores
    python -m experiments.gym --env Pendulum-v1
    python -m experiments.gym --env my_module:MyEnv-v0

Discrete and Box actions, vector and image observations. The same command again resumes.
"""

import dataclasses

from experiments import config, launch, learner


@dataclasses.dataclass(frozen=True, kw_only=True)
class GymConfig(config.PopulationConfig):
    """Gymnasium worlds, and the suite's own Catch and MemoryChain. Rewards are not clipped."""

    env: str = "CartPole-v1"
    """Any Gymnasium id, or module:EnvId."""


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


def main() -> None:
    """Parse the command line and run."""
    settings = config.parse(PRESETS, __doc__)
    launch.run_experiment(
        f"gym-{settings.env.replace(':', '-').replace('/', '-')}",
        settings,
        learner.LearnerConfig(
            env_id=settings.env,
            num_envs=settings.num_envs,
            agent=settings.agent,
            settings=settings.agent_config(),
            device=settings.device,
        ),
    )


if __name__ == "__main__":
    main()
