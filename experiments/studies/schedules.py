"""Settings of runs that follow a schedule of hyperparameters or keep its last values."""

import dataclasses
from collections.abc import Mapping

from experiments.analysis import schedule, tasks
from pbt import run, space


def follow(base: run.RunConfig, followed: schedule.Schedule, members: int) -> run.RunConfig:
    """Return the settings of a run whose members follow a schedule, and are as in `base` otherwise.

    Raises:
        ValueError: The agent has other hyperparameters than the schedule.
    """
    _check_names(base, followed)
    task_config = {**base.task_config, "schedule": followed.to_json()}
    if tasks.trained(base) != tasks.LEARNER:
        task_config["task"] = tasks.trained(base)
    return dataclasses.replace(
        _alone(base, members),
        task=tasks.SCHEDULED,
        task_config=task_config,
        space=space.Space({}),
    )


def freeze(base: run.RunConfig, followed: schedule.Schedule, members: int) -> run.RunConfig:
    """Return the settings of a run whose hyperparameters are fixed at a schedule's last values.

    Raises:
        ValueError: The agent has other hyperparameters than the schedule.
    """
    _check_names(base, followed)
    last = followed.used(followed.length)
    fixed = space.Space({name: space.Constant(float(v)) for name, v in last.items()})
    task_config = tasks.own_config(base.task_config)  # without what `follow` has added
    return dataclasses.replace(
        _alone(base, members), task=tasks.trained(base), task_config=task_config, space=fixed
    )


def linear_decay(
    values: Mapping[str, float], total_steps: int, rows: int = 20
) -> schedule.Schedule:
    """Return a schedule whose learning rates fall linearly to zero, in rows of equal length.

    Args:
        values: First values by name. Those whose name ends in "learning_rate" fall.
        total_steps: Steps after which they would be zero.
        rows: Number of rows. Each has the value of its middle.
    """
    return schedule.Schedule(
        tuple(
            (
                total_steps * row // rows,
                {
                    name: value * (1 - (row + 0.5) / rows)
                    if name.endswith("learning_rate")
                    else value
                    for name, value in values.items()
                },
            )
            for row in range(rows)
        )
    )


def _alone(base: run.RunConfig, members: int) -> run.RunConfig:
    """Return the settings without copying; what copying would need is left at its defaults."""
    return dataclasses.replace(
        base,
        population=members,
        exploit="none",
        explore="perturb",
        explore_at="exploit",
        copy="both",
        significance=0.05,
    )


def _check_names(base: run.RunConfig, followed: schedule.Schedule) -> None:
    learner = base.task_config.get("agent", tasks.trained(base))
    wanted = set(names(base))
    if missing := sorted(wanted - set(followed.names)):
        raise ValueError(
            f"the schedule says nothing of {', '.join(missing)}: add a column, or use the agent "
            "that it was made with"
        )
    if unknown := sorted(set(followed.names) - wanted):
        raise ValueError(
            f"the schedule has {', '.join(unknown)}, which the agent {learner!r} has not: "
            "use the agent that it was made with"
        )


def names(base: run.RunConfig) -> tuple[str, ...]:
    """Return all hyperparameters of a run's learners, also if the run itself follows a schedule."""
    followed = schedule.followed(base)
    return tuple(base.space.dimensions) if followed is None else followed.names
