"""Runs on this machine: create one, start workers, watch them, stop them.

The launcher trains nothing and decides nothing: workers meet in the store. It can be killed at any
time; its workers notice and go as well. Starting it again on the same directory resumes the run,
and starting it twice joins: the second one's workers help the first one's.
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
from dataclasses import dataclass, field
from pathlib import Path

from pbt import owner, process, store, verdict

_log = logging.getLogger(__name__)

MAX_RESTARTS = 10
"""How often in a row a worker is started again before its place stays empty."""
MAX_STILLBORN = 2
"""The same where none of them showed any sign of life: an installation that does not work."""
_HEALTHY_S = 120.0
"""A worker that lived so long begins a new row of restarts."""
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
    """Work on a run with some worker processes until it is over; returns the exit code.

    The first SIGINT, SIGTERM or SIGHUP lets each worker finish its update, commit and release its
    member; the second one kills them. No process and no open file is left behind.

    Args:
        run_dir: directory of the run, see `create_run`.
        workers: how many processes.
        on_tick: called with the open store about every `tick_s`, and once at the end: the live
            table, TensorBoard. What it raises is logged: looking must not stop training.
        tick_s: see `on_tick`.
        residents: tasks that each worker keeps in memory; by default its share of the population
            and one more.
        environment: added to the workers' environment.
        hang_s: a worker that shows no progress for so long is killed, its stacks in its log;
            three times the lease by default.
        restart_pause_s: before a worker that died is started again; doubles each time in a row.
        command: how to start a worker.
        say: for the few lines that a user must see.

    Returns:
        0: the run is over; 1: its population died, or all workers did; 74: the disk is full;
        128 + n: stopped by signal n.

    Raises:
        store.NotARun: there is none.
    """
    if workers < 1:
        raise ValueError(f"workers {workers} is too small: use 1 or more")
    with store.Store.open(run_dir) as run_store:
        if over := verdict.of(run_store):
            _tick(on_tick, run_store)
            say(over[1])
            return over[0]
        freed = run_store.forgive(owner.gone(run_store.owners()))
        if freed:
            _log.info("members %s were held by processes that are gone", freed)
        config = run_store.config
        launcher = _Launcher(
            run_store=run_store,
            run_dir=run_dir,
            command=[
                *command,
                str(run_dir),
                "--residents",
                str(residents or -(-config.population // workers) + 1),
            ],
            environment={**_environment(workers), **(environment or {})},
            hang_s=hang_s or 3 * config.lease_seconds,
            restart_pause_s=restart_pause_s,
            say=say,
            places=[_Place(index) for index in range(workers)],
        )
        with process.Stop(before_exit=launcher.kill_all).installed() as stop:
            exit_code = launcher.watch(stop, on_tick, tick_s)
        _tick(on_tick, run_store)
        over = verdict.of(run_store)
    if over is not None:
        # Over is over, also if a signal came in the last moment.
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
    """One of the launcher's workers, and those that took its place when it died."""

    index: int
    child: subprocess.Popen[bytes] | None = None
    pipe: int = -1
    """Read end of the pipe through which the child shows progress."""
    started_s: float = 0.0
    progress_s: float = 0.0
    lived: bool = False
    """Whether any child in this place ever showed progress."""
    restarts: int = 0
    start_at_s: float | None = 0.0
    """When to start a child if there is none; None: never again."""
    aborted_s: float | None = None


