"""Run a population: check it, create or resume it, train it, score its best member, report.

Commands call `run_population` or `run_and_exit`, scripts and notebooks `run_experiment`.
"""

import contextlib
import dataclasses
import errno
import fcntl
import os
import re
import shlex
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal, NoReturn

from experiments import cli, cluster, config
from experiments.analysis import history, provenance, scores, tasks, units, wording
from experiments.members import checks, evaluation
from experiments.pages import run_report
from experiments.projections import progress, tensorboard
from pbt import checkpoint, create, disk, local, owner, run, storage, store, supervise, verdict

PROJECTION_INTERVAL_S = 10.0
"""Seconds between two updates of the TensorBoard files."""
EVALUATION_EPISODES = 30
"""Number of fresh episodes that score the best member of a finished run."""
EVALUATION_SEED, SELECTION_SEED = 0, 3_000
"""Seeds of these episodes, and of those that choose the best member."""


def run_population(
    name: str,
    settings: config.EngineConfig,
    presets: Mapping[str, Mapping[str, config.EngineConfig]],
) -> NoReturn:
    """Run a population with the settings of a command line, and exit as `run_experiment` does.

    Args:
        name: Command and what is learned, with which the default directory's name begins.
        settings: Settings from the command line.
        presets: Settings by preset and agent, as for `cli.parse`.
    """
    try:
        run_config = settings.run_config()
    except ValueError as error:
        cli.fail(error)
    labels = settings.labels(next(iter(presets[settings.preset].values())))
    run_dir = settings.run_dir or Path("results/runs") / "-".join((name, *labels))
    run_and_exit(
        run_dir,
        run_config,
        settings.num_workers(),
        settings.fork,
        settings.store,
        settings.checkpoints,
        settings.where,
    )


@dataclasses.dataclass(frozen=True)
class Result:
    """What a run came to; see `run_experiment`. It has no best member before one has a score."""

    run_dir: Path
    """The run's directory."""
    exit_code: int
    """0 if the run is finished; see `run_experiment`."""
    member: int | None = None
    """Number of the best member."""
    score: float | None = None
    """Its score, from fresh samples if there were any, else from training."""
    hyperparameters: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """Its last hyperparameters, as the learner uses them."""
    words: units.Units = units.OTHERS
    """What scores and steps are called."""

    def __str__(self) -> str:
        """Return the result in one line."""
        if self.member is None or self.score is None:
            return f"{self.run_dir}: no member has a score yet"
        values = ", ".join(f"{name} {value:.3g}" for name, value in self.hyperparameters.items())
        return (
            f"{self.run_dir}: member {self.member}, {self.words.score} {self.score:.4g}, "
            f"with {values}"
        )


class Refused(Exception):
    """A run cannot begin or go on. The message is one line.

    Args:
        exit_code: Exit code of a command that ends for this reason.
        message: What is wrong, and the way out.
    """

    def __init__(self, exit_code: int, message: object) -> None:
        super().__init__(" ".join(str(message).split()))
        self.exit_code = exit_code


def run_and_exit(
    run_dir: Path,
    run_config: run.RunConfig,
    workers: int,
    fork: Path | None = None,
    url: str | None = None,
    checkpoints: str | None = None,
    where: cluster.Cluster = cluster.THIS_MACHINE,
) -> NoReturn:
    """Run a population as a command does: exit with the code of `run_experiment`.

    A run that cannot begin ends in one line on the standard error.
    """
    try:
        exit_code = _train(run_dir, run_config, workers, fork, url, checkpoints, where)
    except Refused as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    sys.exit(exit_code)


def run_experiment(run_dir: Path, run_config: run.RunConfig, workers: int) -> Result:
    """Run a population until it is finished or interrupted, and return what it came to.

    | exit code | meaning |
    |---|---|
    | 0 | The run is finished. |
    | 1 | The run cannot go on, or the report could not be written. |
    | 2 | The input is bad; nothing was created. |
    | 3 | The run is over, but members died and left steps unspent. |
    | 74 | The disk is full. |
    | 130, 143 | Interrupted; the same command resumes the run. |

    Args:
        run_dir: The run's directory; a run that is there already is resumed.
        run_config: The run as stored.
        workers: Number of worker processes, on this machine.

    Raises:
        Refused: The run cannot begin, with the exit code 1, 2 or 74.
    """
    exit_code = _train(run_dir, run_config, workers, None, None, None, cluster.THIS_MACHINE)
    return _result(run_dir, exit_code)


