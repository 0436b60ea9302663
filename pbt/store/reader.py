"""What is written in a store: all that pages, curves and tables are made of.

Every method is one transaction, fetches everything and holds no lock after it returns. What the
numbers mean is `pbt.store`'s contract.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import sqlalchemy as sa

from pbt import records
from pbt.records import Event, Member, Report, Version
from pbt.run import RunConfig
from pbt.store import schema, statements
from pbt.store.database import BUSY_TIMEOUT_S, Database, NotARun, StoreError
from pbt.store.schema import run_table, version_table

FILE_NAME = "run.sqlite3"


class Reader:
    """A run's store, to look at. Made by `open`; usable as a context manager.

    Attributes:
        path: the SQLite file.
        config: the run's settings as they were when the store was opened.
    """

    def __init__(self, database: Database, config: RunConfig) -> None:
        """Use `open`."""
        self._database = database
        self.path = database.path
        self.config = config

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        durable: bool = True,
        clock: Callable[[], float] | None = None,
        busy_timeout_s: float = BUSY_TIMEOUT_S,
    ) -> Self:
        """Open a run.

        Args:
            path: its file, or the directory that holds `FILE_NAME`.
            durable: False leaves out every fsync of what is written later: for toys and tests.
            clock: seconds, instead of the database's clock: for tests.
            busy_timeout_s: how long each transaction waits for other processes'.

        Raises:
            NotARun: nothing is there, or something else than a run.
            StoreError: it was written by newer code, or is damaged. It is left as it is.
        """
        path = Path(path)
        path = path / FILE_NAME if path.is_dir() else path
        # Only look at it from outside: closing a file that SQLite has open elsewhere in this
        # process would drop its locks (https://www.sqlite.org/howtocorrupt.html, 2.2).
        if not path.is_file():
            raise NotARun(f"{path} does not exist: give the directory of a run, or start a new one")
        database = Database(path, durable=durable, clock=clock, busy_timeout_s=busy_timeout_s)
        with database.transaction() as connection:
            if path.stat().st_size == 0 or not sa.inspect(connection).has_table(run_table.name):
                raise NotARun(f"{path} is not a run: give the directory of a run, or a new one")
            found = connection.execute(sa.select(run_table.c.schema)).scalar()
            if not isinstance(found, int):
                raise NotARun(f"{path} is not a run: its table run is empty")
            if found != schema.VERSION:
                newer = found > schema.VERSION
                raise StoreError(
                    f"{path} was written by {'newer' if newer else 'older'} code (schema {found}; "
                    f"this code reads {schema.VERSION}): "
                    + ("update the code" if newer else "use the code that wrote it")
                )
            database.check(connection)
            text = connection.execute(sa.select(run_table.c.config)).scalar_one()
        try:
            config = RunConfig.from_json(json.loads(text))
        except ValueError as error:
            raise StoreError(f"{path} holds a configuration that is not valid: {error}") from error
        return cls(database, config)

    def close(self) -> None:
        """Say that the store is not used any more. Nothing is held between calls anyway."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def now(self) -> float:
        """The clock by which leases expire: seconds since 1970 on the database's machine."""
        with self._database.transaction() as connection:
            return self._database.now(connection)

    def members(self) -> list[Member]:
        """All members at their last committed versions, by id."""
        with self._database.transaction() as connection:
            return statements.read_members(connection, self.config)

    def member(self, member: int) -> Member:
        """One member at its last committed version. Raises `KeyError` for an unknown id."""
        with self._database.transaction() as connection:
            if (found := statements.read_member(connection, self.config, member)) is None:
                raise KeyError(f"there is no member {member}")
        return found

    def versions(self, member: int | None = None) -> list[Version]:
        """All committed versions, of one member or of all, in the order of their commits."""
        query = sa.select(version_table).order_by(version_table.c.id)
        if member is not None:
            query = query.where(version_table.c.member == member)
        return self._versions(query)

    def version(self, member: int, version: int) -> Version:
        """One committed version. Raises `KeyError` when there is none."""
        query = sa.select(version_table).where(
            version_table.c.member == member, version_table.c.version == version
        )
        if not (found := self._versions(query)):
            raise KeyError(f"member {member} has no version {version}")
        return found[0]

    def previous_version(self, member: int, before: int) -> Version | None:
        """The newest version of a member older than `before` that has a checkpoint.

        What a worker falls back to (kind "restore") when the checkpoint of `before` is damaged;
        called again with the result's version if that one is damaged or gone as well. None: there
        is nothing left, the member has failed.
        """
        query = (
            sa.select(version_table)
            .where(
                version_table.c.member == member,
                version_table.c.version < before,
                version_table.c.checkpoint.is_not(None),
            )
            .order_by(version_table.c.version.desc())
            .limit(1)
        )
        return next(iter(self._versions(query)), None)

    def reports(self, after_id: int = 0) -> list[tuple[int, Report]]:
        """Reports with their ids, in the order of their commits, from the one after `after_id`."""
        table = schema.report_table
        query = sa.select(table).where(table.c.id > after_id).order_by(table.c.id)
        with self._database.transaction() as connection:
            rows = connection.execute(query).all()
        return [(row.id, schema.to_report(row)) for row in rows]

    def events(self, after_id: int = 0) -> list[Event]:
        """Events in the order of their commits, from the one after `after_id`."""
        table = schema.event_table
        query = sa.select(table).where(table.c.id > after_id).order_by(table.c.id)
        with self._database.transaction() as connection:
            rows = connection.execute(query).all()
        return [schema.to_event(row) for row in rows]

    def owners(self) -> set[str]:
        """Everybody who is written down as holding a member: whom to look for among the dead."""
        return {member.owner for member in self.members() if member.owner is not None}

    def unfinished(self) -> list[Member]:
        """Members that somebody trains or that can still be claimed, now or later.

        When `claim` returns None: if this is empty, the run is over, and members with steps left
        are dead for good; else wait, somebody else is at work.
        """
        return records.unfinished(self.members(), self.config)

    def referenced_checkpoints(self) -> set[str]:
        """What must not be deleted: the newest 2 of each member, the best ever, and live pins."""
        with self._database.transaction() as connection:
            return schema.referenced(connection, self._database.now(connection))

    def _versions(self, query: sa.Select[Any]) -> list[Version]:
        with self._database.transaction() as connection:
            rows = connection.execute(query).all()
        return [schema.to_version(row) for row in rows]
