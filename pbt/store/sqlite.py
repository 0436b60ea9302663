"""Transactions on a SQLite file.

The file uses a rollback journal, because the WAL mode of SQLite before 3.51.3 can corrupt a
database (https://www.sqlite.org/wal.html#walresetbug). Each transaction opens a connection of its
own. So nothing is locked between transactions, threads may share an `SQLite`, and it survives a
fork.
"""

import contextlib
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import sqlalchemy as sa

from pbt import records
from pbt.store import database
from pbt.store.database import BUSY_TIMEOUT_S, NotARun, ReadOnly, StoreBusy, StoreError

# Unix time in seconds, to the millisecond.
_NOW = sa.text("SELECT (julianday('now') - 2440587.5) * 86400.0")


class SQLite(database.Database):
    """Access to one existing SQLite file. For the other arguments see `Database`.

    Args:
        path: The file.
        durable: Whether commits survive a power cut (fsync).
    """

    def __init__(
        self,
        path: Path,
        *,
        durable: bool = True,
        clock: Callable[[], float] | None = None,
        busy_timeout_s: float = BUSY_TIMEOUT_S,
        on_wait: Callable[[float, StoreBusy], None] | None = None,
    ) -> None:
        super().__init__(path, clock=clock, busy_timeout_s=busy_timeout_s, on_wait=on_wait)
        self._durable = durable
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
        """See `Database.transaction`.

        The body itself never meets a locked database: its lock is taken before, and a commit that
        waits for readers is tried again as it is.
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

    def prepare(self, connection: sa.Connection) -> None:
        """See `Database.prepare`. The file is the place."""

    def check(self, connection: sa.Connection) -> None:
        """See `Database.check`: the file is whole, and has a rollback journal."""
        # Unlike quick_check, this compares the indexes with their tables too.
        problems = list(connection.execute(sa.text("PRAGMA integrity_check(3)")).scalars())
        if problems != ["ok"]:
            raise self.damaged("; ".join(problems))
        if (mode := connection.execute(sa.text("PRAGMA journal_mode")).scalar()) != "delete":
            raise StoreError(
                f"{self.path} is in journal mode {mode}: somebody changed it; stop all that use it "
                'and set "PRAGMA journal_mode=DELETE"'
            )

    def wait_out(self, error: StoreBusy, since_s: float) -> None:
        """See `Database.wait_out`. Each statement has waited already."""
        raise error

    def close(self) -> None:
        """See `Database.close`. Nothing is held between transactions anyway."""
        self._engine.dispose()

    def _now(self, connection: sa.Connection) -> float:
        return float(connection.execute(_NOW).scalar_one())

    def _patiently(self, connection: sa.Connection, statement: str) -> None:
        """Execute a statement. With `on_wait`, try again while the database is locked.

        A statement that found the database locked has changed nothing, COMMIT included.
        """
        raw = connection.connection.driver_connection
        assert isinstance(raw, sqlite3.Connection)
        started_s = time.monotonic()
        while True:
            try:
                raw.execute(statement).fetchall()
            except sqlite3.OperationalError as error:
                if self._on_wait is None or not _is_busy(error):
                    raise
                self._note_wait(self._locked(), started_s)
            else:
                return

    def _explain(self, error: BaseException | None) -> StoreError:
        if error is not None and _is_busy(error):
            return self._locked()
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

    def _locked(self) -> StoreBusy:
        return StoreBusy(f"{self.path} is locked by another process", "see who has it open (lsof)")

    def damaged(self, problem: str) -> StoreError:
        """See `Database.damaged`."""
        problem = problem.encode("utf-8", "backslashreplace").decode()
        return StoreError(
            f"{self.path} is damaged ({problem}); nothing was changed. Copy the directory away "
            f"first, with {self.path.name}-journal if it is there; then put back a backup of "
            f"{self.path.name}, or try the sqlite3 shell's .recover"
        )


def _is_busy(error: BaseException) -> bool:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
