"""A population of A3C agents learns an Atari game under PBT.

    python -m experiments.atari                       # Pong, 8 members, all cores
    python -m experiments.atari --game MsPacman --population 16
    python -m experiments.atari --exploit none        # random search with equal budget

The same command again resumes. Presets: "default", an evening on two cores; "paper", population
and intervals of "Population Based Training of Neural Networks", Jaderberg et al. 2017
(https://arxiv.org/abs/1711.09846), section 4.1 and appendix A, for a cluster. For a first look
that takes a minute or two: `python -m experiments.gym --preset quick`.
"""

import dataclasses
import difflib
from typing import Literal

from envs import atari
from experiments import command, config, launch, learner


@dataclasses.dataclass(frozen=True, kw_only=True)
class AtariConfig(config.PopulationConfig):
    """Atari worlds. One agent step = 4 emulator frames; scores are raw, learning clips rewards."""

    game: str = "Pong"
    """Any of ALE's games by name (Pong, MsPacman) or id (ALE/Pong-v5)."""
    protocol: Literal["a3c2016", "machado2018"] = "a3c2016"
    """"a3c2016": no sticky actions, up to 30 no-ops, minimal action set; "machado2018": sticky
    actions 0.25, all 18 actions. See envs/atari.py."""


PRESETS = {
    "default": AtariConfig(),
    # Population and ready interval from the paper; its priors were not published, so learning
    # rate, entropy cost and unroll length keep ours. 80 members per game is what it used for FuN.
    "paper": AtariConfig(
        preset="paper",
        population=80,
        total_steps=80_000_000,
        report_interval=100_000,
        ready_interval=1_000_000,
    ),
}


@command.quiet
def main() -> None:
    """Parse the command line and run."""
    settings = config.parse(PRESETS, __doc__)
    try:
        game = find_game(settings.game)
    except ValueError as error:
        command.fail(str(error))
    launch.run_experiment(
        f"atari-{game}",
        settings,
        learner.LearnerConfig(
            env_id=game,
            num_envs=settings.num_envs,
            preset=settings.protocol,
            agent=settings.agent,
            settings=settings.agent_config(),
            auxiliary=settings.auxiliary_config(),
            clip_rewards=True,
            device=settings.device,
        ),
    )


def find_game(name: str) -> str:
    """A game's plain name, however it was given; no other world, which would be played wrongly.

    Raises:
        ValueError: no such game, in one line with close matches.
    """
    game = atari.find_game(name)
    if game is None:
        close = difflib.get_close_matches(name, atari.games(), n=3, cutoff=0.5)
        hint = f"; did you mean {' or '.join(close)}?" if close else ": give one such as Pong."
        raise ValueError(
            f"--game {name}: unknown Atari game{hint} Other worlds: python -m experiments.gym --env"
        )
    return game


if __name__ == "__main__":
    main()