@dataclass
class _Launcher:
    """Starts workers and watches them."""

    run_store: store.Store
    run_dir: Path
    command: Sequence[str]
    environment: Mapping[str, str]
    hang_s: float
    restart_pause_s: float
    say: Callable[[str], None]
    places: list[_Place]
    worst_exit: int = 0
    log_dir: Path = field(init=False)

    def __post_init__(self) -> None:
        self.log_dir = self.run_dir / "logs"
        self.log_dir.mkdir(exist_ok=True)

    def watch(
        self,
        stop: process.Stop,
        on_tick: Callable[[store.Store], None] | None,
        tick_s: float,
    ) -> int:
        """Keep the places filled until all workers ended for a reason; returns the exit code."""
        forwarded = 0
        ticked_s = 0.0
        try:
            while True:
                now_s = time.monotonic()
                if stop() and not forwarded:
                    forwarded = stop()
                    self.say("stopping after the updates that run; once more kills the workers")
                    self._signal_all(forwarded)
                for place in self.places:
                    self._look_after(place, now_s, stopping=bool(forwarded))
                if all(place.child is None and place.start_at_s is None for place in self.places):
                    return 128 + forwarded if forwarded else self.worst_exit
                if now_s - ticked_s >= tick_s:
                    _tick(on_tick, self.run_store)
                    ticked_s = time.monotonic()
                time.sleep(_POLL_S)
        finally:
            self._end_all()

    def _look_after(self, place: _Place, now_s: float, stopping: bool) -> None:
        if place.child is None:
            if stopping:
                place.start_at_s = None
            if place.start_at_s is not None and now_s >= place.start_at_s:
                self._start(place, now_s)
            return
        if _drained(place.pipe):
            place.progress_s, place.lived = now_s, True
        if (exit_code := place.child.poll()) is not None:
            self._ended(place, exit_code, now_s, stopping)
        elif place.aborted_s is not None:
            if now_s - place.aborted_s > _ABORT_GRACE_S:
                place.child.kill()
        elif now_s - place.progress_s > self.hang_s:
            self.say(
                f"worker {place.index} (process {place.child.pid}) made no progress for"
                f" {self.hang_s:.0f} s: killed; its stacks are in {self._log_path(place)}"
            )
            place.child.send_signal(signal.SIGABRT)
            place.aborted_s = now_s

    def _start(self, place: _Place, now_s: float) -> None:
        read_end, write_end = os.pipe()
        try:
            with open(self._log_path(place), "ab") as log:
                place.child = subprocess.Popen(
                    [*self.command, "--beat", str(write_end)],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env={**os.environ, **self.environment},
                    pass_fds=[write_end],
                    # Ctrl-C in the terminal reaches the launcher only, which passes it on once.
                    process_group=0,
                )
        except BaseException:
            os.close(read_end)
            raise
        finally:
            os.close(write_end)
        os.set_blocking(read_end, False)
        place.pipe = read_end
        place.started_s = place.progress_s = now_s
        place.aborted_s = None

    def _ended(self, place: _Place, exit_code: int, now_s: float, stopping: bool) -> None:
        """Fill the place again later, unless its worker's reason would be the next one's too."""
        os.close(place.pipe)
        place.child, place.pipe, place.start_at_s = None, -1, None
        if stopping or exit_code in _ASKED_TO_LEAVE:
            return  # asked to leave, perhaps alone: workers may come and go
        if verdict.of(self.run_store):  # nothing is left to do, whatever it died of
            return
        if exit_code in _NOT_RESTARTED:
            self.worst_exit = max(self.worst_exit, exit_code)
            if exit_code != 0:
                self.say(self._last_words(place))
            return
        if now_s - place.started_s > _HEALTHY_S:
            place.restarts = 0
        if place.restarts >= (MAX_RESTARTS if place.lived else MAX_STILLBORN):
            self.worst_exit = max(self.worst_exit, 1)
            self.say(
                f"worker {place.index} died {place.restarts + 1} times in a row, it stays away:"
                f" {self._last_words(place)}"
            )
            return
        pause_s = min(30.0, self.restart_pause_s * 2**place.restarts)
        place.restarts += 1
        place.start_at_s = now_s + pause_s
        self.say(
            f"worker {place.index} {_describe(exit_code)}; another one starts in {pause_s:.1f} s;"
            f" its log is {self._log_path(place)}"
        )

    def _signal_all(self, number: int) -> None:
        for place in self.places:
            if place.child is not None:
                # A worker knows how to leave on SIGTERM and SIGINT alike.
                place.child.send_signal(number)

    def kill_all(self) -> None:
        """Kill the workers at once."""
        for place in self.places:
            if place.child is not None:
                place.child.kill()

    def _end_all(self) -> None:
        """Leave nothing behind, whatever ended the watch."""
        self.kill_all()
        for place in self.places:
            if place.child is not None:
                place.child.wait()
                os.close(place.pipe)
                place.child = None

    def _log_path(self, place: _Place) -> Path:
        return self.log_dir / f"worker-{place.index}.log"

    def _last_words(self, place: _Place) -> str:
        with contextlib.suppress(OSError):
            lines = self._log_path(place).read_text(errors="replace").strip().splitlines()
            return lines[-1] if lines else "it left no message"
        return f"see {self._log_path(place)}"


def _environment(workers: int) -> dict[str, str]:
    """What the workers' environment has in addition to the launcher's."""
    # A task named "my_learner:make_task" is found where the launcher would find it.
    result = {"PYTHONPATH": os.pathsep.join(os.path.abspath(path) for path in sys.path)}
    # Each its share of the cores: more threads would only get in each other's way.
    # OMP_NUM_THREADS, if set, decides for all: libraries that do not agree fight over the cores.
    threads = os.environ.get("OMP_NUM_THREADS", str(max(1, available_cores() // workers)))
    return result | {name: threads for name in _THREAD_SETTINGS if name not in os.environ}


def available_cores() -> int:
    """Cores that this process may use."""
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


def _drained(pipe: int) -> bool:
    """Whether anything was written into a pipe since the last call."""
    with contextlib.suppress(BlockingIOError):
        return bool(os.read(pipe, 65536))
    return False


def _describe(exit_code: int) -> str:
    if exit_code >= 0:
        return f"ended with exit code {exit_code}"
    try:
        return f"was killed by {signal.Signals(-exit_code).name}"
    except ValueError:
        return f"was killed by signal {-exit_code}"
