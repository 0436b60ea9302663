"""Names of the suite's task factories, as run directories store them."""

from pbt import run

LEARNER = "experiments.members:make_task"
"""Task of runs whose members are agents in environments."""
SCHEDULED = "experiments.members:make_scheduled_task"
"""Task of runs whose members follow a schedule, which stands in the task's configuration."""
OLD = {"experiments.learner:make_task": LEARNER, "experiments.replay:make_task": SCHEDULED}
"""Names in run directories of before the move of these factories, with the present names."""


def current(task: str) -> str:
    """Return the present name of a task factory."""
    return OLD.get(task, task)


def as_stored(given: run.RunConfig, stored: run.RunConfig) -> str:
    """Return the given task's name as the stored run has it, if both name the same factory."""
    return stored.task if current(stored.task) == current(given.task) else given.task


def original(task: str) -> str:
    """Return the first name that a task factory had: digests of settings are made with it."""
    return next((old for old, new in OLD.items() if new == task), task)