def _train(
    run_dir: Path,
    run_config: run.RunConfig,
    workers: int,
    fork: Path | None,
    url: str | None,
    checkpoints: str | None,
    where: cluster.Cluster,
) -> int:
    """Do what `run_experiment` does; return the exit code alone."""
    try:
        described = checks.check(run_config)
        begun: str = open_or_create(run_dir, run_config, fork, url, checkpoints)
    except OSError as error:
        if disk.is_full(error):
            raise _no_space(run_dir) from error
        raise Refused(
            2,
            f"--run-dir {run_dir} cannot be used ({error.strerror or error}: {error.filename}): "
            "choose another one",
        ) from error
    except (ValueError, store.StoreError, checkpoint.CheckpointError) as error:
        if disk.is_full(error):
            raise Refused(verdict.EXIT_DISK_FULL, error) from error
        raise Refused(2, error) from error
    if refused := supervise.refusal(run_dir):
        raise Refused(*refused)
    provenance.record(run_dir)
    working = where.described(workers)
    with _one_line():
        others = _at_work(run_dir)
    if others:
        begun = "joining" if begun == "resuming" else begun
        cores = local.available_cores()
        working += f" beside {others} at work, {others + workers} on {cores} cores"
    print(
        f"{begun} {run_dir}: {wording.counted(run_config.population, 'member')}, "
        f"{run_config.total_steps:,} {units.of(run_config).steps} each, {working}\n"
        f"{described.protocol}",
        flush=True,
    )
    try:
        if prepared := checks.prepare(run_config, run_dir, _say):
            print(prepared)
    except OSError as error:
        if disk.is_full(error):
            raise _no_space(run_dir) from error
        raise Refused(verdict.EXIT_DEAD, f"{run_dir} cannot be written to: {error}") from error
    print(f"curves: {tensorboard.way_to_see(run_dir, run_config.population)}", flush=True)
    with (
        _one_line(),
        store.Store.open(run_dir, busy_timeout_s=supervise.BUSY_TIMEOUT_S) as watched,
        tensorboard.Projector(watched, run_dir / "tensorboard") as projector,
        progress.Progress(described.frames_per_step) as table,
    ):
        projected_s = -PROJECTION_INTERVAL_S

        def show(_: store.Store) -> None:
            nonlocal projected_s
            if time.monotonic() - projected_s >= PROJECTION_INTERVAL_S:
                projected_s = time.monotonic()
                projector.update()
            table.tick(watched)

        try:
            exit_code = where.run(run_dir, workers, on_tick=show)
        except ValueError as error:  # the cluster's
            raise Refused(verdict.EXIT_DEAD, error) from error
        is_over = exit_code in (0, verdict.EXIT_UNSPENT)
        if is_over:
            projector.close(wait_s=tensorboard.LEASE_SECONDS)
    if is_over:
        exit_code = _conclude(run_dir) or exit_code
    else:
        print(f"where it stands: python -m experiments.report {shlex.quote(str(run_dir))}")
    return exit_code


def _result(run_dir: Path, exit_code: int) -> Result:
    """Return what a run came to. One that cannot be read any more has no best member."""
    try:
        with store.Store.open(run_dir) as run_store:
            read = history.History.read(run_store, run_dir.name)
    except store.StoreError:
        return Result(run_dir, exit_code)
    score = scores.best_score(read, run_dir)
    if read.best is None or score is None:
        return Result(run_dir, exit_code, words=read.units)
    used = read.config.space.used(read.best.hyperparameters)
    return Result(run_dir, exit_code, read.best.id, score.mean, used, read.units)


def _at_work(run_dir: Path) -> int:
    """Return how many workers of this machine train a member of the run now."""
    with store.Store.open(run_dir) as run_store:
        return len(owner.at_work(run_store.owners()))


def _no_space(run_dir: Path) -> Refused:
    return Refused(verdict.EXIT_DISK_FULL, f"no space for {run_dir}: make room")


@contextlib.contextmanager
def _one_line() -> Iterator[None]:
    """Refuse to go on if the store cannot be used."""
    try:
        yield
    except store.StoreError as error:
        raise Refused(1, error) from error


def slug(env_id: str) -> str:
    """Return an environment's id in a form that fits into a directory's name."""
    return re.sub("[:/?=&]", "-", env_id)


