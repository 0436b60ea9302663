"""All calls into a `Task`, and the new state of a member after a slice of training.

An exception that a task raises becomes `TaskCrashed`, and what a task promises is checked.
"""

import contextlib
import importlib
import math
import time
import traceback
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pbt import checkpoint, disk, records
from pbt.records import Member, Report
from pbt.run import RunConfig
from pbt.space import Space
from pbt.task import Diverged, Episode, MakeTask, Progress, Task, making_in


class TaskCrashed(Exception):
    """A task raised another exception than `Diverged`, or broke its contract."""


@dataclass
class Slice:
    """What a slice of training did."""

    agent_steps: int = 0
    seconds: float = 0.0
    episodes: list[Episode] = field(default_factory=list)
    """Finished episodes. Their agent steps count from the beginning of the slice."""
    metrics: dict[str, list[float]] = field(default_factory=dict)
    """The finite values of each metric, one per update."""
    restarted_at: int | None = None
    """Number of episodes that had finished when the task last restarted all of them, if it did."""


def named_factory(name: str) -> MakeTask:
    """Return the task factory "module:function", which is imported when it is first called."""

    def make_task(config: Mapping[str, Any], member: int, seed: int) -> Task:
        module, _, path = name.partition(":")
        factory: Any = importlib.import_module(module)
        for attribute in path.split("."):
            factory = getattr(factory, attribute)
        task: Task = factory(config, member, seed)
        return task

    return make_task


def build(
    make_task: MakeTask,
    config: Mapping[str, Any],
    member: int,
    seed: int,
    run_dir: Path | None = None,
) -> Task:
    """Make a task, of a run in a directory if there is one; see `pbt.task.run_directory`."""
    with _task_code(), making_in(run_dir):
        return make_task(config, member, seed)


def load(task: Task, directory: Path) -> None:
    """Load a task's state from a verified directory."""
    with _task_code():
        task.load(directory)


def save(task: Task, directory: Path) -> None:
    """Save a task's state in an empty directory."""
    with _task_code():
        task.save(directory)


def set_hyperparameters(task: Task, values: Mapping[str, float], space: Space) -> None:
    """Set a task's hyperparameters, and check them by reading them back from where they act."""
    with _task_code():
        task.set_hyperparameters(values)
        in_force = task.hyperparameters()
        for name, value in values.items():
            dimension = space.dimensions[name]
            found, wanted = in_force.get(name, math.nan), dimension.used(value)
            # A learner may keep them in single precision.
            if math.isnan(found) or not math.isclose(
                dimension.used(found), wanted, rel_tol=1e-6, abs_tol=1e-12
            ):
                raise RuntimeError(
                    f"hyperparameter {name} was set to {wanted}, but {found} is in force"
                )


def train(
    task: Task,
    agent_steps: int,
    limit: int,
    after_update: Callable[[], None],
    stop: Callable[[], int],
) -> Slice:
    """Train one slice, or less if a stop is asked for.

    Args:
        task: The task, with its state and hyperparameters set.
        agent_steps: Least agent steps to train.
        limit: Most agent steps to train.
        after_update: Called after each update. What it raises ends the training.
        stop: Called after each update. A number other than 0 ends the slice.

    Raises:
        Diverged: The task raised it, or an episode's return is not finite.
        TaskCrashed: The task raised something else, or trained too few or too many steps.
    """
    result = Slice()
    started_s = time.perf_counter()
    with contextlib.closing(_updates(task, agent_steps, limit)) as updates:
        for progress in updates:
            result.agent_steps += progress.agent_steps
            if progress.restarted:
                result.restarted_at = len(result.episodes)
            result.episodes.extend(progress.episodes)
            for episode in progress.episodes:
                if not math.isfinite(episode.episode_return):
                    raise Diverged(f"an episode's return is {episode.episode_return}")
            for name, value in progress.metrics.items():
                if math.isfinite(value):  # metrics decide nothing, and the store refuses NaN
                    result.metrics.setdefault(name, []).append(float(value))
            after_update()
            if stop():
                break
    result.seconds = time.perf_counter() - started_s
    if not (0 if stop() else agent_steps) <= result.agent_steps <= limit:
        raise TaskCrashed(
            f"the task trained {result.agent_steps} agent steps:"
            f" at least {agent_steps} and at most {limit} were due"
        )
    return result


def after_slice(config: RunConfig, member: Member, done: Slice) -> tuple[Member, Report]:
    """Return the member at its next version, without a new checkpoint, and the slice's report."""
    agent_steps = member.agent_steps + done.agent_steps
    episodes = tuple(
        episode._replace(agent_steps=member.agent_steps + episode.agent_steps)
        for episode in done.episodes
    )
    before, counted_before = member.window, member.counted_episodes
    if done.restarted_at is not None:
        before, counted_before = (), 0
    returns, counted = records.extend_window(
        before, counted_before, episodes[done.restarted_at or 0 :], config.window
    )
    trained = replace(
        member,
        version=member.version + 1,
        agent_steps=agent_steps,
        window=returns,
        counted_episodes=counted,
        state="finished" if agent_steps == config.total_steps else "active",
    )
    if records.has_valid_window(trained, config):
        trained = replace(trained, score=records.mean(returns))
    report = Report(
        member=member.id,
        version=trained.version,
        agent_steps=agent_steps,
        slice_steps=done.agent_steps,
        seconds=done.seconds,
        hyperparameters=member.hyperparameters,
        episodes=episodes,
        metrics={name: records.mean(values) for name, values in done.metrics.items()},
    )
    return trained, report


@contextlib.contextmanager
def _task_code() -> Iterator[None]:
    """Turn what a task raises into `TaskCrashed`, except what the worker handles otherwise."""
    try:
        yield
    except (Diverged, checkpoint.CheckpointError):
        raise
    except Exception as error:
        if disk.is_full(error):
            raise
        raise TaskCrashed(traceback.format_exc()) from error


def _updates(task: Task, agent_steps: int, limit: int) -> Generator[Progress]:
    """Yield what `task.train` yields. Closing this generator closes that one."""
    with _task_code():
        stream = task.train(agent_steps, limit)
    try:
        while True:
            with _task_code():
                progress = next(stream, None)
            if progress is None:
                return
            yield progress
    finally:
        if (close := getattr(stream, "close", None)) is not None:
            with _task_code():
                close()
