"""`Task`: everything through which the engine sees a learner.

The engine calls a task in this order, all in one worker process:

    task = make_task(config, member, seed)
    task.load(checkpoint)                   # unless the member has never been trained
    task.set_hyperparameters(values)        # always after load: a checkpoint must not undo a change
    assert task.hyperparameters() == values # read back from where they act
    for progress in task.train(agent_steps, limit): ...
    task.save(directory)
    ...                                     # more slices; after an exploit: load, set, train
    task.close()
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol


class Episode(NamedTuple):
    """One finished evaluation of the learner: an episode, or any other scored unit of work."""

    agent_steps: int
    """When it finished. In `Progress`: steps since `train` began; in a `Report`: of the member."""
    episode_return: float
    """What members are compared on: the raw, undiscounted return, or any score to maximise."""
    length: int
    """Agent steps from its beginning to its end."""
    counted: bool
    """Whether all of it was played by this learner since its last load: only then may it decide."""


class Progress(NamedTuple):
    """What one update did."""

    agent_steps: int
    """Agent steps taken in this update, over all parallel environments."""
    episodes: tuple[Episode, ...]
    """Episodes that finished in this update."""
    metrics: Mapping[str, float]
    """Losses, norms, ...: averaged over a slice and shown; they decide nothing."""
    restarted: bool = False
    """All episodes were begun anew since the last update (a world failed): the window starts again,
    since the first to finish of several parallel episodes are the shortest."""


class Diverged(Exception):
    """Raised by `Task.train`: a loss, gradient, parameter or return is not finite; not applied."""


class Task(Protocol):
    """A learner with all it needs to train. See the module's docstring for the order of calls."""

    def train(self, agent_steps: int, limit: int) -> Iterator[Progress]:
        """Train at least `agent_steps`, one `Progress` per update; may be closed between updates.

        Ends at the first update boundary at or after `agent_steps`; never takes more than `limit`
        (>= agent_steps) steps: an update that would is cut short, so that a run's total is exact.
        """

    def set_hyperparameters(self, values: Mapping[str, float]) -> None:
        """Apply from the next update on. Values are real numbers; round where they are used."""

    def hyperparameters(self) -> Mapping[str, float]:
        """The values in force, read back from where they act (the optimiser, the loss)."""

    def save(self, directory: Path) -> None:
        """Write the learner's state into an existing, empty directory. No pickles."""

    def load(self, directory: Path) -> None:
        """Take over the state in `directory`, this member's or a donor's, wholly or not at all.

        Worlds run on, but their running episodes were begun by someone else: they finish uncounted.

        Raises:
            ValueError: the checkpoint does not fit; names the differing tensors and shapes.
        """

    def close(self) -> None:
        """Free processes, files and memory."""


class MakeTask(Protocol):
    """A task factory, named in a run as "module:function" and called in the worker process."""

    def __call__(self, config: Mapping[str, Any], member: int, seed: int) -> Task:
        """Build the learner of `member` from the run's `task_config`."""
