"""A population of UNREAL agents learns to find its way in a first-person world under PBT.

    python -m experiments.lab                         # MyWayHome, 8 members, all cores
    python -m experiments.lab --level HealthGathering --population 16
    python -m experiments.lab --level Lab/nav_maze_static_01    # where deepmind_lab is built

The same command again resumes. Presets: "default", an evening on two cores; "paper", population and
intervals of "Population Based Training of Neural Networks", Jaderberg et al. 2017
(https://arxiv.org/abs/1711.09846), section 4.1, for a cluster. Levels of ViZDoom, which
pip install -c constraints.txt -e '.[vizdoom]' gets:

"""

import dataclasses
import difflib

from envs import doom, lab
from experiments import command, config, launch, learner

LISTING = "\n".join(f"    {level.name:<24}{level.description}" for level in doom.LEVELS.values())


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabConfig(config.PopulationConfig):
    """First-person worlds. One agent step = 4 frames; scores are raw, learning clips rewards."""

    level: str = "MyWayHome"
    """A level of ViZDoom by name, or Lab/NAME: one of DeepMind Lab, where it is built."""


# The paper's agent for DeepMind Lab, and the prior of its authors for Labyrinth (Jaderberg et al.
# 2016, https://arxiv.org/abs/1611.05397).
_UNREAL = LabConfig(
    agent="unreal", pixel_control_cost=config.Range((1e-2, 1e-1), bounds=(1e-4, 1.0))
)
PRESETS = {
    "default": _UNREAL,
    # Population and the shortest of its ready intervals from the paper; its priors were not
    # published, so learning rate, entropy cost and unroll length keep ours.
    "paper": dataclasses.replace(
        _UNREAL,
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
    settings = config.parse(PRESETS, f"{__doc__}{LISTING}")
    try:
        level = find_level(settings.level)
    except ValueError as error:
        command.fail(str(error))
    prefix = doom.PREFIX if isinstance(level, doom.Level) else lab.PREFIX
    launch.run_experiment(
        f"lab-{launch.slug(level.name)}",
        settings,
        learner.LearnerConfig(
            env_id=prefix + level.name,
            num_envs=settings.num_envs,
            agent=settings.agent,
            settings=settings.agent_config(),
            auxiliary=settings.auxiliary_config(),
            clip_rewards=True,
            reward_scale=level.reward_scale,
            device=settings.device,
        ),
    )


def find_level(name: str) -> doom.Level | lab.Level:
    """A level by its plain name or its id; no other world, which would be played wrongly.

    Raises:
        ValueError: no such level, in one line with close matches.
    """
    if name in doom.LEVELS:
        return doom.LEVELS[name]
    try:
        level = doom.find_level(name) or lab.find_level(name)
    except ValueError as error:
        raise ValueError(f"--level {name}: {error}") from error
    if level is not None:
        return level
    known = {one.lower(): one for one in doom.LEVELS}
    known |= {one.lower(): lab.PREFIX + one for one in lab.PUBLISHED}
    matches = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(known[match] for match in matches)}?" if matches else "."
    raise ValueError(
        f"--level {name}: unknown level{hint} There are {', '.join(doom.LEVELS)}, and "
        f"{lab.PREFIX}NAME for DeepMind Lab's. Other worlds: python -m experiments.gym --env"
    )


if __name__ == "__main__":
    main()
