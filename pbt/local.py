"""Start workers for a run on this machine, watch them, and stop them.

The launcher trains nothing and decides nothing, because workers meet in the store. It may be killed
at any time; its workers notice and end as well. A launcher that is started again on the same
directory resumes the run. A second launcher joins, and its workers help those of the first.
"""

import contextlib
import errno
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pbt import checkpoint, claim, disk, files, owner, process, storage, store, verdict

_log = logging.getLogger(__name__)

Answer = TypeVar("Answer")

MAX_RESTARTS = 10
"""Restarts in a row of one worker before its place stays empty."""
MAX_STILLBORN = 2
"""The same if none of them ever showed progress, as when the installation does not work."""
_HEALTHY_S = 120.0
"""Life in seconds after which a worker's death begins a new row of restarts."""
_POLL_S = 0.1
_LONGEST_PAUSE_S = 30.0
_ABORT_GRACE_S = 5.0
BUSY_TIMEOUT_S = 5.0
"""Seconds that the launcher waits for the store before it looks after its workers again."""
_ORPHAN_GRACE_S = 15.0
"""A worker ends by itself so many seconds after the launcher would have ended it."""
_PROBE_BYTES = 65536
_LOG_PREFIX = re.compile(r"^[-\d]+ [:,\d]+ worker \d+ [A-Z]+ ")
_NOT_RESTARTED = (0, verdict.EXIT_NO_RUN, verdict.EXIT_DISK_FULL)
_ASKED_TO_LEAVE = tuple(128 + number for number in process.STOP_SIGNALS)
_THREAD_SETTINGS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)


