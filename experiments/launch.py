"""What every population experiment does: check, create or resume, run, show, report."""

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
from experiments import (
    command,
    config,
    evaluate,
    learner,
    progress,
    provenance,
    report,
    scores,
    tensorboard,
)
from pbt import checkpoint, ending, local, run, store, training

PROJECTION_INTERVAL_S = 10.0
"""Between two looks for what is new to draw in TensorBoard."""
EVALUATION_EPISODES = 30
"""Fresh episodes of the best member when a run is over."""


def run_experiment(
    name: str,
    settings: config.PopulationConfig,
    learner_config: learner.LearnerConfig,
) -> NoReturn:
    """Run a population to its end, or until it is interrupted; exits with the run's code.

    0: finished; 1: the population died; 2: bad input, nothing was created; 130, 143: interrupted,
    the same command goes on.

    Args:
        name: Directory under results/runs, unless the settings name another.
        settings: From the command line.
        learner_config: Agent and world of each member.
    """
    run_dir = settings.run_dir or Path("results/runs") / name
    try:
        run_config = settings.run_config(learner_config)
        world = _check_world(learner_config)
        learner_config.check_unroll_length(settings.longest_unroll())
        begun = open_or_create(run_dir, run_config, settings.fork)
    except OSError as error:
        command.fail(
            f"--run-dir {run_dir} cannot be used ({error.strerror or error}: {error.filename}): "
            "choose another one"
        )
    except (ValueError, store.StoreError, checkpoint.CheckpointError) as error:
        command.fail(" ".join(str(error).split()))
    provenance.record(run_dir)
    print(
        f"{begun} {run_dir}: {settings.population} members, "
        f"{settings.total_steps:,} agent steps each, {settings.num_workers()} workers\n"
        f"world: {make.protocol(learner_config.env_id, preset=learner_config.preset)}\n"
        f"curves: tensorboard --logdir {shlex.quote(str(run_dir.parent))}",
        flush=True,
    )
    with (
        store.Store.open(run_dir) as watched,
        tensorboard.Projector(watched, run_dir / "tensorboard") as projector,
        progress.Progress(world.frames_per_step if world.is_atari else None) as table,
    ):
        projected_s = -PROJECTION_INTERVAL_S

        def show(_: store.Store) -> None:
            nonlocal projected_s
            if time.monotonic() - projected_s >= PROJECTION_INTERVAL_S:
                projected_s = time.monotonic()
                projector.update()
            table.tick(watched)

        exit_code = local.run(run_dir, settings.num_workers(), on_tick=show)
        if exit_code == 0:
            projector.close(wait_s=tensorboard.LEASE_SECONDS)
    if exit_code == 0:
        try:
            _conclude(run_dir)
        except KeyboardInterrupt:
            print("stopped by SIGINT; the same command goes on")
            exit_code = 130
        except OSError as error:
            print(
                f"error: the run is complete, but not its report ({error}): see to that, and "
                "give the same command again",
                file=sys.stderr,
            )
            exit_code = ending.EXIT_DISK_FULL if error.errno == errno.ENOSPC else 1
    else:
        print(f"where it stands: python -m experiments.report {shlex.quote(str(run_dir))}")
    sys.exit(exit_code)


def slug(world: str) -> str:
    """A world's id as a part of a directory's name."""
    return world.replace(":", "-").replace("/", "-")


def _check_world(learner_config: learner.LearnerConfig) -> make.WorldSpec:
    """Build world and agent once, so that whatever does not fit is said before anything exists.

    Raises:
        ValueError: what does not fit, in one line.
    """
    env_id, preset = learner_config.env_id, learner_config.preset
    try:
        world = make.describe(env_id, preset=preset)
        envs = make.make_vec(env_id, 1, preset=preset)
    except ValueError:
        raise
    except Exception as error:  # a world's own code may raise anything
        raise ValueError(f"{env_id} cannot be built: {type(error).__name__}: {error}") from error
    try:
        learner.make_agent(learner_config, envs, seed=0)
    except (RuntimeError, AssertionError) as error:  # torch's own words for an unknown device
        said = str(error).rstrip(".")
        raise ValueError(f"--device {learner_config.device}: {said}; use cpu or cuda") from error
    finally:
        envs.close()
    return world


def open_or_create(
    run_dir: Path, run_config: run.RunConfig, fork: Path | None
) -> Literal["new run", "resuming", "extending"]:
    """Make the run if there is none, extend it if it is the same but for a larger total.

    Raises:
        ValueError: the directory holds something else, or a run with other settings.
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
            local.create_run(run_dir, run_config, fork).close()
            return "new run"
        except store.RunExists:
            pass  # the same command in another terminal was a moment faster: join it
    with store.Store.open(run_dir) as run_store:
        stored = run_store.config
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


def _conclude(run_dir: Path) -> None:
    """Score the best member by fresh episodes, once, and write the report with that score."""
    with alone(run_dir), store.Store.open(run_dir) as run_store:
        try:
            best, _ = evaluate.best_member(run_store)
            if not scores.evaluation_path(run_dir, best).exists():
                evaluation = evaluate.evaluate(
                    run_store, run_dir, best, EVALUATION_EPISODES, seed=0
                )
                scores.write_evaluation(run_dir, best, evaluation.to_json())
                print(evaluation.text())
        except (ValueError, checkpoint.CheckpointError) as error:
            print(f"no evaluation: {error}")  # the run is complete all the same
        report.write_report(run_store, run_dir / "report", run_dir / "tensorboard")
    print(f"report: {run_dir / 'report'}")


def _check_fork(run_config: run.RunConfig, fork: Path) -> None:
    """Build a member and load another run's into it, so that nothing is made of what does not fit.

    Raises:
        ValueError: it does not fit, in one line.
    """
    with store.Store.open(fork) as source:
        stored = source.config
        trained = [member for member in source.members() if member.checkpoint is not None]
    if stored.task != run_config.task:
        raise ValueError(f"--fork {fork} trains {stored.task}, not {run_config.task}")
    if not trained:
        return  # `local.create_run` says so
    known = trained[0]
    assert known.checkpoint is not None
    weights = checkpoint.open_verified(
        fork / "checkpoints", known.checkpoint, known.id, known.version
    )
    factory = training.named_factory(run_config.task)
    member = training.build(factory, run_config.task_config, 0, 0)
    try:
        member.load(weights)
    except Exception as error:  # whatever a task's own code says of files that are not its own
        said = textwrap.shorten(str(error), 200)
        raise ValueError(
            f"--fork {fork}: its members do not fit this run's ({said}): fork into the same world, "
            "agent, core and package"
        ) from error
    finally:
        member.close()


@contextlib.contextmanager
def alone(path: Path, wait: bool = True) -> Iterator[bool]:
    """Keep out other processes that ask the same of a file or directory, which must exist.

    Args:
        path: what the lock is on; it ends with the process, however that ends.
        wait: until another one that has it is done.

    Yields:
        False if another one has it; always true after a wait, or on a file system without locks.
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
