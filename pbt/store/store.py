"""The store: the one place where a run is kept. Tables, curves and pages are made from it.

This is what a store promises. Any other implementation must promise it too.

- **Transactions.** Each method is one transaction. If a process is killed, its last call has taken
  effect completely or not at all. Writing transactions run one after another.
- **Waiting.** A call waits for a locked database or a lost server, see `Reader.open`. It then takes
  effect once, also if the connection was lost while it was committed.
- **Leases and fences.** A lease is the right to train a member. `claim` records its owner, the time
  at which it expires, and its fence, a number that is higher than all earlier ones of the member.
  Every later write names the fence. If another worker has claimed the member since, the write
  changes nothing and raises `LostLease`. The fence alone keeps the data correct. The expiry only
  saves two workers from training the same member.
- **Clock.** Leases and pins expire by the database's clock. A lease that ends later than any lease
  can last also counts as expired, because the clock must have been set back.
- **Versions.** A commit that has a `kind` makes the member's next version, one higher than the
  last. A version of kind "slice" has exactly one report, and no other version has any. Committed
  versions, reports and events are never changed or deleted.
- **Numbers.** NaN and infinity are refused with `ValueError`.
- **Attempts.** The store counts the attempts at each version. `claim` adds one at once, so that it
  counts even if the worker is killed. `release` takes it off again. A commit of a new version
  resets the count to 0, or to 1 if the worker keeps the lease. A takeover counts only if the holder
  is known to be dead, because a slow worker whose lease expired is no fault of the member.
- **Rests.** After a crash a member rests, and longer after each crash in a row. So a fault that
  passes in a minute fails nobody. A member whose worker was killed rests from the second time on.
- **Failed and lost members.** A member that has used up `max_attempts` is marked failed if the
  fault is its own: if another member has trained a slice since the first of these crashes, or if no
  other member may go on. Otherwise it goes on resting and trying, see `Reader.all_crash_alike`. If
  the run exploits and another member can be copied, a diverged or failed member may be claimed in
  order to replace it by a copy. It then has `max_attempts` new attempts. A failed member that uses
  these up as well is lost.
- **New launchers.** If a launcher finds nobody else at work, `forgive` gives failed and lost
  members fresh attempts, since what stopped them may have been mended.

The same statements run on SQLite and PostgreSQL, see `pbt.store.database` for what differs. Threads
may share a `Store`. Each process opens its own. Reading methods fetch everything and hold no lock
after they return.
"""

import functools
import json
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import sqlalchemy as sa

from pbt import records
from pbt.records import Event, Lease, Member, Report, VersionKind
from pbt.run import RunConfig
from pbt.store import leases, places, schema, statements, transitions
from pbt.store.database import Database, patient
from pbt.store.reader import Reader
from pbt.store.schema import member_table, named_lease_table, pin_table, run_table

_ONE_ATTEMPT_LESS = sa.case((member_table.c.attempts > 0, member_table.c.attempts - 1), else_=0)