def _print_at_once(line: str) -> None:
    # A closed pipe or terminal, or one that cannot show a character, is no reason to stop.
    with contextlib.suppress(OSError, ValueError):
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
    busy_timeout_s: float = BUSY_TIMEOUT_S,
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
        busy_timeout_s: Seconds that a call waits for a locked store or a lost server before the
            launcher looks after its workers again. It goes on waiting as long as that lasts.
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
    waiting = process.Waiting(say)

    def patiently(call: Callable[[], Answer]) -> Answer:
        while True:
            try:
                return call()
            except store.StoreBusy as error:
                waiting(error.problem, error.way_out)
                time.sleep(_POLL_S)

    with patiently(lambda: store.Store.open(run_dir, busy_timeout_s=busy_timeout_s)) as run_store:
        # Runs of before were not marked.
        identity, names = patiently(run_store.identity), patiently(run_store.referenced_checkpoints)
        is_there = False
        with contextlib.suppress(checkpoint.NotThere):  # nothing says where they are
            is_there = storage.of(run_dir).adopt(identity, names)
        holders = patiently(run_store.owners)
        gone, at_work = owner.gone(holders), owner.at_work(holders)
        over = patiently(lambda: verdict.of(run_store))
        if over is None or over[0] != 0:
            if refused := refusal(run_dir):
                say(refused[1])
                return refused[0]
            # While the disk is away, nobody could train whom this revives.
            if is_there and (changed := patiently(lambda: run_store.forgive(gone, at_work))):
                _log.info("members %s may be tried again", changed)
            over = patiently(lambda: verdict.of(run_store))
            if over is not None and not is_there:
                say(_why_away(run_dir, identity) or over[1])
                return verdict.EXIT_DEAD
        if over is not None:
            _tidy(run_store, run_dir)
            _tick(on_tick, run_store, waiting)
            say(over[1])
            return over[0]
        config = run_store.config
        share = -(-config.population // workers) + 1
        hang_s = hang_s or 3 * config.lease_seconds
        added = _environment(workers, joins=bool(at_work))
        launcher = _Launcher(
            run_store=run_store,
            command=[
                *command,
                f"--residents={residents or share}",
                f"--exit-after={hang_s + _ORPHAN_GRACE_S}",
            ],
            run_dir=run_dir,
            environment={**os.environ, **added, **(environment or {})},
            hang_s=hang_s,
            restart_pause_s=restart_pause_s,
            say=say,
            waiting=waiting,
            places=[
                _Place(index, run_dir / "logs" / f"worker-{index}.log") for index in range(workers)
            ],
        )
        with process.Stop(lambda: launcher.send(signal.SIGKILL)).installed() as stop:
            exit_code = launcher.watch(stop, on_tick, tick_s)
        if exit_code > 128:  # who asked to stop does not wait
            over = launcher.ask(verdict.of)
        else:
            over = patiently(lambda: verdict.of(run_store))
        _tidy(run_store, run_dir)
        _tick(on_tick, run_store, waiting)
    if over is not None:
        # A run that is over is over, even if a signal came at the last moment.
        exit_code, message = over
        say(message)
    elif exit_code > 128:
        say(f"stopped by {signal.Signals(exit_code - 128).name}; the same command goes on")
    elif exit_code == verdict.EXIT_DISK_FULL:  # a worker's log may have had no room to say so
        say(_no_space(run_dir))
    return exit_code


def refusal(run_dir: Path) -> tuple[int, str] | None:
    """Return exit code and message if nothing can be written to a run's directory.

    It writes and syncs a small file, which it deletes again.
    """
    probe = run_dir / f".probe-{os.getpid()}"
    try:
        with probe.open("wb") as written:
            written.write(bytes(_PROBE_BYTES))
            written.flush()
            os.fsync(written.fileno())
        # The database has permissions of its own. To open it here would end SQLite's locks on it.
        file = run_dir / store.FILE_NAME
        if file.exists() and not os.access(file, os.W_OK):
            raise PermissionError(errno.EACCES, "no permission", str(file))
    except OSError as error:
        if disk.is_full(error):
            return verdict.EXIT_DISK_FULL, _no_space(run_dir)
        return verdict.EXIT_NO_RUN, (
            f"{error.filename or run_dir} cannot be written to ({error.strerror or error}): see to"
            " that; the same command goes on"
        )
    finally:
        with contextlib.suppress(OSError):
            probe.unlink()
    return None


def _tidy(run_store: store.Store, run_dir: Path) -> None:
    """Delete what nobody needs any more: superseded checkpoints, and what killed processes left."""
    with contextlib.suppress(OSError, store.StoreError, checkpoint.NotThere):
        claim.collect(run_store, storage.of(run_dir))
        for name in store.FILE_NAMES:
            files.remove_old(run_dir, f".{name}.creating-*")
        files.remove_old(run_dir, ".probe-*")


def _why_away(run_dir: Path, identity: Mapping[str, Any]) -> str | None:
    """Return why a run's checkpoints are not there; None if they are."""
    try:
        storage.of(run_dir).check_there(identity)
    except checkpoint.NotThere as error:
        return str(error)
    return None


def _no_space(run_dir: Path) -> str:
    try:
        free = f"{shutil.disk_usage(run_dir).free:,}"
    except OSError:
        free = "unknown"
    return f"no space for {run_dir} ({free} bytes free): make room; the same command goes on"


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

    run_store: store.Store
    command: Sequence[str]
    run_dir: Path
    environment: Mapping[str, str]
    hang_s: float
    restart_pause_s: float
    say: Callable[[str], None]
    waiting: process.Waiting
    places: list[_Place]
    worst_exit: int = 0
    _said: set[str] = field(default_factory=set)

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
                    _tick(on_tick, self.run_store, self.waiting)
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

    def ask(self, question: Callable[[store.Store], Answer | None]) -> Answer | None:
        """Return the answer to a question to the store; None while the store cannot give it."""
        try:
            return question(self.run_store)
        except store.StoreBusy as error:
            self.waiting(error.problem, error.way_out)
        except store.StoreError as error:
            _log.warning("%s", error)
        return None

    def _look_after(self, place: _Place, now_s: float, stopping: bool) -> None:
        if place.child is None:
            if stopping:
                place.start_at_s = None
            if place.start_at_s is not None and now_s >= place.start_at_s:
                try:
                    place.start(self.command, self.run_dir, self.environment, now_s)
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
            self.say(
                f"worker {place.index} (process {place.child.pid}) made no progress for"
                f" {self.hang_s:.0f} s: killed; its stacks are in {place.log}"
            )
            place.child.send_signal(signal.SIGABRT)
            place.aborted_s = now_s

    def _say_once(self, line: str) -> None:
        """Say what several workers may end with only once."""
        if line not in self._said:
            self._said.add(line)
            self.say(line)

    def _start_later(self, place: _Place, error: OSError, now_s: float) -> None:
        """Try again to start a worker, after a pause. The system may be short of processes."""
        starting_works = any(other.lived or other.child is not None for other in self.places)
        if not starting_works and place.restarts >= MAX_STILLBORN:
            place.start_at_s = None
            self.worst_exit = max(self.worst_exit, 1)
            self.say(f"worker {place.index} cannot be started: {error}")
            return
        pause_s = self._pause(place, now_s)
        self.say(
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
        over = self.ask(verdict.of)
        if exit_code in _ASKED_TO_LEAVE or over is not None:
            return
        if exit_code in _NOT_RESTARTED:
            self.worst_exit = max(self.worst_exit, exit_code)
            if exit_code != 0:
                self._say_once(place.last_words())
            return
        if exit_code == verdict.EXIT_DEAD and (
            away := self.ask(lambda run_store: _why_away(self.run_dir, run_store.identity()))
        ):
            self.worst_exit = max(self.worst_exit, exit_code)
            self._say_once(away)
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
        pause_s = self._pause(place, now_s)
        self.say(
            f"worker {place.index} {_describe(exit_code)}; another one starts in {pause_s:.1f} s;"
            f" its log is {place.log}"
        )


def _environment(workers: int, joins: bool) -> dict[str, str]:
    """Return the variables that workers need in addition to the launcher's.

    Args:
        workers: Number of workers.
        joins: Whether other processes of this machine work on the run already.
    """
    # A task named "my_learner:make_task" is found where the launcher would find it.
    result = {"PYTHONPATH": os.pathsep.join(os.path.abspath(path) for path in sys.path)}
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


def _tick(
    on_tick: Callable[[store.Store], None] | None,
    run_store: store.Store,
    waiting: process.Waiting,
) -> None:
    """Show the run; without `on_tick`, only look whether the store can be used."""
    try:
        if on_tick is None:
            run_store.now()
        else:
            on_tick(run_store)
    except store.StoreBusy as error:
        waiting(error.problem, error.way_out)
    except store.StoreError as error:
        _log.warning("the run's state cannot be shown: %s", error)
    except Exception:
        _log.exception("showing the run's state failed; training goes on")


def _describe(exit_code: int) -> str:
    if exit_code >= 0:
        return f"ended with exit code {exit_code}"
    try:
        return f"was killed by {signal.Signals(-exit_code).name}"
    except ValueError:
        return f"was killed by signal {-exit_code}"
