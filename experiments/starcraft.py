"""Train a population of A3C agents on a mini-game of StarCraft II under PBT.

    python -m experiments.starcraft                   # MoveToBeacon, 8 members
    python -m experiments.starcraft --map CollectMineralShards --resolution 64

The same command again resumes. The preset "paper", for a cluster, has population, intervals and the
adapted learning rate of "Population Based Training of Neural Networks", Jaderberg et al. 2017
(https://arxiv.org/abs/1711.09846), section 4.1, and unroll and entropy cost of "StarCraft II: A New
Challenge for Reinforcement Learning", Vinyals et al. 2017 (https://arxiv.org/abs/1708.04782). The
game, which is not free software, must be installed; without it the command says how. Every
environment is a game process. The mini-games:

"""

from envs import starcraft
from experiments import cli, launch, presets

LISTING = "\n".join(f"    {one.name:<29}{one.description}" for one in starcraft.MINI_GAMES.values())


@cli.quiet
def main() -> None:
    """Parse the command line and run."""
    settings = cli.parse(presets.STARCRAFT, f"{__doc__}{LISTING}")
    mini_game = presets.find_mini_game(settings.map, settings.resolution)
    name = f"starcraft-{launch.slug(mini_game.name)}"
    launch.run_population(name, settings, presets.STARCRAFT)


if __name__ == "__main__":
    main()
