"""Names of the suite's task factories, as run directories store them."""

from collections.abc import Mapping
from typing import Any

from pbt import run

LEARNER = "experiments.members:make_task"
"""Task of runs whose members are agents in environments."""
SCHEDULED = "experiments.members:make_scheduled_task"
"""Task of runs whose members follow the schedule in the task's configuration."""
TRANSLATION = "experiments.members.translation:make_task"
"""Task of runs whose members translate."""
GAN = "experiments.members.gan:make_task"
"""Task of runs whose members are GANs."""
OLD = {"experiments.learner:make_task": LEARNER, "experiments.replay:make_task": SCHEDULED}
"""Names that older run directories have, with the present names."""


def current(task: str) -> str:
    """Return the present name of a task factory."""
    return OLD.get(task, task)


def trained(config: run.RunConfig) -> str:
    """Return the present name of the factory of a run's learners, without a schedule's wrapper."""
    name = current(config.task)
    return str(config.task_config.get("task", LEARNER)) if name == SCHEDULED else name


def has_fresh_samples(config: run.RunConfig) -> bool:
    """Return whether the suite can score a run's members by fresh samples.

    It knows nothing of a learner of somebody else, except its training scores.
    """
    return trained(config) in (LEARNER, TRANSLATION, GAN)


def own_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a learner's configuration without what a replay of a schedule has added to it."""
    return {name: value for name, value in config.items() if name not in ("schedule", "task")}


def as_stored(given: run.RunConfig, stored: run.RunConfig) -> str:
    """Return the stored name of the given task if both name the same factory, else its own."""
    return stored.task if current(stored.task) == current(given.task) else given.task


def original(task: str) -> str:
    """Return the first name that a task factory had. Digests of settings are made with it."""
    return next((old for old, new in OLD.items() if new == task), task)
