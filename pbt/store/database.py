"""What a store needs of a database, the errors of both, and files that are created in one step.

`sqlite` and `postgres` implement `Database`. All statements are the same for both.
"""

import abc
import contextlib
import functools
import math
import os
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import sqlalchemy as sa

from pbt import files

Answer = TypeVar("Answer")
Parameters = ParamSpec("Parameters")

BUSY_TIMEOUT_S = 30.0
"""Seconds that a transaction waits for another one, or for the server, before it raises."""
_STALE_CREATION_S = 3600.0
AFTER_LOCK_S = 10.0
"""Seconds after a lock in which those that waited for it renew their leases."""


class StoreError(Exception):
    """The store cannot do what was asked, or cannot be used at all."""


class LostLease(StoreError):
    """Another worker has claimed the member. Nothing was changed; drop the work and claim again."""


class NotARun(StoreError):
    """There is no run at the given place."""


class RunExists(StoreError):
    """The place for a new run is taken. The existing run is unchanged."""


class StoreBusy(StoreError):
    """Another process kept the database locked longer than the busy timeout. Nothing was changed.

    Args:
        problem: What is the matter.
        way_out: What a person can do.
    """

    def __init__(self, problem: str, way_out: str) -> None:
        super().__init__(f"{problem}: {way_out}; the same command goes on")
        self.problem, self.way_out = problem, way_out


class StoreUnavailable(StoreBusy):
    """The database server cannot be reached, or ended the connection. Nothing was changed."""


class OutcomeUnknown(StoreUnavailable):
    """The connection was lost during a commit, and the server did not come back to say more.

    Reading the store will tell whether the change was made.
    """


class ReadOnly(StoreError):
    """The database cannot be written to."""


class Database(abc.ABC):
    """Access to the database of one existing run. Opens nothing before the first transaction.

    Args:
        path: The file in the run's directory by which the run is found.
        clock: Returns the time in seconds, in place of the database's clock. For tests.
        busy_timeout_s: Seconds that a statement waits for a locked database.
        on_wait: Called with the seconds waited so far and the error, after each `busy_timeout_s` in
            vain for a lock and after each attempt in vain to reach a server. Then the transaction
            is tried again. What it raises ends the wait. None: the error is raised, for a server
            after `busy_timeout_s`.
    """

    def __init__(
        self,
        path: Path,
        *,
        clock: Callable[[], float] | None = None,
        busy_timeout_s: float = BUSY_TIMEOUT_S,
        on_wait: Callable[[float, StoreBusy], None] | None = None,
    ) -> None:
        self.path = path
        self._clock = clock
        self._busy_timeout_s = busy_timeout_s
        self._on_wait = on_wait
        self._waited_from_s = self._waited_until_s = -math.inf
        """Monotonic times at which the last wait in vain began and ended."""

    @abc.abstractmethod
    def transaction(
        self, writing: bool = False
    ) -> contextlib.AbstractContextManager[sa.Connection]:
        """Run the body in a transaction. It is committed at the end, rolled back by an exception.

        Args:
            writing: Whether the body writes. Then it holds the run's write lock from the beginning,
                so what it reads stays true until it commits.

        Raises:
            StoreError: The database cannot do it. A subclass says more.
        """

    @abc.abstractmethod
    def prepare(self, connection: sa.Connection) -> None:
        """Make the place for the tables of a new run, in the transaction that creates it."""

    @abc.abstractmethod
    def check(self, connection: sa.Connection) -> None:
        """Raise `StoreError` if the database is damaged, or is not set up as the store needs it."""

    @abc.abstractmethod
    def damaged(self, problem: str) -> StoreError:
        """Return the error that says what is damaged in this database, and what to do."""

    @abc.abstractmethod
    def wait_out(self, error: StoreBusy, since_s: float) -> None:
        """Return when a transaction that ended with the error may be tried again, or raise it.

        Args:
            error: The error.
            since_s: Monotonic time of the first attempt.
        """

    @abc.abstractmethod
    def close(self) -> None:
        """Close the database."""

    @abc.abstractmethod
    def _now(self, connection: sa.Connection) -> float:
        """Return the Unix time in seconds, by the clock of the database's machine."""

    def now(self, connection: sa.Connection) -> float:
        """Return the time in seconds by which leases expire."""
        return self._now(connection) if self._clock is None else self._clock()

    def patiently(self, call: Callable[[], Answer]) -> Answer:
        """Return what `call` returns. Call it again as long as `wait_out` allows.

        Args:
            call: Runs one transaction. If it raises `StoreBusy`, it has changed nothing.
        """
        since_s = time.monotonic()
        while True:
            try:
                return call()
            except OutcomeUnknown:
                raise
            except StoreBusy as error:
                self.wait_out(error, since_s)

    def lapsed_while_locked(self, late_s: float) -> bool:
        """Return whether a lease lapsed while nobody could use the database, a moment ago.

        Its owner could not renew it, and may be waiting for its turn.

        Args:
            late_s: Seconds since the lease lapsed.
        """
        now_s = time.monotonic()
        is_recent = now_s - self._waited_until_s < AFTER_LOCK_S
        return is_recent and 0 <= late_s < now_s - self._waited_from_s

    def _note_wait(self, error: StoreBusy, since_s: float) -> None:
        """Note a wait in vain that goes on, and call `on_wait`."""
        self._waited_from_s, self._waited_until_s = since_s, time.monotonic()
        if self._on_wait is not None:
            self._on_wait(self._waited_until_s - since_s, error)


def patient(
    method: Callable[Concatenate[Any, Parameters], Answer],
) -> Callable[Concatenate[Any, Parameters], Answer]:
    """Let a method with one transaction in `self._database` wait for its database.

    If the server is lost inside the transaction, it has rolled back, and the method runs again.
    """

    @functools.wraps(method)
    def call(self: Any, /, *args: Parameters.args, **keywords: Parameters.kwargs) -> Answer:
        database: Database = self._database
        return database.patiently(lambda: method(self, *args, **keywords))

    return call


@contextlib.contextmanager
def creating(path: Path, durable: bool) -> Iterator[Path]:
    """Yield a temporary file to fill. It becomes `path` at the end, or never.

    Args:
        path: The file to create.
        durable: Whether its name survives a power cut (fsync).

    Raises:
        RunExists: `path` exists, before or after. It was left as it is.
    """
    taken = RunExists(f"{path} exists already: resume it, or choose another directory")
    if path.exists() or path.is_symlink():
        raise taken
    for remains in path.parent.glob(f".{path.name}.creating-*"):
        with contextlib.suppress(OSError):
            if time.time() - remains.lstat().st_mtime > _STALE_CREATION_S:
                remains.unlink()
    temporary = path.with_name(f".{path.name}.creating-{secrets.token_hex(8)}")
    try:
        temporary.touch(exist_ok=False)
        yield temporary
        try:
            os.link(temporary, path)  # unlike a rename, a link replaces nothing
        except FileExistsError:
            raise taken from None
        except OSError:
            # The file system has no hard links (FAT, some network mounts), so use a lock.
            with files.locked(path.parent):
                if path.exists():
                    raise taken from None
                os.rename(temporary, path)
        if durable:
            files.sync_directory(path.parent)
    finally:
        for name in (temporary.name, f"{temporary.name}-journal"):
            temporary.with_name(name).unlink(missing_ok=True)
