"""`ScheduledTask`: a learner whose hyperparameters follow a schedule in place of the engine."""

import contextlib
import json
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

from experiments.analysis import schedule
from experiments.members import learner
from pbt import task


class ScheduledTask:
    """A task that sets the hyperparameters of another task from a schedule.

    A value changes at the first update that begins at or after its step. With as many environments
    as in the run that the schedule comes from, updates end at the same steps as there, so changes
    come at the same steps. They may come up to one update later if that run's budget had cut a
    donor's last update short.

    Agent steps taken are part of the checkpoint, so a resumed run goes on at its row. The metrics
    `hyperparameter/<name>` report the values in force, where TensorBoard shows those of any run.

    Args:
        inner: The task that follows the schedule.
        followed: The schedule; names only hyperparameters that `inner` has.
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
            ValueError: `values` is not empty.
        """
        if values:
            raise ValueError(f"{sorted(values)} cannot be set: they follow a schedule")

    def hyperparameters(self) -> Mapping[str, float]:
        """The values in force."""
        return self._inner.hyperparameters()

    def save(self, directory: Path) -> None:
        """Write the inner task's files, and the agent steps taken."""
        self._inner.save(directory)
        (directory / self.FILE).write_text(json.dumps({"agent_steps": self._agent_steps}))

    def load(self, directory: Path) -> None:
        """See `pbt.task.Task.load`. The schedule goes on at the loaded agent steps."""
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
    """Build a member's learner with its schedule; named by runs as `analysis.tasks.SCHEDULED`."""
    followed = schedule.Schedule.from_json(config["schedule"])
    inner = learner.make_task(config, member, seed)
    return ScheduledTask(inner, followed)
