"""Launch a population: check its settings, create or resume the run, show it, report on it."""

import contextlib
import dataclasses
import errno
import fcntl
import os
import shlex
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NoReturn

from envs import make
from experiments import cli, config
from experiments.analysis import provenance, schedule, scores, tasks
from experiments.members import evaluation, learner
from experiments.pages import run_report
from experiments.projections import progress, tensorboard
from pbt import checkpoint, create, local, run, slices, space, store, verdict

PROJECTION_INTERVAL_S = 10.0
"""Seconds between two updates of the TensorBoard files."""
EVALUATION_EPISODES = 30
"""Fresh episodes that score the best member when a run is over."""


def run_population(name: str, settings: config.PopulationConfig) -> NoReturn:
    """Run what a population's settings say; see `run_experiment`.

    Args:
        name: Directory below results/runs, unless the settings name another.
        settings: Settings from the command line.
    """
    try:
        run_config = settings.run_config()
    except ValueError as error:
        cli.fail(" ".join(str(error).split()))
    run_dir = settings.run_dir or Path("results/runs") / name
    run_experiment(run_dir, run_config, settings.num_workers(), settings.fork)


def run_experiment(
    run_dir: Path, run_config: run.RunConfig, workers: int, fork: Path | None = None
) -> NoReturn:
    """Run a population of the suite's agents until it is over or interrupted, and exit.

    Exit codes: 0 finished; 1 the population died; 2 bad input, nothing was created; 130 and 143
    interrupted, the same command goes on.

    Args:
        run_dir: The run's directory; a run that is there already goes on.
        run_config: What the engine stores. Its task is one of the suite's agents.
        workers: Number of worker processes.
        fork: Directory of another run to start from.
    """
    learner_config = learner.LearnerConfig.from_json(run_config.task_config)
    try:
        environment = _check_environment(learner_config)
        learner_config.check_unroll_length(longest_unroll(run_config))
        begun = open_or_create(run_dir, run_config, fork)
    except OSError as error:
        cli.fail(
            f"--run-dir {run_dir} cannot be used ({error.strerror or error}: {error.filename}): "
            "choose another one"
        )
    except (ValueError, store.StoreError, checkpoint.CheckpointError) as error:
        cli.fail(" ".join(str(error).split()))
    provenance.record(run_dir)
    print(
        f"{begun} {run_dir}: {run_config.population} members, "
        f"{run_config.total_steps:,} agent steps each, {workers} workers\n"
        f"environment: {make.protocol(learner_config.env_id, preset=learner_config.preset)}\n"
        f"curves: tensorboard --logdir {shlex.quote(str(run_dir.parent))}",
        flush=True,
    )
    with (
        store.Store.open(run_dir) as watched,
        tensorboard.Projector(watched, run_dir / "tensorboard") as projector,
        progress.Progress(environment.frames_per_step if environment.is_atari else None) as table,
    ):
        projected_s = -PROJECTION_INTERVAL_S

        def show(_: store.Store) -> None:
            nonlocal projected_s
            if time.monotonic() - projected_s >= PROJECTION_INTERVAL_S:
                projected_s = time.monotonic()
                projector.update()
            table.tick(watched)

        exit_code = local.run(run_dir, workers, on_tick=show)
        if exit_code == 0:
            projector.close(wait_s=tensorboard.LEASE_SECONDS)
    if exit_code == 0:
        exit_code = _conclude(run_dir)
    else:
        print(f"where it stands: python -m experiments.report {shlex.quote(str(run_dir))}")
    sys.exit(exit_code)


def longest_unroll(run_config: run.RunConfig) -> int:
    """Return the largest unroll length that a member can come to have."""
    if (followed := schedule.followed(run_config)) is not None:
        return max(int(followed.used(steps)["unroll_length"]) for steps, _ in followed.rows)
    unroll = run_config.space.dimensions["unroll_length"]
    if isinstance(unroll, space.IntUniform):
        is_adapted = "unroll_length" in run_config.space.adapt
        return int(unroll.reach[1]) if is_adapted else unroll.high
    assert isinstance(unroll, space.Constant)
    return int(unroll.value)


def slug(env_id: str) -> str:
    """Return an environment's id as a part of a directory's name."""
    return env_id.replace(":", "-").replace("/", "-")


def _check_environment(learner_config: learner.LearnerConfig) -> make.EnvSpec:
    """Build environment and agent once, to refuse what does not fit before anything is created.

    Raises:
        ValueError: What does not fit, in one line.
    """
    env_id, preset = learner_config.env_id, learner_config.preset
    try:
        spec = make.describe(env_id, preset=preset)
        envs = make.make_vec(env_id, 1, preset=preset)
    except ValueError:
        raise
    except Exception as error:  # an environment's own code may raise anything
        raise ValueError(f"{env_id} cannot be built: {type(error).__name__}: {error}") from error
    try:
        learner.make_agent(learner_config, envs, seed=0)
    except (RuntimeError, AssertionError) as error:  # torch's own words for an unknown device
        said = str(error).rstrip(".")
        raise ValueError(f"--device {learner_config.device}: {said}; use cpu or cuda") from error
    finally:
        envs.close()
    return spec