class Store(Reader):
    """A run's store. Made by `create` or `open`; reads as `Reader` does.

    A worker calls it like this:

        lease = store.claim(owner, residents)        # None: nothing to do now, see `unfinished`
        store.renew(lease)                           # while training makes progress
        lease = store.commit(lease, member, kind="slice", report=report)
        lease = store.commit(lease, member, kind="exploit", events=[...], release=True)
    """

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        config: RunConfig,
        members: Sequence[Member],
        *,
        events: Sequence[Event] = (),
        url: str | None = None,
        name: str | None = None,
        durable: bool = True,
        clock: Callable[[], float] | None = None,
    ) -> "Store":
        """Create a run. Its file appears complete, or not at all.

        If several processes create the same run at the same time, exactly one succeeds.

        Args:
            path: The file to make, normally `places.file_for` the run's existing directory.
            config: The run's settings.
            members: The initial population at version 0, one per id in range(config.population).
            events: Events to write with it, of kind "forked".
            url: The PostgreSQL database that holds the store, without a password; None for SQLite.
            name: A name by which other machines find the run in that database.
            durable: Whether each commit survives a power cut (fsync). False is for toys and tests.
                A killed process loses nothing either way.
            clock: Returns the time in seconds, in place of the database's clock. For tests.

        Raises:
            RunExists: The file exists already, or the database has a run of this name. The file
                then leads to it.
            StoreError: The database cannot be reached or written to.
            ValueError: The members do not fit the settings, or the URL cannot be used.
            OSError: The directory cannot be written.
        """
        if sorted(member.id for member in members) != list(range(config.population)):
            raise ValueError(f"members must have the ids 0 to {config.population - 1}, once each")
        for member in members:
            if member.version != 0:
                raise ValueError(f"member {member.id} begins at version {member.version}, not 0")
            transitions.check_member(member, config)
        path = Path(path)
        with places.creating(path, url, durable=durable, clock=clock, name=name) as database:
            database.patiently(lambda: _fill(database, config, members, events))
        return cls.open(path, durable=durable, clock=clock)

    # Leases.

    @patient
    def claim(
        self,
        owner: str,
        residents: Mapping[int, int] | None = None,
        dead_owners: Collection[str] = (),
        live_owners: Collection[str] = (),
        lease_seconds: float | None = None,
    ) -> Lease | None:
        """Claim a member to train, and begin its lease.

        A member is free if it may go on, does not rest, and nobody holds an unexpired lease on it.
        `pbt.store.transitions.choose` picks one of the free members. Writes a "takeover" event if
        the member was not released. Members whose workers were killed again rest, or are failed.

        Args:
            owner: The claiming process. It may hold several members.
            residents: Version of each task that the caller has in memory, by member.
            dead_owners: Owners (see `owners`) known to be gone. Their leases count as expired.
            live_owners: Owners known to be alive and not stopped. Their leases count as expired
                only three times `lease_seconds` after they expired.
            lease_seconds: How long the lease lasts, in seconds. None: as long as the run says.

        Returns:
            The lease, with the member as committed; None if no member is free.
        """
        with self._database.transaction(writing=True) as connection:
            now = self._database.now(connection)
            for member in statements.killed(connection, self.config, dead_owners):
                self._end_killed(connection, member, now, dead_owners)
            circumstances = statements.Circumstances(now, dead_owners, live_owners)
            ready = functools.partial(
                statements.ready_members, connection, self.config, circumstances
            )
            first = next(iter(ready()), None)
            in_memory = ready(residents) if first is not None and residents else []
            chosen = transitions.choose(first, in_memory, residents or {}, self.config)
            before = (
                statements.read_member(connection, self.config, chosen)
                if chosen is not None
                else None
            )
            if before is None:
                return None
            # A worker whose lease lapsed may have been slow, so only a death counts.
            is_suspect = before.owner is not None and before.owner not in dead_owners
            late_s = now - (before.lease_expires_s or now)
            if is_suspect and self._database.lapsed_while_locked(late_s):
                return None  # its owner waited too, and gets its turn first
            attempts = max(1, before.attempts + (not is_suspect))
            if before.state == "failed":  # with more attempts it would be read as lost
                attempts = min(attempts, self.config.max_attempts)
            claimed = replace(
                before,
                owner=owner,
                fence=before.fence + 1,
                lease_expires_s=now + leases.lease_s(lease_seconds, self.config),
                attempts=attempts,
            )
            statements.update_member(
                connection,
                claimed.id,
                owner=claimed.owner,
                fence=claimed.fence,
                lease_expires_s=claimed.lease_expires_s,
                attempts=claimed.attempts,
            )
            if before.owner is not None:
                last = None if is_suspect else statements.last_report(connection)
                event = statements.takeover(before, owner, now, dead_owners, last)
                schema.insert_events(connection, [event], now)
            return Lease(claimed, owner, claimed.fence)

    @patient
    def renew(self, lease: Lease, lease_seconds: float | None = None) -> None:
        """Let the lease expire a full `lease_seconds` from now; None: as long as the run says.

        Call it when training made progress, never from a timer. An expired lease can be renewed as
        long as nobody else has claimed the member.

        Raises:
            LostLease: Another worker has claimed the member.
        """
        with self._database.transaction(writing=True) as connection:
            lasts_s = leases.lease_s(lease_seconds, self.config)
            expires = self._database.now(connection) + lasts_s
            statements.update_fenced(connection, self.config, lease, lease_expires_s=expires)

    @patient
    def release(self, lease: Lease) -> None:
        """Give a member back as it was last committed. This is no attempt, unlike `crash`.

        Raises:
            LostLease: Another worker has claimed the member.
        """
        with self._database.transaction(writing=True) as connection:
            statements.update_fenced(
                connection,
                self.config,
                lease,
                owner=None,
                lease_expires_s=None,
                attempts=_ONE_ATTEMPT_LESS,
            )

    @patient
    def crash(self, lease: Lease, error: str) -> bool:
        """Give a member back after an error, with a "crashed" event. The attempt counts.

        The member rests. If it was the member's last attempt, and the fault is its own, the member
        is marked failed or lost.

        Args:
            lease: The lease to end.
            error: The traceback.

        Returns:
            Whether the member is failed or lost now.

        Raises:
            LostLease: Another worker has claimed the member.
        """
        error = schema.printable(error)
        with self._database.transaction(writing=True) as connection:
            now = self._database.now(connection)
            member = statements.update_fenced(connection, self.config, lease, error=error)
            details = {
                "attempts": member.attempts,
                "error": error,
                "owner": lease.owner,
                "last_report": statements.last_report(connection),
            }
            schema.insert_events(connection, [records.event_of("crashed", member, details)], now)
            return statements.end_attempt(connection, self.config, member, now, error, lease.owner)

    @patient
    def forgive(
        self, dead_owners: Collection[str] = (), live_owners: Collection[str] = ()
    ) -> list[int]:
        """Give the members of a run that nobody works on any more fresh attempts.

        A new launcher calls this once, before it asks whether the run is over. Members that were
        held by dead owners are freed, with a "takeover" event, and the attempt does not count: a
        member that crashes kills its worker only, and the launcher survives. If the launcher is
        gone too, no member was the cause.

        If nobody who may be alive holds a member, those that failed, were lost or rest after
        crashes become active with no attempts used up, with a "revived" event. Members whose
        checkpoints cannot be read will fail again when they are claimed.

        Args:
            dead_owners: Owners (see `owners`) known to be gone.
            live_owners: Owners known to be alive, whether or not their leases expired.

        Returns:
            Ids of the members that were freed or revived.
        """
        with self._database.transaction(writing=True) as connection:
            now = self._database.now(connection)
            statements.create_indexes(connection, self.config)
            changed = set()
            circumstances = statements.Circumstances(now, dead_owners, live_owners)
            is_alone = statements.is_alone(connection, self.config, circumstances)
            for member in statements.read_members(connection, self.config):
                if member.owner in dead_owners:
                    events = [statements.takeover(member, None, now, dead_owners)]
                    member = replace(
                        member,
                        owner=None,
                        lease_expires_s=None,
                        fence=member.fence + 1,
                        attempts=max(0, member.attempts - 1),
                    )
                else:
                    events = []
                is_stopped = member.state in ("failed", "lost") or member.attempts > 0
                if is_alone and is_stopped and member.agent_steps < self.config.total_steps:
                    details = {"state": member.state, "attempts": member.attempts}
                    events.append(records.event_of("revived", member, details))
                    if member.state != "diverged":
                        member = replace(member, state="active")
                    member = replace(member, owner=None, lease_expires_s=None, attempts=0)
                if events:
                    statements.update_member(
                        connection,
                        member.id,
                        state=member.state,
                        owner=member.owner,
                        lease_expires_s=member.lease_expires_s,
                        fence=member.fence,
                        attempts=member.attempts,
                    )
                    schema.insert_events(connection, events, now)
                    changed.add(member.id)
        return sorted(changed)

    @patient
    def commit(
        self,
        lease: Lease,
        member: Member,
        *,
        kind: VersionKind | None = None,
        report: Report | None = None,
        events: Sequence[Event] = (),
        release: bool = False,
        lease_seconds: float | None = None,
    ) -> Lease:
        """Write a member's new state, its report and its events, and renew or end the lease.

        Args:
            lease: The lease. Its `member` is the state before.
            member: The new state. Owner, fence, expiry, attempts and error are ignored, because the
                store keeps them itself.
            kind: Kind of the new version `lease.member.version + 1`, which needs a checkpoint of
                its own. None commits no new version: then window, score, state and last ready steps
                may change, but nothing that a checkpoint holds.
            report: The report of a slice; None for any other kind.
            events: Decisions made on the way, of this member at its old or new version.
            release: Whether to give the member back in the same transaction.
            lease_seconds: How long the lease lasts from now on, as for `renew`.

        Returns:
            The lease to go on with. Its `member` is what is now committed.

        Raises:
            LostLease: Another worker has claimed the member. Nothing was written.
            ValueError: The new state cannot follow the old one, or holds a number that is not
                finite. Nothing was written.
        """
        transitions.check_member(member, self.config)
        transitions.check_step(lease.member, member, kind, report, events)
        values = schema.member_values(member)
        if kind is not None:
            values |= {"attempts": 0 if release else 1, "error": None}
        elif member.state != lease.member.state:
            values["attempts"] = 0 if release else 1  # replacing it has attempts of its own
        elif release:
            values["attempts"] = _ONE_ATTEMPT_LESS
        with self._database.transaction(writing=True) as connection:
            now = self._database.now(connection)
            lasts_s = leases.lease_s(lease_seconds, self.config)
            values |= {
                "owner": None if release else lease.owner,
                "lease_expires_s": None if release else now + lasts_s,
            }
            committed = statements.update_fenced(connection, self.config, lease, **values)
            if kind is not None:
                statements.check_parent(connection, member, kind)
                valid = kind == "slice" and records.has_valid_window(member, self.config)
                score = member.window_mean if valid else None
                schema.insert_version(connection, member, kind, score, now)
            if report is not None:
                schema.insert_report(connection, report, now)
            schema.insert_events(connection, events, now)
        return Lease(committed, lease.owner, lease.fence)

    # Checkpoints.

    @patient
    def pin(self, checkpoint: str, owner: str, seconds: float) -> bool:
        """Keep a checkpoint from collection while the owner reads it.

        Returns:
            Whether the checkpoint is kept. If False, no row named it any more and it may be half
            deleted, so choose another one. A name that is dropped never comes back.
        """
        with self._database.transaction(writing=True) as connection:
            now = self._database.now(connection)
            connection.execute(pin_table.delete().where(pin_table.c.expires_s <= now))
            if not statements.is_kept(connection, checkpoint, now):
                return False
            statements.delete_pin(connection, checkpoint, owner)
            connection.execute(
                pin_table.insert().values(
                    checkpoint=checkpoint, owner=owner, expires_s=now + seconds
                )
            )
        return True

    @patient
    def unpin(self, checkpoint: str, owner: str) -> None:
        """End a pin. Does nothing if there is none."""
        with self._database.transaction(writing=True) as connection:
            statements.delete_pin(connection, checkpoint, owner)

    # Named leases, and the run itself.

    @patient
    def acquire(
        self, name: str, owner: str, seconds: float, dead_owners: Collection[str] = ()
    ) -> bool:
        """Take or renew a lease that is no member's, such as the projector's.

        Args:
            name: Any name.
            owner: The process that wants the lease.
            seconds: How long the lease lasts.
            dead_owners: Owners known to be gone. Their leases count as expired.

        Returns:
            Whether the owner has the lease now.
        """
        named = named_lease_table.c.name == name

        def is_taken(connection: sa.Connection, now: float) -> bool:
            row = connection.execute(sa.select(named_lease_table).where(named)).first()
            # An expiry farther ahead than the lease lasts means that the clock was set back.
            return (
                row is not None
                and row.owner not in (owner, *dead_owners)
                and isinstance(row.expires_s, float)  # unless a bit flipped
                and now < row.expires_s <= now + seconds + leases.CLOCK_SLACK_S
            )

        with self._database.transaction() as connection:  # so many may ask without the write lock
            if is_taken(connection, self._database.now(connection)):
                return False
        with self._database.transaction(writing=True) as connection:
            now = self._database.now(connection)
            if is_taken(connection, now):
                return False
            connection.execute(named_lease_table.delete().where(named))
            connection.execute(
                named_lease_table.insert().values(name=name, owner=owner, expires_s=now + seconds)
            )
        return True

    @patient
    def holder(self, name: str) -> str | None:
        """Return the owner of a named lease, which may have lapsed; None if nobody has it."""
        with self._database.transaction() as connection:
            query = sa.select(named_lease_table.c.owner).where(named_lease_table.c.name == name)
            found = connection.execute(query).scalar()
        return None if found is None else str(found)

    @patient
    def give_up(self, name: str, owner: str) -> None:
        """End a named lease if the owner has it."""
        with self._database.transaction(writing=True) as connection:
            connection.execute(
                named_lease_table.delete().where(
                    named_lease_table.c.name == name, named_lease_table.c.owner == owner
                )
            )

    @patient
    def extend(self, total_steps: int) -> None:
        """Raise the run's `total_steps`, the only setting that may change in a resumed run.

        Finished members become active again, with an "extended" event each. Workers that have the
        store open still train to the old total. Workers that open it later train to the new one.

        Args:
            total_steps: Agent steps of each member.

        Raises:
            ValueError: The total is less than the run's, or is not valid.
        """
        with self._database.transaction(writing=True) as connection:
            now = self._database.now(connection)
            # Another launcher may have extended the run since this store was opened.
            stored = connection.execute(sa.select(run_table.c.config)).scalar_one()
            before = RunConfig.from_json(json.loads(stored)).total_steps
            if total_steps < before:
                raise ValueError(
                    f"total_steps {total_steps} is less than the run's {before}: steps cannot be "
                    "taken back; use more, or fork the run"
                )
            config = replace(self.config, total_steps=total_steps)
            text = schema.dumps(config.to_json(), "the run's configuration")
            connection.execute(run_table.update().values(config=text))
            details = {"total_steps_before": before, "total_steps": total_steps}
            for member in statements.read_members(connection, self.config):
                if member.state == "finished" and member.agent_steps < total_steps:
                    statements.update_member(connection, member.id, state="active")
                    event = records.event_of("extended", member, details)
                    schema.insert_events(connection, [event], now)
        self.config = config

    def _end_killed(
        self, connection: sa.Connection, member: Member, now: float, dead_owners: Collection[str]
    ) -> None:
        """End the attempt of a member whose worker was killed; the first one may go on at once."""
        attempts, most = member.attempts, self.config.max_attempts
        is_over = attempts >= most and statements.is_own_fault(connection, self.config, member)
        if attempts < 2 and not is_over:
            return  # the worker was killed once, which says nothing about the member
        last = statements.last_report(connection)
        event = statements.takeover(member, None, now, dead_owners, last)
        schema.insert_events(connection, [event], now)
        statements.end_attempt(connection, self.config, member, now, member.error, member.owner)


def _fill(
    database: Database, config: RunConfig, members: Sequence[Member], events: Sequence[Event]
) -> None:
    """Create the tables of a run, and write its settings and its first members."""
    with database.transaction(writing=True) as connection:
        database.prepare(connection)
        schema.metadata.create_all(connection, checkfirst=False)
        statements.create_indexes(connection, config)
        now = database.now(connection)
        connection.execute(
            run_table.insert().values(
                id=1,
                schema=schema.VERSION,
                config=schema.dumps(config.to_json(), "the run's configuration"),
                created_s=now,
            )
        )
        for member in members:
            values = schema.member_values(member)
            connection.execute(
                member_table.insert().values(id=member.id, attempts=0, fence=0, **values)
            )
            schema.insert_version(connection, member, "initial", None, now)
        schema.insert_events(connection, events, now)
