"""Train a learner whose hyperparameters follow a schedule, not the engine."""

import contextlib
import json
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

from experiments.analysis import schedule, tasks
from pbt import slices, task


class ScheduledTask:
    """A task that sets the hyperparameters of another task from a schedule.

    A value changes at the first update that begins at or after its step. With the same number of
    environments as in the schedule's own run, updates end at the same agent steps as there, so
    values change at the same agent steps too. A change comes up to one update later where that
    run's budget had cut a donor's last update short.

    A checkpoint holds the agent steps taken, so a resumed run continues at its row of the schedule.
    The metrics `hyperparameter/<name>` report the values in force. TensorBoard shows them where it
    shows the hyperparameters of any other run.

    Args:
        inner: The task that follows the schedule.
        followed: The schedule. It names only hyperparameters that `inner` has.
    """

    FILE = "schedule.json"
    """Name of the file beside the inner task's own files in a checkpoint."""

    def __init__(self, inner: task.Task, followed: schedule.Schedule) -> None:
        self._inner = inner
        self._schedule = followed
        self._agent_steps = 0
        self._apply()

    def _apply(self) -> None:
        self._inner.set_hyperparameters(self._schedule.at(self._agent_steps))

    def train(self, agent_steps: int, limit: int) -> Iterator[task.Progress]:
        """See `pbt.task.Task.train`."""
        with contextlib.closing(_generated(self._inner.train(agent_steps, limit))) as updates:
            for progress in updates:
                self._agent_steps += progress.agent_steps
                in_force = {
                    f"hyperparameter/{name}": float(value)
                    for name, value in self._inner.hyperparameters().items()
                }
                yield progress._replace(metrics={**progress.metrics, **in_force})
                self._apply()

    def set_hyperparameters(self, values: Mapping[str, float]) -> None:
        """Refuse any value, since the schedule sets them all.

        Raises:
            ValueError: There is a value.
        """
        if values:
            raise ValueError(f"{sorted(values)} cannot be set: they follow a schedule")

    def hyperparameters(self) -> Mapping[str, float]:
        """Return the values in force."""
        return self._inner.hyperparameters()

    def save(self, directory: Path) -> None:
        """Write the inner task's files, and the agent steps taken."""
        self._inner.save(directory)
        (directory / self.FILE).write_text(json.dumps({"agent_steps": self._agent_steps}))

    def load(self, directory: Path) -> None:
        """See `pbt.task.Task.load`. The schedule continues at the loaded agent steps.

        Raises:
            ValueError: It is no checkpoint of such a task.
        """
        try:
            taken = json.loads((directory / self.FILE).read_text())["agent_steps"]
        except (OSError, json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(f"{directory} is no checkpoint of a replay: {error!r}") from error
        self._inner.load(directory)
        self._agent_steps = taken
        self._apply()

    def close(self) -> None:
        """Close the inner task."""
        self._inner.close()


def _generated(updates: Iterator[task.Progress]) -> Generator[task.Progress]:
    yield from updates


def make_task(config: Mapping[str, Any], member: int, seed: int) -> ScheduledTask:
    """Build a member's learner with its schedule.

    Runs store this factory's name, `experiments.analysis.tasks.SCHEDULED`.

    Args:
        config: Configuration of the learner, with the schedule under "schedule", and with the name
            of the learner's factory under "task" unless it is an agent.
        member: The member's number.
        seed: Seed of initial weights, sampled actions and environments.
    """
    followed = schedule.Schedule.from_json(config["schedule"])
    factory = slices.named_factory(config.get("task", tasks.LEARNER))
    return ScheduledTask(factory(tasks.own_config(config), member, seed), followed)
