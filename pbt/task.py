"""`Task`: the interface between the engine and a learner.

The engine calls a task in this order, in one worker process:

    task = make_task(config, member, seed)
    task.load(checkpoint)                   # unless the member has never been trained
    task.set_hyperparameters(values)        # always after load: a checkpoint must not undo a change
    assert task.hyperparameters() == values # read back from where they act
    for progress in task.train(agent_steps, limit): ...
    task.save(directory)
    ...                                     # more slices; after an exploit: load, set, train
    task.close()

The engine knows that a worker is alive by the updates that `train` yields. An update, a build or a
load that takes longer than the run's `lease_seconds` (60 by default) is allowed: a worker asks for
leases of three times the longest one that it has seen, up to nine times `lease_seconds`. But after
three times `lease_seconds` without an update the launcher takes the worker for hung and kills it.
"""

import contextlib
import contextvars
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

_RUN_DIRECTORY: contextvars.ContextVar[Path | None] = contextvars.ContextVar(
    "run_directory", default=None
)


def run_directory() -> Path | None:
    """Return the directory of the run whose task is being made, or None outside of a run.

    `make_task` may call it to find files that all members share. They belong into
    `<run directory>/shared`. The directory may be moved between two starts, so that no task
    configuration should name it.
    """
    return _RUN_DIRECTORY.get()


@contextlib.contextmanager
def making_in(run_dir: Path | None) -> Iterator[None]:
    """Let `run_directory` return a directory inside the `with` statement."""
    token = _RUN_DIRECTORY.set(run_dir)
    try:
        yield
    finally:
        _RUN_DIRECTORY.reset(token)


class Episode(NamedTuple):
    """One finished episode of the learner, or any other unit of work that has a score."""

    agent_steps: int
    """Agent steps at its end: since `train` began in a `Progress`, of the member in a `Report`."""
    episode_return: float
    """The undiscounted, unclipped return, or any other score to maximise. Members are compared on
    it."""
    length: int
    """Agent steps from its beginning to its end."""
    counted: bool
    """Whether the learner played all of it after its last load. Only then may it decide."""


class Progress(NamedTuple):
    """What one update did."""

    agent_steps: int
    """Agent steps of this update, over all parallel environments."""
    episodes: tuple[Episode, ...]
    """Episodes that finished in this update."""
    metrics: Mapping[str, float]
    """Losses, norms and the like. They are averaged over a slice and shown, and decide nothing."""
    restarted: bool = False
    """Whether all episodes were restarted since the last update, because an environment failed. The
    window then starts again, because the first parallel episodes to finish are the shortest."""


class Diverged(Exception):
    """A loss, gradient, parameter or return is not finite. `Task.train` raises it."""


class Task(Protocol):
    """A learner with all that it needs to train. The module's docstring has the order of calls."""

    def train(self, agent_steps: int, limit: int) -> Iterator[Progress]:
        """Train, and yield one `Progress` per update. May be closed between updates.

        Args:
            agent_steps: Least steps to train. Training ends with the first update that reaches
                them.
            limit: Most steps to train, at least `agent_steps`. An update that would exceed them is
                cut short, so that a run's total is exact.

        Raises:
            Diverged: A number is not finite.
        """

    def set_hyperparameters(self, values: Mapping[str, float]) -> None:
        """Apply real values from the next update on. Round integers where they are used."""

    def hyperparameters(self) -> Mapping[str, float]:
        """Return the values in force, read back from where they act (the optimiser, the loss)."""

    def save(self, directory: Path) -> None:
        """Write the learner's state into an existing, empty directory, without pickles."""

    def load(self, directory: Path) -> None:
        """Load the state in a directory, this member's or a donor's, completely or not at all.

        Environments go on, but running episodes were begun by another learner, so they do not
        count.

        Raises:
            ValueError: The checkpoint does not fit. The message names the tensors and shapes.
            pbt.checkpoint.CheckpointError: The checkpoint is damaged. The member goes back to an
                older one.
        """

    def close(self) -> None:
        """Free processes, files and memory."""


class MakeTask(Protocol):
    """A task factory, which a run names as "module:function" and each worker process calls."""

    def __call__(self, config: Mapping[str, Any], member: int, seed: int) -> Task:
        """Build the learner of a member from the run's `task_config`."""
