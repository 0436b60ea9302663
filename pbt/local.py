"""Start workers for a run on this machine, watch them, and stop them.

The launcher trains nothing and decides nothing, because workers meet in the store. It may be killed
at any time; its workers notice and end as well. A launcher that is started again on the same
directory resumes the run. A second launcher joins, and its workers help those of the first.
"""

import contextlib
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pbt import owner, process, store, verdict

_log = logging.getLogger(__name__)

MAX_RESTARTS = 10
"""Restarts in a row of one worker before its place stays empty."""
MAX_STILLBORN = 2
"""The same if none of them ever showed progress, as when the installation does not work."""
_HEALTHY_S = 120.0
"""Life in seconds after which a worker's death begins a new row of restarts."""
_POLL_S = 0.1
_ABORT_GRACE_S = 5.0
_NOT_RESTARTED = (0, verdict.EXIT_NO_RUN, verdict.EXIT_DISK_FULL)
_ASKED_TO_LEAVE = tuple(128 + number for number in process.STOP_SIGNALS)
_THREAD_SETTINGS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)


def _print_at_once(line: str) -> None:
    with contextlib.suppress(OSError):  # a closed pipe or terminal is no reason to stop
        print(line, flush=True)


def run(
    run_dir: Path,
    workers: int,
    *,
    on_tick: Callable[[store.Store], None] | None = None,
    tick_s: float = 1.0,
    residents: int | None = None,
    environment: Mapping[str, str] | None = None,
    hang_s: float | None = None,
    restart_pause_s: float = 1.0,
    command: Sequence[str] = (sys.executable, "-m", "pbt.worker"),
    say: Callable[[str], None] = _print_at_once,
) -> int:
    """Work on a run with some worker processes until it is over; return the exit code.

    At the first SIGINT, SIGTERM or SIGHUP each worker completes its update, commits and releases
    its member. The second one kills the workers. No process and no open file is left behind.

    Args:
        run_dir: The run's directory, see `pbt.create.create_run`.
        workers: Number of worker processes.
        on_tick: Called with the open store every `tick_s`, and once at the end, to show the run.
            What it raises is logged and does not stop training.
        tick_s: Seconds between two calls of `on_tick`.
        residents: Tasks that each worker keeps in memory. By default its share of the population
            and one more.
        environment: Variables that are added to the workers' environment.
        hang_s: Seconds without progress after which a worker is killed, with its stacks in its log.
            Three times the lease by default.
        restart_pause_s: Seconds before a dead worker is started again. Doubles with each restart in
            a row.
        command: Command that starts a worker.
        say: Shows a line to the user.

    Returns:
        0 if the run is over, 1 if all members or all workers died, 74 if the disk is full, 128 + n
        if signal n stopped it.

    Raises:
        store.NotARun: There is no run.
    """
    if workers < 1:
        raise ValueError(f"workers {workers} is too small: use 1 or more")
    with store.Store.open(run_dir) as run_store:
        if over := verdict.of(run_store):
            _tick(on_tick, run_store)
            say(over[1])
            return over[0]
        if freed := run_store.forgive(owner.gone(run_store.owners())):
            _log.info("members %s were held by processes that are gone", freed)
        config = run_store.config
        share = -(-config.population // workers) + 1
        log_dir = run_dir / "logs"
        log_dir.mkdir(exist_ok=True)
        launcher = _Launcher(
            run_store=run_store,
            command=[*command, str(run_dir), "--residents", str(residents or share)],
            environment={**os.environ, **_environment(workers), **(environment or {})},
            hang_s=hang_s or 3 * config.lease_seconds,
            restart_pause_s=restart_pause_s,
            say=say,
            places=[_Place(index, log_dir / f"worker-{index}.log") for index in range(workers)],
        )
        with process.Stop(lambda: launcher.send(signal.SIGKILL)).installed() as stop:
            exit_code = launcher.watch(stop, on_tick, tick_s)
        _tick(on_tick, run_store)
        over = verdict.of(run_store)
    if over is not None:
        # A run that is over is over, even if a signal came at the last moment.
        exit_code, message = over
        say(message)
    elif exit_code > 128:
        say(f"stopped by {signal.Signals(exit_code - 128).name}; the same command goes on")
    elif exit_code == verdict.EXIT_DISK_FULL:  # a worker's log may have had no room to say so
        free = shutil.disk_usage(run_dir).free
        say(f"no space for {run_dir} ({free:,} bytes free): make room; the same command goes on")
    return exit_code


@dataclass
class _Place:
    """The place of one worker, and of those that replace it when it dies."""

    index: int
    log: Path
    child: subprocess.Popen[bytes] | None = None
    pipe: int = -1
    """Read end of the pipe through which the child shows progress."""
    started_s: float = 0.0
    progress_s: float = 0.0
    """Monotonic time of the last progress."""
    lived: bool = False
    """Whether any child in this place ever showed progress."""
    restarts: int = 0
    start_at_s: float | None = 0.0
    """Monotonic time at which to start a child if there is none; None means never."""
    aborted_s: float | None = None
    """Monotonic time at which the child was told to abort."""

    def start(self, command: Sequence[str], environment: Mapping[str, str], now_s: float) -> None:
        """Start a child."""
        read_end, write_end = os.pipe()
        try:
            with open(self.log, "ab") as log:
                self.child = subprocess.Popen(
                    [*command, "--beat", str(write_end)],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=environment,
                    pass_fds=[write_end],
                    # Ctrl-C in the terminal reaches only the launcher, which passes it on once.
                    process_group=0,
                )
        except BaseException:
            os.close(read_end)
            raise
        finally:
            os.close(write_end)
        os.set_blocking(read_end, False)
        self.pipe = read_end
        self.started_s = self.progress_s = now_s
        self.aborted_s = None

    def has_progressed(self) -> bool:
        """Return whether the child showed progress since the last call."""
        with contextlib.suppress(BlockingIOError):
            return bool(os.read(self.pipe, 65536))
        return False

    def close(self) -> None:
        """Forget a child that has ended."""
        os.close(self.pipe)
        self.child, self.pipe, self.start_at_s = None, -1, None

    def last_words(self) -> str:
        """Return the last line of the log."""
        with contextlib.suppress(OSError):
            lines = self.log.read_text(errors="replace").strip().splitlines()
            return lines[-1] if lines else "it left no message"
        return f"see {self.log}"


@dataclass
class _Launcher:
    """Starts workers and watches them."""

    run_store: store.Store
    command: Sequence[str]
    environment: Mapping[str, str]
    hang_s: float
    restart_pause_s: float
    say: Callable[[str], None]
    places: list[_Place]
    worst_exit: int = 0

    def watch(
        self,
        stop: process.Stop,
        on_tick: Callable[[store.Store], None] | None,
        tick_s: float,
    ) -> int:
        """Keep the places filled until all workers ended for a reason; return the exit code."""
        forwarded = 0
        ticked_s = 0.0
        try:
            while True:
                now_s = time.monotonic()
                if stop() and not forwarded:
                    forwarded = stop()
                    self.say("stopping after the updates that run; once more kills the workers")
                    self.send(forwarded)
                for place in self.places:
                    self._look_after(place, now_s, stopping=bool(forwarded))
                if all(place.child is None and place.start_at_s is None for place in self.places):
                    return 128 + forwarded if forwarded else self.worst_exit
                if now_s - ticked_s >= tick_s:
                    _tick(on_tick, self.run_store)
                    ticked_s = time.monotonic()
                time.sleep(_POLL_S)
        finally:  # leave nothing behind
            self.send(signal.SIGKILL)
            for place in self.places:
                if place.child is not None:
                    place.child.wait()
                    place.close()

    def send(self, number: int) -> None:
        """Send a signal to all workers."""
        for place in self.places:
            if place.child is not None:
                place.child.send_signal(number)

    def _look_after(self, place: _Place, now_s: float, stopping: bool) -> None:
        if place.child is None:
            if stopping:
                place.start_at_s = None
            if place.start_at_s is not None and now_s >= place.start_at_s:
                place.start(self.command, self.environment, now_s)
            return
        if place.has_progressed():
            place.progress_s, place.lived = now_s, True
        if (exit_code := place.child.poll()) is not None:
            place.close()
            if not stopping:
                self._replace(place, exit_code, now_s)
        elif place.aborted_s is not None:
            if now_s - place.aborted_s > _ABORT_GRACE_S:
                place.child.kill()
        elif now_s - place.progress_s > self.hang_s:
            self.say(
                f"worker {place.index} (process {place.child.pid}) made no progress for"
                f" {self.hang_s:.0f} s: killed; its stacks are in {place.log}"
            )
            place.child.send_signal(signal.SIGABRT)
            place.aborted_s = now_s

    def _replace(self, place: _Place, exit_code: int, now_s: float) -> None:
        """Start another worker later, unless it would end for the same reason."""
        # Whatever the worker died of, there may be nothing left to do. And a user may ask a single
        # worker to leave.
        if exit_code in _ASKED_TO_LEAVE or verdict.of(self.run_store):
            return
        if exit_code in _NOT_RESTARTED:
            self.worst_exit = max(self.worst_exit, exit_code)
            if exit_code != 0:
                self.say(place.last_words())
            return
        if now_s - place.started_s > _HEALTHY_S:
            place.restarts = 0
        if place.restarts >= (MAX_RESTARTS if place.lived else MAX_STILLBORN):
            self.worst_exit = max(self.worst_exit, 1)
            self.say(
                f"worker {place.index} died {place.restarts + 1} times in a row, it stays away:"
                f" {place.last_words()}"
            )
            return
        pause_s = min(30.0, self.restart_pause_s * 2**place.restarts)
        place.restarts += 1
        place.start_at_s = now_s + pause_s
        self.say(
            f"worker {place.index} {_describe(exit_code)}; another one starts in {pause_s:.1f} s;"
            f" its log is {place.log}"
        )


def _environment(workers: int) -> dict[str, str]:
    """Return the variables that workers need in addition to the launcher's."""
    # A task named "my_learner:make_task" is found where the launcher would find it.
    result = {"PYTHONPATH": os.pathsep.join(os.path.abspath(path) for path in sys.path)}
    # Each worker gets its share of the cores, because more threads would compete for them. If
    # OMP_NUM_THREADS is set, it decides for all libraries.
    threads = os.environ.get("OMP_NUM_THREADS", str(max(1, available_cores() // workers)))
    return result | {name: threads for name in _THREAD_SETTINGS if name not in os.environ}


def available_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _tick(on_tick: Callable[[store.Store], None] | None, run_store: store.Store) -> None:
    if on_tick is None:
        return
    try:
        on_tick(run_store)
    except Exception:
        _log.exception("showing the run's state failed; training goes on")


def _describe(exit_code: int) -> str:
    if exit_code >= 0:
        return f"ended with exit code {exit_code}"
    try:
        return f"was killed by {signal.Signals(-exit_code).name}"
    except ValueError:
        return f"was killed by signal {-exit_code}"