def open_or_create(
    run_dir: Path,
    run_config: run.RunConfig,
    fork: Path | None,
    url: str | None = None,
    checkpoints: str | None = None,
    name: str | None = None,
) -> Literal["new run", "resuming", "extending"]:
    """Create the run, or open the one that is there and extend it if only its total is larger.

    Args:
        run_dir: The run's directory.
        run_config: The run.
        fork: Directory of another run to start from, if a new run is created.
        url: The PostgreSQL database that holds the run's store. If the run is there already, it
            must be its own; None is always right then.
        checkpoints: Folder or URL of the run's checkpoints, likewise.
        name: A name by which machines that share only the database find the run.

    Returns:
        What was done.

    Raises:
        ValueError: The directory holds something else, or a run with other settings or elsewhere.
        OSError: The directory cannot be written to.
        pbt.store.StoreError: The run cannot be opened.
        pbt.checkpoint.CheckpointError: A checkpoint of the other run is damaged, or the place of
            this run's checkpoints is away.
    """
    try:
        os.fspath(run_dir).encode()
    except UnicodeEncodeError:
        raise ValueError(f"--run-dir {run_dir} is no UTF-8: choose another name") from None
    store.check_url(url)
    storage.check_url(checkpoints)
    if (found := store.find(run_dir)) is None:
        if run_dir.exists() and not run_dir.is_dir():
            raise ValueError(f"--run-dir {run_dir} is a file: name a directory")
        # Another terminal may be creating the run now, or was killed while it did. A fork
        # publishes its checkpoints before the store exists.
        names = (*store.FILE_NAMES, storage.FILE_NAME)
        begun = (*(f".{name}." for name in names), storage.FILE_NAME, storage.DIRECTORY)
        if run_dir.exists() and any(not p.name.startswith(begun) for p in run_dir.iterdir()):
            raise ValueError(
                f"{run_dir} is not a run ({' or '.join(store.FILE_NAMES)} is missing), and not "
                "empty: choose "
                "another --run-dir, or remove it"
            )
        if fork is not None:
            checks.check_fork(run_config, fork)
        try:
            create.create_run(
                run_dir, run_config, fork, url=url, checkpoints=checkpoints, name=name
            ).close()
            return "new run"
        except store.RunExists:
            # The same command in another terminal was a moment faster, so join it.
            found = store.find(run_dir)
    if found is not None and url is not None:
        store.check_same(found, url)
    if checkpoints is not None:
        storage.check_same(run_dir, checkpoints)
    with store.Store.open(run_dir) as run_store:
        stored = run_store.config
    run_config = dataclasses.replace(run_config, task=tasks.as_stored(run_config, stored))
    try:
        if run_config.total_steps < stored.total_steps:  # a script may say so, a flag was given
            raise create.OtherSettings.of(run_dir, stored, run_config)
        with create.resume(run_dir, run_config) as run_store:
            total_steps = run_store.config.total_steps
            return "extending" if total_steps > stored.total_steps else "resuming"
    except create.OtherSettings as error:
        quoted = shlex.quote(str(run_dir))
        if not tasks.has_fresh_samples(stored):  # a script of its own gives the settings
            raise ValueError(
                f"{error}. To go on with it as it is: python -m experiments.resume {quoted} --trust"
            ) from None
        raise ValueError(
            f"{error}. To go on with it: python -m experiments.resume {quoted}. For a new run: "
            f"--run-dir NEW. For one that starts from its members: --fork {quoted} --run-dir NEW"
        ) from None


def _conclude(run_dir: Path) -> int:
    """Choose and score the best member by fresh episodes, once, and write the report.

    Returns:
        The exit code.
    """
    try:
        with alone(run_dir), store.Store.open(run_dir) as run_store:
            try:
                best = None
                if tasks.has_fresh_samples(run_store.config):
                    best = evaluation.select(run_store, run_dir, SELECTION_SEED, _say)
                if best is not None and not scores.evaluation_path(run_dir, best).exists():
                    _say(f"scoring member {best.id} by fresh {units.of(run_store.config).many}")
                    played = evaluation.evaluate(
                        run_store, run_dir, best, EVALUATION_EPISODES, EVALUATION_SEED
                    )
                    scores.write_evaluation(run_dir, best, played.to_json())
                    print(played.text())
            except (ValueError, checkpoint.CheckpointError) as error:
                print(f"no evaluation: {error}")  # the run is complete all the same
            run_report.write_report(run_store, run_dir / "report")
            # Another member may be the best now.
            tensorboard.Projector(run_store, run_dir / "tensorboard").close()
        print(f"report: {run_dir / 'report'}")
    except KeyboardInterrupt:
        print("stopped by SIGINT; the same command goes on")
        return 130
    except store.StoreError as error:
        print(f"error: the run is over, but has no report: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(
            f"error: the run is complete, but not its report ({error}): fix that, and "
            "give the same command again",
            file=sys.stderr,
        )
        return verdict.EXIT_DISK_FULL if error.errno == errno.ENOSPC else 1
    return 0


def _say(line: str) -> None:
    """Print a line at once, before something that takes a while."""
    print(line, flush=True)


@contextlib.contextmanager
def alone(path: Path, wait: bool = True) -> Iterator[bool]:
    """Hold an exclusive `flock` on an existing file or directory.

    Args:
        path: The file or directory. The lock ends with the process.
        wait: Whether to wait until the lock is free.

    Yields:
        Whether no other process holds the lock. Always true after a wait, and on a file system
        without locks.
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
