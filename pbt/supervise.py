"""Look after a run that workers train somewhere: begin it, show it, say how it ended.

It is the same wherever the workers are: `pbt.local` has processes of this machine, `pbt.ray_places`
Ray tasks, and `pbt.slurm` a job array.
"""

import contextlib
import errno
import logging
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pbt import checkpoint, claim, disk, files, owner, process, storage, store, verdict

_log = logging.getLogger(__name__)

Answer = TypeVar("Answer")

BUSY_TIMEOUT_S = 5.0
"""Seconds that a call waits for the store before the supervisor looks after its workers again."""
_POLL_S = 0.1
_PROBE_BYTES = 65536


def print_at_once(line: str) -> None:
    """Print a line. A closed pipe or terminal, or one without a character, is no reason to stop."""
    with contextlib.suppress(OSError, ValueError):
        print(line, flush=True)


class Watched:
    """A run while its workers train it.

    Args:
        run_store: The run's open store.
        run_dir: The run's directory.
        on_tick: Called with the open store by `tick`, to show the run. What it raises is logged and
            does not stop training.
        tick_s: Seconds between two calls of `on_tick`.
        say: Shows a line to the user.
        waiting: Says what is waited for.
    """

    def __init__(
        self,
        run_store: store.Store,
        run_dir: Path,
        on_tick: Callable[[store.Store], None] | None,
        tick_s: float,
        say: Callable[[str], None],
        waiting: process.Waiting,
    ) -> None:
        self.store, self.run_dir, self.say = run_store, run_dir, say
        self._on_tick, self._tick_s, self._waiting = on_tick, tick_s, waiting
        self._ticked_s = 0.0
        self.exit_code: int | None = None
        """How the workers ended; None while there is something to train."""

    def ask(self, question: Callable[[store.Store], Answer | None]) -> Answer | None:
        """Return the answer to a question to the store; None while the store cannot give it."""
        try:
            return question(self.store)
        except store.StoreBusy as error:
            self._waiting(error.problem, error.way_out)
        except store.StoreError as error:
            _log.warning("%s", error)
        return None

    def patiently(self, question: Callable[[store.Store], Answer]) -> Answer:
        """Return the answer to a question to the store, however long it takes."""
        return _patiently(lambda: question(self.store), self._waiting)

    def tick(self, now: bool = False) -> None:
        """Show the run if it is time; without `on_tick`, only look whether the store can be used.

        Args:
            now: Whether to show it in any case.
        """
        if not now and time.monotonic() - self._ticked_s < self._tick_s:
            return
        try:
            if self._on_tick is None:
                self.store.now()
            else:
                self._on_tick(self.store)
        except store.StoreBusy as error:
            self._waiting(error.problem, error.way_out)
        except store.StoreError as error:
            _log.warning("the run's state cannot be shown: %s", error)
        except Exception:
            _log.exception("showing the run's state failed; training goes on")
        self._ticked_s = time.monotonic()

    def tidy(self) -> None:
        """Delete what nobody needs: superseded checkpoints, and what killed processes left."""
        with contextlib.suppress(OSError, store.StoreError, checkpoint.NotThere):
            claim.collect(self.store, storage.of(self.run_dir))
            for name in store.FILE_NAMES:
                files.remove_old(self.run_dir, f".{name}.creating-*")
            files.remove_old(self.run_dir, ".probe-*")

    def why_away(self) -> str | None:
        """Return why the checkpoints are not there; None if they are, or if nobody can say."""
        return self.ask(lambda run_store: _why_away(self.run_dir, run_store.identity()))


