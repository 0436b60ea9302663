"""Start workers for a run on this machine, watch them, and stop them.

The launcher trains nothing and decides nothing, because workers meet in the store. It may be killed
at any time; its workers notice and end as well. A launcher that is started again on the same
directory resumes the run. A second launcher joins, and its workers help those of the first.
"""

import argparse
import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pbt import owner, process, store, supervise, verdict

MAX_RESTARTS = 10
"""Restarts in a row of one worker before its place stays empty."""
MAX_STILLBORN = 2
"""The same if none of them ever showed progress, as when the installation does not work."""
_HEALTHY_S = 120.0
"""Life in seconds after which a worker's death begins a new row of restarts."""
_POLL_S = 0.1
_LONGEST_PAUSE_S = 30.0
_ABORT_GRACE_S = 5.0
_ORPHAN_GRACE_S = 15.0
"""A worker ends by itself so many seconds after the launcher would have ended it."""
_LOG_PREFIX = re.compile(r"^[-\d]+ [:,\d]+ worker \d+ [A-Z]+ ")
_NOT_RESTARTED = (0, verdict.EXIT_NO_RUN, verdict.EXIT_DISK_FULL)
_ASKED_TO_LEAVE = tuple(128 + number for number in process.STOP_SIGNALS)
_THREAD_SETTINGS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)


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
    busy_timeout_s: float = supervise.BUSY_TIMEOUT_S,
    command: Sequence[str] = (sys.executable, "-m", "pbt.worker"),
    log_name: str = "worker",
    say: Callable[[str], None] = supervise.print_at_once,
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
        busy_timeout_s: Seconds that a call waits for a locked store or a lost server before the
            launcher looks after its workers again. It goes on waiting as long as that lasts.
        command: Command that starts a worker.
        log_name: First part of the names of the workers' logs; the number of the worker follows.
        say: Shows a line to the user.

    Returns:
        0 if the run is over, 1 if all members or all workers died, 74 if the disk is full, 128 + n
        if signal n stopped it.

    Raises:
        store.NotARun: There is no run.
    """
    if workers < 1:
        raise ValueError(f"workers {workers} is too small: use 1 or more")
    with supervise.supervised(
        run_dir, on_tick=on_tick, tick_s=tick_s, busy_timeout_s=busy_timeout_s, say=say
    ) as watched:
        if watched.exit_code is None:
            config = watched.store.config
            share = -(-config.population // workers) + 1
            hang_s = hang_s or 3 * config.lease_seconds
            at_work = owner.at_work(watched.patiently(store.Store.owners))
            added = _environment(workers, joins=bool(at_work))
            launcher = _Launcher(
                watched=watched,
                command=[
                    *command,
                    f"--residents={residents or share}",
                    f"--exit-after={hang_s + _ORPHAN_GRACE_S}",
                ],
                environment={**os.environ, **added, **(environment or {})},
                hang_s=hang_s,
                restart_pause_s=restart_pause_s,
                places=[
                    _Place(index, run_dir / "logs" / f"{log_name}-{index}.log")
                    for index in range(workers)
                ],
            )
            with process.Stop(lambda: launcher.send(signal.SIGKILL)).installed() as stop:
                watched.exit_code = launcher.watch(stop)
    return watched.exit_code


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

    def start(
        self, command: Sequence[str], run_dir: Path, environment: Mapping[str, str], now_s: float
    ) -> None:
        """Start a child; raise `OSError` if the system cannot."""
        self.log.parent.mkdir(exist_ok=True)  # somebody may have deleted it
        read_end, write_end = os.pipe()
        try:
            with open(self.log, "ab") as log:
                self.child = subprocess.Popen(
                    # The name of a directory may begin with a dash.
                    [*command, f"--beat={write_end}", "--", str(run_dir)],
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
        """Return the last line of the log, without the time and the process that it begins with."""
        with contextlib.suppress(OSError):
            lines = self.log.read_text(errors="replace").strip().splitlines()
            return _LOG_PREFIX.sub("", lines[-1]) if lines else "it left no message"
        return f"see {self.log}"


@dataclass
class _Launcher:
    """Starts workers and watches them."""

    watched: supervise.Watched
    command: Sequence[str]
    environment: Mapping[str, str]
    hang_s: float
    restart_pause_s: float
    places: list[_Place]
    worst_exit: int = 0
    _said: set[str] = field(default_factory=set)

    def watch(self, stop: process.Stop) -> int:
        """Keep the places filled until all workers ended for a reason; return the exit code."""
        forwarded = 0
        try:
            while True:
                now_s = time.monotonic()
                if stop() and not forwarded:
                    forwarded = stop()
                    self.watched.say(
                        "stopping after the updates that run; once more kills the workers"
                    )
                    self.send(forwarded)
                for place in self.places:
                    self._look_after(place, now_s, stopping=bool(forwarded))
                if all(place.child is None and place.start_at_s is None for place in self.places):
                    return 128 + forwarded if forwarded else self.worst_exit
                self.watched.tick()
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
                try:
                    place.start(self.command, self.watched.run_dir, self.environment, now_s)
                except OSError as error:
                    self._start_later(place, error, now_s)
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
            self.watched.say(
                f"worker {place.index} (process {place.child.pid}) made no progress for"
                f" {self.hang_s:.0f} s: killed; its stacks are in {place.log}"
            )
            place.child.send_signal(signal.SIGABRT)
            place.aborted_s = now_s

    def _say_once(self, line: str) -> None:
        """Say what several workers may end with only once."""
        if line not in self._said:
            self._said.add(line)
            self.watched.say(line)

    def _start_later(self, place: _Place, error: OSError, now_s: float) -> None:
        """Try again to start a worker, after a pause. The system may be short of processes."""
        starting_works = any(other.lived or other.child is not None for other in self.places)
        if not starting_works and place.restarts >= MAX_STILLBORN:
            place.start_at_s = None
            self.worst_exit = max(self.worst_exit, 1)
            self.watched.say(f"worker {place.index} cannot be started: {error}")
            return
        pause_s = self._pause(place, now_s)
        self.watched.say(
            f"worker {place.index} cannot be started ({error}); trying again in {pause_s:.1f} s"
        )

    def _pause(self, place: _Place, now_s: float) -> float:
        """Set the time of the next start, each time later; return the seconds until then."""
        pause_s = min(_LONGEST_PAUSE_S, self.restart_pause_s * 2.0 ** min(place.restarts, 10))
        place.restarts += 1
        place.start_at_s = now_s + pause_s
        return pause_s

    def _replace(self, place: _Place, exit_code: int, now_s: float) -> None:
        """Start another worker later, unless it would end for the same reason."""
        # Whatever the worker died of, there may be nothing left to do. And a user may ask a single
        # worker to leave.
        over = self.watched.ask(verdict.of)
        if exit_code in _ASKED_TO_LEAVE or over is not None:
            return
        if exit_code in _NOT_RESTARTED:
            self.worst_exit = max(self.worst_exit, exit_code)
            if exit_code != 0:
                self._say_once(place.last_words())
            return
        if exit_code == verdict.EXIT_DEAD and (away := self.watched.why_away()):
            self.worst_exit = max(self.worst_exit, exit_code)
            self._say_once(away)
            return
        if now_s - place.started_s > _HEALTHY_S:
            place.restarts = 0
        if place.restarts >= (MAX_RESTARTS if place.lived else MAX_STILLBORN):
            self.worst_exit = max(self.worst_exit, 1)
            self.watched.say(
                f"worker {place.index} died {place.restarts + 1} times in a row, it stays away:"
                f" {place.last_words()}"
            )
            return
        pause_s = self._pause(place, now_s)
        self.watched.say(
            f"worker {place.index} {_describe(exit_code)}; another one starts in {pause_s:.1f} s;"
            f" its log is {place.log}"
        )


def _environment(workers: int, joins: bool) -> dict[str, str]:
    """Return the variables that workers need in addition to the launcher's.

    Args:
        workers: Number of workers.
        joins: Whether other processes of this machine work on the run already.
    """
    result = {"PYTHONPATH": process.python_path()}
    # Each worker gets its share of the cores, because more threads would compete for them. If
    # OMP_NUM_THREADS is set, it decides for all libraries.
    share = 1 if joins else max(1, available_cores() // workers)
    threads = os.environ.get("OMP_NUM_THREADS", str(share))
    # Threads that spin at a barrier take the core from the thread that they wait for, if anything
    # else runs on the machine.
    idle = {"OMP_WAIT_POLICY": "passive", "KMP_BLOCKTIME": "0"}
    wanted = {**dict.fromkeys(_THREAD_SETTINGS, threads), **idle}
    return result | {name: value for name, value in wanted.items() if name not in os.environ}


def available_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _describe(exit_code: int) -> str:
    if exit_code >= 0:
        return f"ended with exit code {exit_code}"
    try:
        return f"was killed by {signal.Signals(-exit_code).name}"
    except ValueError:
        return f"was killed by signal {-exit_code}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Look after workers of a run that exists, and return the exit code of `run`."""
    parser = argparse.ArgumentParser(
        prog="python -m pbt.local", description="Add workers of this machine to a run."
    )
    parser.add_argument("run_dir", type=Path, help="directory of the run")
    parser.add_argument(
        "--workers", type=int, default=1, help="number of worker processes (default: 1)"
    )
    parser.add_argument("--log-name", default="worker", help="first part of the logs' names")
    parser.add_argument(
        "--stopped-is-success",
        action="store_true",
        help="exit with code 0 after a signal that stopped the workers cleanly, for schedulers "
        "that call every other code a failure",
    )
    options = parser.parse_args(arguments)
    try:
        exit_code = run(options.run_dir, options.workers, log_name=options.log_name)
    except (ValueError, store.StoreError) as error:
        print(f"error: {error}", file=sys.stderr)
        return verdict.EXIT_NO_RUN
    return 0 if options.stopped_is_success and exit_code > 128 else exit_code


if __name__ == "__main__":
    sys.exit(main())
