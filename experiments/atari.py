"""Train a population of agents on an Atari game under PBT.

    python -m experiments.atari                       # Pong, 8 members of PPO, all cores
    python -m experiments.atari --game MsPacman --population 16
    python -m experiments.atari --agent a3c           # another agent, with settings that fit it
    python -m experiments.atari --exploit none        # random search with equal budget

The same command again resumes. The preset "default" takes less than an hour on two cores. The
preset "paper", for a cluster, has agent, population and intervals of "Population Based Training of
Neural Networks", Jaderberg et al. 2017 (https://arxiv.org/abs/1711.09846), section 4.1 and appendix
A. Its agent is a FeUdal Network with the settings of Vezhnevets et al. 2017
(https://arxiv.org/abs/1703.01161), section 5.
A run keeps two checkpoints of 15 MB for each member, and one when it is finished.
For a first look of a minute or two: `python -m experiments.gym --preset quick`.
"""

from experiments import cli, launch, presets


@cli.quiet
def main() -> None:
    """Parse the command line and run."""
    settings = cli.parse(presets.ATARI, __doc__)
    launch.run_population(f"atari-{presets.find_game(settings.game)}", settings, presets.ATARI)


if __name__ == "__main__":
    main()
