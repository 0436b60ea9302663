"""Transactions in a schema of a PostgreSQL database, its creation, and the file that names it.

A run has a schema of its own. A file in the run's directory, the pointer, names database and schema
and never a password.

Connections are kept between transactions. Each transaction says all that it needs with `SET LOCAL`,
and no statement is prepared, so PgBouncer may stand between (pool_mode=transaction).
"""

import contextlib
import hashlib
import json
import os
import random
import re
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from pbt import records
from pbt.store import database
from pbt.store.database import (
    BUSY_TIMEOUT_S,
    NotARun,
    OutcomeUnknown,
    ReadOnly,
    RunExists,
    StoreBusy,
    StoreError,
    StoreUnavailable,
)

SCHEMES = ("postgresql", "postgresql+psycopg")
OLDEST_SERVER = 13
"""First major version of PostgreSQL with `pg_xact_status`."""
# Parameters of libpq that say where a server is and how it is trusted. None of them is a secret.
_PARAMETERS = (
    "application_name",
    "channel_binding",
    "connect_timeout",
    "host",
    "hostaddr",
    "load_balance_hosts",
    "port",
    "require_auth",
    "sslcert",
    "sslkey",
    "sslmode",
    "sslrootcert",
    "target_session_attrs",
)
# A server that vanished without a word, as in a power cut, is noticed within a minute.
_CONNECTING = {
    "connect_timeout": 10,
    "keepalives_idle": 20,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "client_encoding": "utf8",
    "application_name": "pbt",
}
_LONGEST_PAUSE_S = 5.0
_SUSPENDED_S = 60
"""Seconds after which the server ends the transaction of a client that was stopped, or is gone."""
_SCHEMA = re.compile(r"[a-z_][a-z0-9_]{0,62}")
# Not now(), which is the time at which the transaction began to wait for its lock.
_NOW = sa.text("SELECT CAST(extract(epoch FROM clock_timestamp()) AS float8)")
_TRANSACTION_ID = sa.text("SELECT CAST(pg_current_xact_id_if_assigned() AS text)")
_STATUS = sa.text("SELECT pg_xact_status(CAST(:id AS xid8))")
_SERVER = sa.text(
    "SELECT CAST(current_setting('server_version_num') AS int), current_setting('server_encoding')"
)
_MAY_CREATE = sa.text("SELECT has_database_privilege(current_database(), 'CREATE')")
_LOCK_ERRORS = ("40001", "40P01", "55P03")
"""SQLSTATE of a serialization failure, a deadlock and a lock timeout."""


def parse_url(text: str) -> sa.URL:
    """Return a database's URL, such as postgresql://user@host/name.

    Raises:
        ValueError: It is no such URL, or it holds a secret. The message never repeats a password.
    """
    form = "postgresql://USER@HOST/DATABASE"
    try:
        url = sa.make_url(text)
    except (sa.exc.ArgumentError, ValueError):
        raise ValueError(f"the URL of a store has the form {form}") from None
    if url.drivername not in SCHEMES:
        raise ValueError(f"a store is on {url.drivername!r}, not on {SCHEMES[0]}: use {form}")
    if url.password is not None or "password" in url.query:
        raise ValueError(
            "the URL of a store holds a password, which others could read: leave it out, and set "
            "PGPASSWORD or write it into ~/.pgpass"
        )
    if unknown := sorted(url.query.keys() - set(_PARAMETERS)):
        raise ValueError(
            f"the URL of a store has the parameter {unknown[0]!r}: use only "
            f"{', '.join(_PARAMETERS)}"
        )
    if not url.database:
        raise ValueError(f"the URL of a store names no database: use {form}")
    return url.set(drivername=SCHEMES[0])


