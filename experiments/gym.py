"""Train a population of agents on any Gymnasium environment under PBT.

    python -m experiments.gym --preset quick          # CartPole, a minute or two on two cores
    python -m experiments.gym --env Pendulum-v1
    python -m experiments.gym --env my_module:MyEnv-v0

Observations may be vectors, images, Dict or Tuple. Actions may be Discrete, Box, MultiDiscrete,
MultiBinary, or Dict or Tuple of discrete parts. `info["action_mask"]` says which are legal. The
same command again resumes. A run keeps two checkpoints of each member, and one when it is finished:
of 0.5 MB for the vectors of CartPole, of 15 MB for images of Atari's size.
"""

from experiments import cli, launch, presets


@cli.quiet
def main() -> None:
    """Parse the command line and run."""
    settings = cli.parse(presets.GYM, __doc__)
    launch.run_population(f"gym-{launch.slug(settings.name())}", settings, presets.GYM)


if __name__ == "__main__":
    main()
