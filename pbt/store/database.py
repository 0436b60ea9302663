"""Transactions on a SQLite file, its creation in one step, and its errors.

The file uses a rollback journal, because the WAL mode of SQLite before 3.51.3 can corrupt a
database (https://www.sqlite.org/wal.html#walresetbug). Each transaction opens a connection of its
own. So nothing is locked between transactions, threads may share a `Database`, and it survives a
fork.
"""

import contextlib
import math
import os
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import sqlalchemy as sa

from pbt import files, records

BUSY_TIMEOUT_S = 30.0
"""Seconds that a transaction waits for another one before it raises `StoreBusy`."""
_STALE_CREATION_S = 3600.0
AFTER_LOCK_S = 5.0
"""Seconds after a lock in which those that waited for it renew their leases."""
# Unix time in seconds, to the millisecond.
_NOW = sa.text("SELECT (julianday('now') - 2440587.5) * 86400.0")


class StoreError(Exception):
    """The store cannot do what was asked, or cannot be used at all."""


class LostLease(StoreError):
    """Another worker has claimed the member. Nothing was changed; drop the work and claim again."""


class NotARun(StoreError):
    """There is no run at the given place."""


class RunExists(StoreError):
    """The place for a new run is taken. What is there was left as it is."""


class StoreBusy(StoreError):
    """Another process kept the database locked longer than the busy timeout."""


class ReadOnly(StoreError):
    """The database's file, or the file system, cannot be written to."""


class Database:
    """Access to one existing SQLite file. Opens nothing before the first transaction.

    Args:
        path: The file.
        durable: Whether commits survive a power cut (fsync).
        clock: Returns the time in seconds, in place of the database's clock. For tests.
        busy_timeout_s: Seconds that a statement waits for a locked database.
        on_locked: Called after each `busy_timeout_s` in vain, with the seconds waited so far. Then
            the statement is tried again. What it raises ends the transaction. None: a transaction
            that waited in vain raises `StoreBusy`.
    """

    def __init__(
        self,
        path: Path,
        *,
        durable: bool = True,
        clock: Callable[[], float] | None = None,
        busy_timeout_s: float = BUSY_TIMEOUT_S,
        on_locked: Callable[[float], None] | None = None,
    ) -> None:
        self.path = path
        self._locked_from_s = self._locked_until_s = -math.inf
        """Monotonic times at which the last wait that called `on_locked` began and ended."""
        self._durable = durable
        self._clock = clock
        self._on_locked = on_locked
        # mode=rw: a store that was deleted must not come back empty.
        uri = f"{Path(os.path.abspath(path)).as_uri()}?mode=rw"

        def connect() -> sqlite3.Connection:
            connection = sqlite3.connect(
                uri, uri=True, timeout=busy_timeout_s, isolation_level=None
            )
            # Text that is no UTF-8 is the fault of its row, not of all rows that are read with it.
            connection.text_factory = lambda text: text.decode("utf-8", "surrogateescape")
            return connection

        self._engine = sa.create_engine("sqlite://", creator=connect, poolclass=sa.NullPool)

    @contextlib.contextmanager
    def transaction(self, writing: bool = False) -> Iterator[sa.Connection]:
        """Run the body in a transaction. It is committed at the end, rolled back by an exception.

        The body itself never meets a locked database: its lock is taken before, and a commit that
        waits for readers is tried again as it is.

        Args:
            writing: Whether the body writes. Then it holds the write lock from the beginning, so
                what it reads stays true until it commits.

        Raises:
            StoreError: The database cannot do it. A subclass says more.
        """
        try:
            with self._engine.connect() as connection, connection.begin():
                self._patiently(
                    connection, f"PRAGMA synchronous={'FULL' if self._durable else 'OFF'}"
                )
                self._patiently(connection, "BEGIN IMMEDIATE" if writing else "BEGIN")
                if not writing:
                    self._patiently(connection, "PRAGMA schema_version")  # takes the read lock
                yield connection
                self._patiently(connection, "COMMIT")
        except sa.exc.DBAPIError as error:
            raise self._explain(error.orig) from error
        except sqlite3.Error as error:  # from `connect` itself
            raise self._explain(error) from error
        except records.DamagedRow as error:
            raise self.damaged(str(error)) from error

    def now(self, connection: sa.Connection) -> float:
        """Return the Unix time in seconds, by the clock of the database's machine."""
        if self._clock is not None:
            return self._clock()
        return float(connection.execute(_NOW).scalar_one())

    def lapsed_while_locked(self, late_s: float) -> bool:
        """Return whether a lease lapsed while the database was locked, a moment ago.

        Its owner could not renew it, and may be waiting for its turn.

        Args:
            late_s: Seconds since the lease lapsed.
        """
        now_s = time.monotonic()
        is_recent = now_s - self._locked_until_s < AFTER_LOCK_S
        return is_recent and 0 <= late_s < now_s - self._locked_from_s

    def check(self, connection: sa.Connection) -> None:
        """Raise `StoreError` if the file is damaged, or in another journal mode."""
        # Unlike quick_check, this compares the indexes with their tables too.
        problems = list(connection.execute(sa.text("PRAGMA integrity_check(3)")).scalars())
        if problems != ["ok"]:
            raise self.damaged("; ".join(problems))
        if (mode := connection.execute(sa.text("PRAGMA journal_mode")).scalar()) != "delete":
            raise StoreError(
                f"{self.path} is in journal mode {mode}: somebody changed it; stop all that use it "
                'and set "PRAGMA journal_mode=DELETE"'
            )

    def close(self) -> None:
        """Close the database. Nothing is held between transactions anyway."""
        self._engine.dispose()

    def _patiently(self, connection: sa.Connection, statement: str) -> None:
        """Execute a statement. With `on_locked`, try again while the database is locked.

        A statement that found the database locked has changed nothing, COMMIT included.
        """
        raw = connection.connection.driver_connection
        assert isinstance(raw, sqlite3.Connection)
        started_s = time.monotonic()
        while True:
            try:
                raw.execute(statement).fetchall()
            except sqlite3.OperationalError as error:
                if self._on_locked is None or not _is_busy(error):
                    raise
                self._locked_from_s, self._locked_until_s = started_s, time.monotonic()
                self._on_locked(self._locked_until_s - started_s)
            else:
                return

    def _explain(self, error: BaseException | None) -> StoreError:
        if error is not None and _is_busy(error):
            return StoreBusy(
                f"{self.path} stayed locked by another process: see who has it open (lsof), "
                "stop it, and run the same command again"
            )
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_READONLY:
            return ReadOnly(f"{self.path} cannot be written to ({error}): see to its permissions")
        if code == sqlite3.SQLITE_NOTADB:
            return NotARun(
                f"{self.path} is not a run: it is no SQLite file, or its head is damaged"
            )
        if code == sqlite3.SQLITE_CORRUPT:
            return self.damaged(str(error))
        return StoreError(f"{self.path}: {error}")

    def damaged(self, problem: str) -> StoreError:
        """Return the error that says what is damaged in this file, and what to do."""
        problem = problem.encode("utf-8", "backslashreplace").decode()
        return StoreError(
            f"{self.path} is damaged ({problem}); nothing was changed. Copy the directory away "
            f"first, with {self.path.name}-journal if it is there; then put back a backup of "
            f"{self.path.name}, or try the sqlite3 shell's .recover"
        )


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


def _is_busy(error: BaseException) -> bool:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