def read_pointer(path: Path) -> tuple[sa.URL, str]:
    """Return the database's URL and the schema that a pointer names.

    Raises:
        NotARun: It is no pointer.
        StoreError: It cannot be read, or names no URL that can be used.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        url, schema = found["url"], found["schema"]
        if not (isinstance(url, str) and isinstance(schema, str) and _SCHEMA.fullmatch(schema)):
            raise ValueError
    except OSError as error:
        raise StoreError(f"{path} cannot be read ({error.strerror or error})") from error
    except (ValueError, TypeError, KeyError, RecursionError):
        raise NotARun(
            f'{path} is not a run: it must hold {{"url": "postgresql://...", "schema": "..."}}'
        ) from None
    try:
        return parse_url(url), schema
    except ValueError as error:
        raise StoreError(f"{path}: {error}") from None


def schema_for(path: Path, name: str | None) -> str:
    """Return the schema of a new run.

    Args:
        path: The run's pointer.
        name: A name by which other machines find the run. None: nobody else will have its schema.
    """
    slug = re.sub(r"[^a-z0-9]+", "_", (name or path.absolute().parent.name).lower()).strip("_")
    digits = secrets.token_hex(8)
    if name is not None:
        digits = hashlib.sha256(name.encode()).hexdigest()[:16]
    return f"pbt_{slug[:40]}_{digits}"


class PostgreSQL(database.Database):
    """Access to one schema of a PostgreSQL database. For the other arguments see `Database`.

    A transaction that lost its connection has changed nothing, and `wait_out` waits for the server.
    If the connection was lost during the commit, the server is asked what became of it. Threads
    may share a `PostgreSQL`, and it survives a fork.

    Args:
        path: The pointer.
        url: The database, see `parse_url`.
        schema: The run's schema.
        durable: Whether commits survive a power cut (synchronous_commit).

    Raises:
        StoreError: The driver is not installed.
    """

    def __init__(
        self,
        path: Path,
        url: sa.URL,
        schema: str,
        *,
        durable: bool = True,
        clock: Callable[[], float] | None = None,
        busy_timeout_s: float = BUSY_TIMEOUT_S,
        on_wait: Callable[[float, StoreBusy], None] | None = None,
    ) -> None:
        super().__init__(path, clock=clock, busy_timeout_s=busy_timeout_s, on_wait=on_wait)
        self.url, self.schema = url, schema
        self._place = f"{path} ({url.render_as_string()}, schema {schema})"
        self._has_answered = False
        self._engine = _engine(url)
        self._process = os.getpid()
        settings = [
            f'search_path = "{schema}"',
            f"lock_timeout = {max(1, round(1000 * busy_timeout_s))}",
            f"idle_in_transaction_session_timeout = '{_SUSPENDED_S}s'",
        ]
        settings_sql = "".join(f"SET LOCAL {setting}; " for setting in settings)
        self._begin_reading = f"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; {settings_sql}"
        # The advisory lock comes first. Then READ COMMITTED lets each statement see what the
        # holders before have committed, where REPEATABLE READ would show the time before the wait.
        digest = hashlib.sha256(schema.encode()).digest()
        key = int.from_bytes(digest[:8], "big", signed=True)
        synchronous = (
            "set_config('synchronous_commit', CASE current_setting('synchronous_commit') "
            "WHEN 'off' THEN 'on' ELSE current_setting('synchronous_commit') END, true)"
            if durable
            else "set_config('synchronous_commit', 'off', true)"
        )
        self._begin_writing = (
            f"BEGIN ISOLATION LEVEL READ COMMITTED; {settings_sql}"
            f"SELECT {synchronous}; SELECT pg_advisory_xact_lock({key})"
        )

    @contextlib.contextmanager
    def transaction(self, writing: bool = False) -> Iterator[sa.Connection]:
        """See `Database.transaction`."""
        with self._connection() as connection:
            try:
                begin = self._begin_writing if writing else self._begin_reading
                _execute(connection, begin)
                self._has_answered = True
                yield connection
                self._commit(connection, writing)
            except sa.exc.DBAPIError as error:
                raise self._explain(connection, error) from error
            except records.DamagedRow as error:
                raise self.damaged(str(error)) from error

    def check(self, connection: sa.Connection) -> None:
        """See `Database.check`: the server is not too old, and its texts are Unicode."""
        number, encoding = connection.execute(_SERVER).one()
        if number // 10_000 < OLDEST_SERVER:
            raise StoreError(
                f"{self._place}: the server is PostgreSQL {number // 10_000}; use {OLDEST_SERVER} "
                "or later"
            )
        if encoding != "UTF8":
            raise StoreError(
                f"{self._place}: the database's encoding is {encoding}; create one with "
                "CREATE DATABASE name ENCODING 'UTF8' TEMPLATE template0"
            )

    def prepare(self, connection: sa.Connection) -> None:
        """See `Database.prepare`: create the schema."""
        self.check(connection)
        connection.execute(sa.schema.CreateSchema(self.schema))
        origin = str(self.path.absolute()).encode("utf-8", "backslashreplace").decode()
        comment = sa.literal(f"pbt: {origin}").compile(
            dialect=connection.dialect, compile_kwargs={"literal_binds": True}
        )
        _execute(connection, f'COMMENT ON SCHEMA "{self.schema}" IS {comment}')

    def drop(self) -> None:
        """Drop the schema with all that it holds, if it is there."""
        with self.transaction(writing=True) as connection:
            connection.execute(sa.schema.DropSchema(self.schema, cascade=True, if_exists=True))

    def check_can_create(self) -> None:
        """Raise `StoreError` unless the database can be reached and a run can be created there."""
        with self.transaction() as connection:
            self.check(connection)
            if not connection.execute(_MAY_CREATE).scalar_one():
                raise ReadOnly(f"{self._place}: the user may not create schemas: grant CREATE")

    def damaged(self, problem: str) -> StoreError:
        """See `Database.damaged`."""
        problem = problem.encode("utf-8", "backslashreplace").decode()
        return StoreError(
            f"{self._place} is damaged ({problem}); nothing was changed. Dump the schema first "
            "(pg_dump --schema); then put back a backup of it"
        )

    def wait_out(self, error: StoreBusy, since_s: float) -> None:
        """See `Database.wait_out`. Pauses between attempts to reach the server get longer.

        Without `on_wait`, a server that has never answered is not waited for.
        """
        is_away = isinstance(error, StoreUnavailable)
        waited_s = time.monotonic() - since_s
        may_come_back = is_away and self._has_answered and waited_s < self._busy_timeout_s
        if self._on_wait is None and not may_come_back:
            raise error
        self._note_wait(error, since_s)
        if is_away:
            self._engine.dispose()
            # The first attempt follows at once: only the kept connection may be too old.
            time.sleep(min(_LONGEST_PAUSE_S, waited_s / 4) * random.uniform(0.5, 1.0))

    def close(self) -> None:
        """See `Database.close`."""
        self._engine.dispose()

    def _now(self, connection: sa.Connection) -> float:
        return float(connection.execute(_NOW).scalar_one())

    @contextlib.contextmanager
    def _connection(self) -> Iterator[sa.Connection]:
        if self._process != os.getpid():  # a fork must not use its parent's connections
            self._engine.dispose(close=False)
            self._process = os.getpid()
        try:
            connection = self._engine.connect()
        except sa.exc.DBAPIError as error:
            raise self._unavailable(error.orig) from error
        try:
            yield connection
        finally:
            with contextlib.suppress(sa.exc.DBAPIError):  # the server rolls back by itself
                connection.close()

    def _commit(self, connection: sa.Connection, writing: bool) -> None:
        """Commit; after a lost connection return only if the server did commit."""
        # None if nothing was written.
        transaction_id = connection.execute(_TRANSACTION_ID).scalar() if writing else None
        try:
            _execute(connection, "COMMIT")
        except sa.exc.DBAPIError as error:
            is_unsure = transaction_id is not None and _is_lost(connection, error)
            if not is_unsure or not self._has_committed(str(transaction_id), error.orig):
                raise

    def _has_committed(self, transaction_id: str, error: BaseException | None) -> bool:
        """Ask the server what became of a commit, as soon as it can be reached."""

        def ask() -> bool:
            with self.transaction() as connection:
                status = connection.execute(_STATUS, {"id": transaction_id}).scalar()
            if status == "in progress":  # the server has not noticed the lost connection
                raise self._unavailable(error)
            return bool(status == "committed")

        try:
            return self.patiently(ask)
        except StoreError as unsure:
            raise OutcomeUnknown(
                f"{self._place}: the connection was lost during a commit ({_line(unsure)})",
                "see to the server",
            ) from unsure

    def _explain(self, connection: sa.Connection, error: sa.exc.DBAPIError) -> StoreError:
        if _is_lost(connection, error):
            return self._unavailable(error.orig)
        code = getattr(error.orig, "sqlstate", None) or ""
        said = _line(error.orig)
        if code in _LOCK_ERRORS:
            return StoreBusy(
                f"{self._place} is locked by another session ({said})",
                "see who holds what (pg_locks, pg_stat_activity)",
            )
        if code in ("25006", "42501"):  # read-only transaction, insufficient privilege
            return ReadOnly(f"{self._place} cannot be written to ({said}): see to its permissions")
        if code == "53100":
            return StoreError(f"{self._place}: no space left on the server's disk ({said})")
        if code == "42P06":  # duplicate schema
            return RunExists(f"{self._place} exists already ({said}): resume it")
        if code in ("3F000", "42P01"):  # unknown schema or table
            return StoreError(f"{self._place} is not there ({said}): was the schema dropped?")
        if code in ("XX001", "XX002"):  # damaged data or index
            return self.damaged(said)
        return StoreError(f"{self._place}: {said}")

    def _unavailable(self, error: BaseException | None) -> StoreUnavailable:
        return StoreUnavailable(
            f"{self._place} cannot be reached ({_line(error)})",
            "see to the server, the network and the password (PGPASSWORD or ~/.pgpass)",
        )


@contextlib.contextmanager
def creating(
    path: Path, url: sa.URL, durable: bool, *, name: str | None = None, **settings: Any
) -> Iterator[PostgreSQL]:
    """Yield the database of a new run, to be filled in one transaction.

    At the end the pointer appears. If anything goes wrong before, the schema is dropped. A killed
    process may leave a schema that no pointer names. The schema of a run with a name is never
    dropped, since another machine may have found it.

    Args:
        path: The pointer to create.
        url: The database.
        durable: Whether the pointer and the commits survive a power cut.
        name: See `schema_for`. If the database has a run of this name, its pointer appears.
        settings: Other arguments of `PostgreSQL`.

    Raises:
        RunExists: `path` exists, before or after, and was left as it is. Or the database has a run
            of this name, and `path` is its pointer now.
    """
    schema = schema_for(path, name)
    made = PostgreSQL(path, url, schema, durable=durable, **settings)
    pointer = json.dumps({"url": url.render_as_string(), "schema": schema}, indent=1) + "\n"
    taken = None
    try:
        with database.creating(path, durable) as temporary:
            try:
                yield made
            except RunExists as error:
                taken = error
            with temporary.open("w", encoding="utf-8") as file:
                file.write(pointer)
                file.flush()
                if durable:
                    os.fsync(file.fileno())
        if taken is not None:
            raise taken
    except BaseException:
        is_named = name is not None
        with contextlib.suppress(OSError):
            is_named = is_named or path.read_text(encoding="utf-8") == pointer
        if not is_named:
            with contextlib.suppress(StoreError):
                made.drop()
        raise
    finally:
        made.close()


def _engine(url: sa.URL) -> sa.Engine:
    """Return an engine that leaves BEGIN and COMMIT to us. It connects when it is used."""
    connecting = {name: value for name, value in _CONNECTING.items() if name not in url.query}
    try:
        return sa.create_engine(
            url.set(drivername="postgresql+psycopg"),
            isolation_level="AUTOCOMMIT",
            pool_size=1,
            max_overflow=-1,  # for threads that share it
            use_native_hstore=False,
            connect_args={**connecting, "prepare_threshold": None},
        )
    except ModuleNotFoundError as error:
        raise StoreError(
            f"a store on PostgreSQL needs psycopg ({error}): "
            "pip install -c constraints.txt -e '.[postgres]'"
        ) from error


def _is_lost(connection: sa.Connection, error: sa.exc.DBAPIError) -> bool:
    """Return whether the connection is gone, and let nobody use it again."""
    if error.connection_invalidated or connection.invalidated:
        return True
    raw: Any = connection.connection.driver_connection
    if raw.closed:  # SQLAlchemy knows only some of the errors that end a connection
        connection.invalidate()
    return bool(raw.closed)


def _execute(connection: sa.Connection, statements: str) -> None:
    """Send several statements at once. They take no parameters."""
    connection.exec_driver_sql(statements, execution_options={"no_parameters": True})


def _line(error: BaseException | None) -> str:
    return " ".join(str(error).split())
