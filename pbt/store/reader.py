"""The reading half of a store.

Each method is one transaction, fetches everything and holds no lock after it returns. For the
meaning of what it returns see `pbt.records` and the contract in `pbt.store.store`.
"""

import os
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Self, TypeVar

import sqlalchemy as sa

from pbt.records import DamagedRow, Event, Member, Report, Version
from pbt.run import RunConfig
from pbt.store import places, schema, statements
from pbt.store.database import (
    BUSY_TIMEOUT_S,
    Database,
    NotARun,
    StoreBusy,
    StoreError,
    patient,
)
from pbt.store.schema import member_table, run_table, version_table

Record = TypeVar("Record")


class Reader:
    """A run's store, for reading. Made by `open`. Can be used as a context manager.

    Attributes:
        path: The file in the run's directory by which the run is found: the SQLite file, or the
            pointer to PostgreSQL.
        config: The run's settings as they were when the store was opened.
    """

    def __init__(self, database: Database, config: RunConfig) -> None:
        self._database = database
        self.path = database.path
        self.config = config
        self._known: dict[int, tuple[sa.Row[Any], Member]] = {}

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        durable: bool = True,
        clock: Callable[[], float] | None = None,
        busy_timeout_s: float = BUSY_TIMEOUT_S,
        on_wait: Callable[[float, StoreBusy], None] | None = None,
    ) -> Self:
        """Open a run.

        Args:
            path: The run's file, or the directory that holds it (see `pbt.store.places`).
            durable: Whether later commits survive a power cut (fsync). False is for toys and tests.
            clock: Returns the time in seconds, in place of the database's clock. For tests.
            busy_timeout_s: How long each transaction waits for another one, or for a server that
                has answered before, in seconds.
            on_wait: Called with the seconds waited so far and the error, after each
                `busy_timeout_s` in vain for another transaction and each attempt in vain to reach
                a server. Then the call goes on waiting. What it raises ends the wait. None: the
                call raises `StoreBusy` or `StoreUnavailable`.

        Raises:
            NotARun: There is no run at the given place.
            StoreBusy: The store cannot be used at the moment.
            StoreError: The run was written by other code, or is damaged. It is left as it is.
        """
        database = places.connect(
            Path(path),
            durable=durable,
            clock=clock,
            busy_timeout_s=busy_timeout_s,
            on_wait=on_wait,
        )
        return cls._of(database)

    @classmethod
    def open_named(cls, path: Path, url: str, name: str) -> Self:
        """Open a run of a PostgreSQL database by its name there, see `Store.create`.

        Args:
            path: The file that would lead to the run, which may be missing.
            url: The database.
            name: The run's name.

        Raises:
            NotARun: The database has no run of this name.
            ValueError: The URL cannot be used.
            StoreError: As for `open`.
        """
        return cls._of(places.connect_named(path, url, name))

    @classmethod
    def _of(cls, database: Database) -> Self:
        try:
            return cls(database, database.patiently(lambda: _read_config(database)))
        except BaseException:
            database.close()
            raise

    def close(self) -> None:
        """Close the store. No lock is held between calls anyway."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @patient
    def now(self) -> float:
        """Return the time by which leases expire: Unix time in seconds, by the database's clock."""
        with self._database.transaction() as connection:
            return self._database.now(connection)

    @patient
    def members(self) -> list[Member]:
        """Return all members at their last committed versions, by id."""
        with self._database.transaction() as connection:
            return statements.read_members(connection, self.config, self._known)

    @patient
    def member(self, member: int) -> Member:
        """Return one member at its last committed version; raise `KeyError` for an unknown id."""
        with self._database.transaction() as connection:
            if (found := statements.read_member(connection, self.config, member)) is None:
                raise KeyError(f"there is no member {member}")
        return found

    @patient
    def versions(self, member: int | None = None) -> list[Version]:
        """Return all committed versions of one member, or of all, in order of commit."""
        query = sa.select(version_table).order_by(version_table.c.id)
        if member is not None:
            query = query.where(version_table.c.member == member)
        versions = self._read(query, schema.to_version)
        if member is None:
            try:
                schema.check_versions(versions)
            except DamagedRow as error:
                raise self._database.damaged(str(error)) from error
        return versions

    @patient
    def version(self, member: int, version: int) -> Version:
        """Return one committed version; raise `KeyError` if there is none."""
        query = sa.select(version_table).where(
            version_table.c.member == member, version_table.c.version == version
        )
        if not (found := self._read(query, schema.to_version)):
            raise KeyError(f"member {member} has no version {version}")
        return found[0]

    @patient
    def previous_version(self, member: int, before: int) -> Version | None:
        """Return a member's newest version older than `before` that has a checkpoint, or None.

        A worker restores it if the checkpoint of `before` cannot be read. If this one cannot be
        read either, the worker calls the method again with its version.
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
        found = self._read(query, schema.to_version)
        return found[0] if found else None

    @patient
    def reports(
        self, after_id: int = 0, damaged: list[str] | None = None
    ) -> list[tuple[int, Report]]:
        """Return the reports after `after_id` with their ids, in order of commit.

        Args:
            after_id: Id of the last report that is known.
            damaged: List to which a line is added for each damaged row, which is then left out.
                Without it, a damaged row raises `StoreError`.
        """
        query = _after(schema.report_table, after_id)
        return self._read(
            query, lambda row, config: (row.id, schema.to_report(row, config)), damaged
        )

    @patient
    def events(self, after_id: int = 0, damaged: list[str] | None = None) -> list[Event]:
        """Return the events after `after_id`, in order of commit.

        Args:
            after_id: Id of the last event that is known.
            damaged: As for `reports`.
        """
        return self._read(_after(schema.event_table, after_id), schema.to_event, damaged)

    @patient
    def identity(self) -> dict[str, Any]:
        """Return what tells this run from all others and never changes, see `checkpoint.mark`."""
        with self._database.transaction() as connection:
            created_s = connection.execute(sa.select(run_table.c.created_s)).scalar_one()
        seed, population = self.config.seed, self.config.population
        return {"created_s": created_s, "seed": seed, "population": population}

    @patient
    def owners(self) -> set[str]:
        """Return everyone who is recorded as holding a member. Some may be gone."""
        with self._database.transaction() as connection:
            return statements.read_owners(connection)

    @patient
    def owners_and_versions(self, members: Collection[int]) -> tuple[set[str], dict[int, int]]:
        """Return what `owners` does, and the committed versions of the given members, by id."""
        with self._database.transaction() as connection:
            versions = statements.read_versions(connection, members) if members else {}
            return statements.read_owners(connection), versions

    @patient
    def unfinished(self) -> list[Member]:
        """Return the members that may go on, see `records.unfinished`.

        After `claim` returned None, an empty list means that the run is over. Otherwise another
        worker holds a member or members rest after crashes, so wait and try again.
        """
        with self._database.transaction() as connection:
            return statements.unfinished(connection, self.config)

    @patient
    def all_crash_alike(self) -> bool:
        """Return whether what stops the members is nothing of their own.

        It is so if each member that may go on crashed at least `max_attempts` + 2 times in a row,
        and none of them trained a slice since any of them first crashed.
        """
        with self._database.transaction() as connection:
            members = statements.unfinished(connection, self.config)
            tried = [member.attempts - (member.owner is not None) for member in members]
            return min(tried, default=0) >= self.config.max_attempts + 2 and not any(
                statements.is_own_fault(connection, self.config, member) for member in members
            )

    @patient
    def unneeded_checkpoints(self, names: Collection[str]) -> set[str]:
        """Return those of some existing checkpoints that no row will ever need.

        These are checkpoints that a version named and that are not kept any more, and checkpoints
        of members that nobody holds: what such a member's last holder did not commit, nobody can.

        Args:
            names: Names of checkpoints that were published before this call.
        """
        unneeded = set()
        is_held = sa.select(member_table.c.id).where(member_table.c.owner.is_not(None))
        with self._database.transaction() as connection:
            held = set(connection.execute(is_held).scalars())
            for name in set(names) - schema.referenced(connection, self._database.now(connection)):
                member, version = map(int, name.partition("-")[0].split("/"))
                committed = sa.select(version_table.c.checkpoint).where(
                    version_table.c.member == member, version_table.c.version == version
                )
                if member not in held or connection.execute(committed).scalar() == name:
                    unneeded.add(name)
        return unneeded

    @patient
    def referenced_checkpoints(self) -> set[str]:
        """Return the names of the checkpoints to keep.

        These are each member's newest two, or the newest once all members are finished, that of the
        best score ever, and the pinned ones.
        """
        with self._database.transaction() as connection:
            return schema.referenced(connection, self._database.now(connection))

    def _read(
        self,
        query: sa.Select[Any],
        to_record: Callable[[sa.Row[Any], RunConfig], Record],
        damaged: list[str] | None = None,
    ) -> list[Record]:
        with self._database.transaction() as connection:
            rows = connection.execute(query).all()
        found = []
        for row in rows:  # without a lock, since a long run has many
            try:
                found.append(to_record(row, self.config))
            except DamagedRow as error:
                if damaged is None:
                    raise self._database.damaged(str(error)) from error
                damaged.append(str(error))
        return found


def _after(table: sa.Table, after_id: int) -> sa.Select[Any]:
    return sa.select(table).where(table.c.id > after_id).order_by(table.c.id)


def _read_config(database: Database) -> RunConfig:
    """Return the settings of a run after its database was checked; for the errors see `open`."""
    path = database.path
    with database.transaction() as connection:
        if not sa.inspect(connection).has_table(run_table.name):
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
        schema.check_tables(connection)
        text = connection.execute(sa.select(run_table.c.config)).scalar_one()
    try:
        return schema.to_config(text)
    except (ValueError, TypeError, RecursionError) as error:
        raise StoreError(f"{path} holds a configuration that is not valid: {error}") from error
