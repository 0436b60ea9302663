"""Train a population of UNREAL agents in a first-person level under PBT.

    python -m experiments.lab                         # MyWayHome, 8 members, all cores
    python -m experiments.lab --level HealthGathering --population 16
    python -m experiments.lab --level Lab/nav_maze_static_01    # where deepmind_lab is built

The same command again resumes. The preset "default" takes an evening on two cores. The preset
"paper", for a cluster, has population and intervals of "Population Based Training of Neural
Networks", Jaderberg et al. 2017 (https://arxiv.org/abs/1711.09846), section 4.1.
pip install -c constraints.txt -e '.[vizdoom]' installs ViZDoom and its levels:

"""

from envs import doom
from experiments import cli, launch, presets

LISTING = "\n".join(f"    {level.name:<24}{level.description}" for level in doom.LEVELS.values())


@cli.quiet
def main() -> None:
    """Parse the command line and run."""
    settings = cli.parse(presets.LAB, f"{__doc__}{LISTING}")
    level = presets.find_level(settings.level)
    launch.run_population(f"lab-{launch.slug(level.name)}", settings, presets.LAB)


if __name__ == "__main__":
    main()