def open_or_create(
    run_dir: Path, run_config: run.RunConfig, fork: Path | None
) -> Literal["new run", "resuming", "extending"]:
    """Create the run if there is none; extend it if only the total is larger.

    Raises:
        ValueError: The directory holds something else, or a run with other settings.
    """
    if not (run_dir / store.FILE_NAME).exists():
        if run_dir.exists() and not run_dir.is_dir():
            raise ValueError(f"--run-dir {run_dir} is a file: name a directory")
        # Another terminal may be creating the run now, or have been killed while it did.
        # A fork has published checkpoints by then.
        begun = (f".{store.FILE_NAME}.", "checkpoints")
        if run_dir.exists() and any(not p.name.startswith(begun) for p in run_dir.iterdir()):
            raise ValueError(
                f"{run_dir} is not a run, and not empty: choose another --run-dir, or remove it"
            )
        if fork is not None:
            _check_fork(run_config, fork)
        try:
            create.create_run(run_dir, run_config, fork).close()
            return "new run"
        except store.RunExists:
            pass  # the same command in another terminal was a moment faster: join it
    with store.Store.open(run_dir) as run_store:
        stored = run_store.config
        run_config = dataclasses.replace(run_config, task=tasks.as_stored(run_config, stored))
        larger = max(stored.total_steps, run_config.total_steps)
        if not dataclasses.replace(stored, total_steps=larger).differences(run_config):
            if larger == stored.total_steps:
                return "resuming"
            run_store.extend(larger)
            return "extending"
    raise ValueError(
        f"{run_dir} holds a run with other settings (stored -> given: "
        f"{'; '.join(stored.differences(run_config))}): give the stored ones (only --total-steps "
        f"may grow), another --run-dir, or --fork {shlex.quote(str(run_dir))} --run-dir NEW"
    )


def _conclude(run_dir: Path) -> int:
    """Score the best member by fresh episodes, once, and write the report; return the exit code."""
    try:
        with alone(run_dir), store.Store.open(run_dir) as run_store:
            try:
                best, _ = evaluation.best_member(run_store)
                if not scores.evaluation_path(run_dir, best).exists():
                    played = evaluation.evaluate(
                        run_store, run_dir, best, EVALUATION_EPISODES, seed=0
                    )
                    scores.write_evaluation(run_dir, best, played.to_json())
                    print(played.text())
            except (ValueError, checkpoint.CheckpointError) as error:
                print(f"no evaluation: {error}")  # the run is complete all the same
            run_report.write_report(run_store, run_dir / "report", run_dir / "tensorboard")
        print(f"report: {run_dir / 'report'}")
    except KeyboardInterrupt:
        print("stopped by SIGINT; the same command goes on")
        return 130
    except OSError as error:
        print(
            f"error: the run is complete, but not its report ({error}): see to that, and "
            "give the same command again",
            file=sys.stderr,
        )
        return verdict.EXIT_DISK_FULL if error.errno == errno.ENOSPC else 1
    return 0


def _check_fork(run_config: run.RunConfig, fork: Path) -> None:
    """Load another run's member into one of this run's, to refuse what does not fit.

    Raises:
        ValueError: It does not fit; one line says why.
    """
    with store.Store.open(fork) as source:
        stored = source.config
        trained = [member for member in source.members() if member.checkpoint is not None]
    if tasks.current(stored.task) != tasks.current(run_config.task):
        raise ValueError(f"--fork {fork} trains {stored.task}, not {run_config.task}")
    if not trained:
        return  # `create.create_run` says so
    known = trained[0]
    assert known.checkpoint is not None
    weights = checkpoint.open_verified(
        fork / "checkpoints", known.checkpoint, known.id, known.version
    )
    factory = slices.named_factory(run_config.task)
    member = slices.build(factory, run_config.task_config, 0, 0)
    try:
        member.load(weights)
    except Exception as error:  # whatever a task's own code says of files that are not its own
        said = textwrap.shorten(str(error), 200)
        raise ValueError(
            f"--fork {fork}: its members do not fit this run's ({said}): fork into the same "
            "environment, agent, core and package"
        ) from error
    finally:
        member.close()


@contextlib.contextmanager
def alone(path: Path, wait: bool = True) -> Iterator[bool]:
    """Hold an exclusive `flock` on an existing file or directory.

    Args:
        path: The file or directory. The lock ends with the process.
        wait: Block until the lock is free; otherwise yield False at once.

    Yields:
        Whether the lock is held. Always true after a wait, or on a file system without locks.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        kept_out = False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            kept_out = True
        except OSError:
            pass
        yield not kept_out
    finally:
        os.close(descriptor)
