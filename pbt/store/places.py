"""Where the store of a run is: in a SQLite file, or where a pointer to PostgreSQL says."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pbt.store import database, postgres, sqlite
from pbt.store.database import BUSY_TIMEOUT_S, Database, NotARun, StoreBusy, StoreError

FILE_NAME = "run.sqlite3"
"""The store of a run on SQLite."""
POINTER_NAME = "run.postgresql"
"""The file that says where the store of a run on PostgreSQL is."""
FILE_NAMES = (FILE_NAME, POINTER_NAME)


def file_for(run_dir: Path, url: str | None) -> Path:
    """Return the file to create for a run's store.

    Args:
        run_dir: The run's directory.
        url: The PostgreSQL database that holds the store; None for SQLite.
    """
    return run_dir / (FILE_NAME if url is None else POINTER_NAME)


def find(run_dir: Path) -> Path | None:
    """Return the file by which a directory is a run; None if it is no run.

    Raises:
        StoreError: The directory has two stores.
    """
    found = [run_dir / name for name in FILE_NAMES if (run_dir / name).exists()]
    if len(found) > 1:
        raise StoreError(
            f"{run_dir} has two stores, {' and '.join(FILE_NAMES)}: move away the one that is not "
            "the run's"
        )
    return found[0] if found else None


def check_url(url: str | None) -> None:
    """Raise `ValueError` unless a run can be stored there; None is SQLite. Connects to nothing."""
    if url is not None:
        postgres.parse_url(url)


def check_same(path: Path, url: str) -> None:
    """Raise `ValueError` unless the run of a store's file is kept in this PostgreSQL database."""
    wanted = postgres.parse_url(url)
    found = postgres.read_pointer(path)[0] if _is_pointer(path) else None
    if found != wanted:
        where = "in that file" if found is None else f"in {found.render_as_string()}"
        raise ValueError(
            f"{path}: the run is stored {where} and not in {wanted.render_as_string()}: leave the "
            "URL out"
        )


def check_can_create(path: Path, url: str | None) -> None:
    """Raise `StoreError` unless the database of a new run can be reached and written to."""
    if url is not None:
        found = postgres.PostgreSQL(path, postgres.parse_url(url), "public")
        try:
            found.check_can_create()
        finally:
            found.close()


def connect_named(path: Path, url: str, name: str) -> Database:
    """Return the PostgreSQL database of a run by its name there, which needs no pointer.

    Args:
        path: The run's pointer, for messages.
        url: The database.
        name: The run's name, see `creating`.

    Raises:
        ValueError: The URL cannot be used.
        StoreError: The driver is not installed.
    """
    return postgres.PostgreSQL(path, postgres.parse_url(url), postgres.schema_for(path, name))


def connect(
    path: Path,
    *,
    durable: bool = True,
    clock: Callable[[], float] | None = None,
    busy_timeout_s: float = BUSY_TIMEOUT_S,
    on_wait: Callable[[float, StoreBusy], None] | None = None,
) -> Database:
    """Return the database of a run.

    Args:
        path: The run's file, or its directory.
        durable: Whether commits survive a power cut.
        clock: As for `Database`.
        busy_timeout_s: As for `Database`.
        on_wait: As for `Database`.

    Raises:
        NotARun: There is no run.
        StoreError: The run's pointer cannot be used.
    """
    if path.is_dir():
        path = find(path) or path / FILE_NAME
    # Do not open the file to look at it. Closing it would drop the locks that SQLite holds on it
    # elsewhere in this process (https://www.sqlite.org/howtocorrupt.html, 2.2).
    if not path.is_file():
        raise NotARun(f"{path} does not exist: give the directory of a run, or start a new one")
    settings: Any = {
        "durable": durable,
        "clock": clock,
        "busy_timeout_s": busy_timeout_s,
        "on_wait": on_wait,
    }
    if _is_pointer(path):
        return postgres.PostgreSQL(path, *postgres.read_pointer(path), **settings)
    if path.stat().st_size == 0:
        raise NotARun(f"{path} is not a run: give the directory of a run, or a new one")
    return sqlite.SQLite(path, **settings)


@contextlib.contextmanager
def creating(
    path: Path,
    url: str | None,
    *,
    durable: bool,
    clock: Callable[[], float] | None,
    name: str | None = None,
) -> Iterator[Database]:
    """Yield the database of a new run, to be filled. Its file appears at the end, or never.

    Args:
        path: The file to create.
        url: The PostgreSQL database that holds the store; None for SQLite.
        durable: Whether commits survive a power cut.
        clock: As for `Database`.
        name: A name by which other machines find the run in the PostgreSQL database.

    Raises:
        RunExists: `path` exists, before or after, and was left as it is. Or the database has a run
            of this name, and `path` is its pointer now.
        ValueError: The URL cannot be used.
    """
    if (url is not None) != _is_pointer(path):  # by which `connect` will know it
        raise ValueError(f"{path} is no name for this store: use {file_for(path.parent, url)}")
    if url is not None:
        wanted = postgres.parse_url(url)
        with postgres.creating(path, wanted, durable, name=name, clock=clock) as made:
            yield made
        return
    with database.creating(path, durable) as temporary:
        filled = sqlite.SQLite(temporary, durable=durable, clock=clock)
        yield filled
        filled.close()


def _is_pointer(path: Path) -> bool:
    return path.suffix == Path(POINTER_NAME).suffix
