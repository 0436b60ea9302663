"""Settings of runs that follow a schedule of hyperparameters or keep its last values."""

import dataclasses

from experiments import config
from experiments.analysis import schedule, tasks
from pbt import run, space


def follow(base: run.RunConfig, followed: schedule.Schedule, members: int) -> run.RunConfig:
    """Return the settings of a run whose members follow a schedule, and are as in `base` otherwise.

    Raises:
        ValueError: The agent has other hyperparameters than the schedule.
    """
    _check_names(base, followed)
    return dataclasses.replace(
        _alone(base, members),
        task=tasks.SCHEDULED,
        task_config={**base.task_config, "schedule": followed.to_json()},
        space=space.Space({}),
    )


def freeze(base: run.RunConfig, followed: schedule.Schedule, members: int) -> run.RunConfig:
    """Return the settings of a run whose hyperparameters are fixed at a schedule's last values.

    Raises:
        ValueError: The agent has other hyperparameters than the schedule.
    """
    _check_names(base, followed)
    searched = _search_space(base)
    fixed = searched.fix({name: float(v) for name, v in searched.used(followed.final).items()})
    task_config = {name: v for name, v in base.task_config.items() if name != "schedule"}
    return dataclasses.replace(
        _alone(base, members), task=tasks.LEARNER, task_config=task_config, space=fixed
    )


def _alone(base: run.RunConfig, members: int) -> run.RunConfig:
    """Return the settings without copying; what copying would need is left at its defaults."""
    return dataclasses.replace(
        base,
        population=members,
        exploit="none",
        explore="perturb",
        copy="both",
        significance=0.05,
    )


def _check_names(base: run.RunConfig, followed: schedule.Schedule) -> None:
    agent = base.task_config["agent"]
    wanted = set(_search_space(base).dimensions)
    if missing := sorted(wanted - set(followed.names)):
        raise ValueError(
            f"the schedule says nothing of {', '.join(missing)}: add a column, or use the agent "
            "that it was made with"
        )
    if unknown := sorted(set(followed.names) - wanted):
        raise ValueError(
            f"the schedule has {', '.join(unknown)}, which the agent {agent!r} has not: "
            "use the agent that it was made with"
        )


def _search_space(base: run.RunConfig) -> space.Space:
    """Return all hyperparameters of the run's agent, also if the run itself follows a schedule."""
    return config.PopulationConfig(agent=base.task_config["agent"]).search_space()