@contextlib.contextmanager
def supervised(
    run_dir: Path,
    *,
    on_tick: Callable[[store.Store], None] | None = None,
    tick_s: float = 1.0,
    busy_timeout_s: float = BUSY_TIMEOUT_S,
    say: Callable[[str], None] = print_at_once,
) -> Iterator[Watched]:
    """Open a run for those who keep its workers at work; say at the end how it ended.

        with supervise.supervised(run_dir) as watched:
            if watched.exit_code is None:
                watched.exit_code = ...  # train, and call `watched.tick` often
        return watched.exit_code

    `exit_code` is None if there is something to train. Inside it is set to 0 if the workers ended
    for a good reason, to 128 + n if signal n stopped them, else to a code of `pbt.verdict`. After
    the block it is 0 if the run is over, 1 if all members or all workers died, 74 if the disk is
    full, 128 + n if signal n stopped it.

    Args:
        run_dir: The run's directory, see `pbt.create.create_run`.
        on_tick: See `Watched`; called once at the end too.
        tick_s: See `Watched`.
        busy_timeout_s: Seconds that a call waits for a locked store or a lost server before the
            workers are looked after again. It is asked again as long as that lasts.
        say: Shows a line to the user.

    Raises:
        store.NotARun: There is no run.
    """
    waiting = process.Waiting(say)
    opened = _patiently(lambda: store.Store.open(run_dir, busy_timeout_s=busy_timeout_s), waiting)
    with opened as run_store:
        watched = Watched(run_store, run_dir, on_tick, tick_s, say, waiting)
        begun = watched.exit_code = _begin(watched)
        yield watched
        if begun is not None:
            return
        assert watched.exit_code is not None  # the block sets it
        is_stopped = watched.exit_code > 128  # who asked to stop does not wait
        _end(watched, watched.ask(verdict.of) if is_stopped else watched.patiently(verdict.of))


def _begin(watched: Watched) -> int | None:
    """Give members that failed another try. Return an exit code if there is nothing to train."""
    run_dir = watched.run_dir
    # Runs of before were not marked.
    identity = watched.patiently(store.Store.identity)
    names = watched.patiently(store.Store.referenced_checkpoints)
    is_there = False
    with contextlib.suppress(checkpoint.NotThere):  # nothing says where they are
        is_there = storage.of(run_dir).adopt(identity, names)
    holders = watched.patiently(store.Store.owners)
    gone, at_work = owner.gone(holders), owner.at_work(holders)
    over = watched.patiently(verdict.of)
    if over is None or over[0] != 0:
        if refused := refusal(run_dir):
            watched.say(refused[1])
            return refused[0]
        # While the disk is away, nobody could train whom this revives.
        if is_there and (changed := watched.patiently(lambda it: it.forgive(gone, at_work))):
            _log.info("members %s may be tried again", changed)
        over = watched.patiently(verdict.of)
        if over is not None and not is_there:
            watched.say(_why_away(run_dir, identity) or over[1])
            return verdict.EXIT_DEAD
    if over is not None:
        _end(watched, over)
    return watched.exit_code


def _end(watched: Watched, over: tuple[int, str] | None) -> None:
    """Tidy up, show the run once more, and say how it ended."""
    watched.tidy()
    watched.tick(now=True)
    if over is not None:
        # A run that is over is over, even if a signal came at the last moment.
        watched.exit_code, message = over
        watched.say(message)
    elif (exit_code := watched.exit_code or 0) > 128:
        name = signal.Signals(exit_code - 128).name
        watched.say(f"stopped by {name}; the same command goes on")
    elif exit_code == verdict.EXIT_DISK_FULL:  # a worker's log may have had no room to say so
        watched.say(_no_space(watched.run_dir))


def _patiently(call: Callable[[], Answer], waiting: process.Waiting) -> Answer:
    while True:
        try:
            return call()
        except store.StoreBusy as error:
            waiting(error.problem, error.way_out)
            time.sleep(_POLL_S)


def refusal(run_dir: Path) -> tuple[int, str] | None:
    """Return exit code and message if nothing can be written to a run's directory.

    It writes and syncs a small file, which it deletes again.
    """
    probe, file = run_dir / f".probe-{os.getpid()}", run_dir / store.FILE_NAME
    try:
        with probe.open("wb") as written:
            written.write(bytes(_PROBE_BYTES))
            written.flush()
            os.fsync(written.fileno())
        # The database has permissions of its own. To open it here would end SQLite's locks on it.
        if file.exists() and not os.access(file, os.W_OK):
            raise PermissionError(errno.EACCES, "no permission", str(file))
    except OSError as error:
        if disk.is_full(error):
            return verdict.EXIT_DISK_FULL, _no_space(run_dir)
        place = file if error.filename == str(file) else run_dir
        return verdict.EXIT_NO_RUN, (
            f"{place} cannot be written to ({error.strerror or error}): see to that; the same "
            "command goes on"
        )
    finally:
        with contextlib.suppress(OSError):
            probe.unlink()
    return None


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
