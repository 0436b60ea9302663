"""The store: the single truth about a run. Everything people look at is made from it.

The contract, which any other implementation must keep as well:

- **One transaction per method.** A method has happened wholly or not at all, whenever a process
  is killed. Writing transactions exclude one another from their first statement on.
- **Leases and fences.** A member is trained by whoever holds its lease. `claim` writes the owner,
  the next fence and the expiry in one statement. Each later write names the fence; when somebody
  else has taken the member over since, it changes nothing and raises `LostLease`. So a lease need
  not be exact: it saves work, the fence keeps the truth.
- **Clock.** Leases and pins expire by the database's clock. An expiry farther ahead than any lease
  lasts can only come from a clock that was set back: it counts as lapsed.
- **Versions** of a member go up by exactly one per commit that names a kind; a slice has exactly
  one report, no other kind has any. Nothing that was committed is ever changed or deleted.
- **Numbers** are finite: NaN and infinity are refused at the door with `ValueError`.
- **Attempts** count tries at one version: up by one with each claim (in the same statement, so a
  process killed at any later point is counted), down again by a clean `release`, zero after a
  commit of a new version (one if its holder goes on). Whoever would begin try `max_attempts + 1`
  marks the member failed instead. A holder that was merely slow and lost its lease cannot be told
  from one that hung: its try counts until anybody commits. When a whole run was killed no member is
  to blame: see `forgive`.
- **Dead members** (diverged, failed) can be claimed like others as long as the run exploits and
  somebody could be copied; re-seeding them has tries of its own.

Here: SQLite, see `pbt.database`. A `Store` may be used by several threads; each process opens its
own. Readers fetch everything and hold no lock after they return.
"""

import json
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import sqlalchemy as sa

from pbt import records
from pbt.records import Event, Lease, Member, Report, VersionKind
from pbt.run import RunConfig
from pbt.store import schema, statements, transitions
from pbt.store.database import Database, creating
from pbt.store.reader import Reader
from pbt.store.schema import member_table, named_lease_table, pin_table, run_table


class Store(Reader):
    """A run's store. Made by `create` or `open`; reads as `Reader` does.

    The loop it is called from, in each worker:

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
        durable: bool = True,
        clock: Callable[[], float] | None = None,
    ) -> "Store":
        """Make a new run: all of it appears under its name at once, or nothing.

        Of several processes that create the same run at the same time exactly one wins.

        Args:
            path: the file to make, normally `FILE_NAME` in the run's directory, which must exist.
            config: the run's settings.
            members: the initial population: versions 0, one per id in range(config.population).
            events: written with it ("forked").
            durable: False leaves out every fsync: for toys and tests in temporary directories. A
                killed process still loses nothing, a power cut may corrupt the file.
            clock: seconds, instead of the database's clock: for tests.

        Raises:
            RunExists: there is a file already (perhaps since a moment ago: `open` it).
            ValueError: the members do not fit the settings.
            OSError: the directory cannot be written.
        """
        if sorted(member.id for member in members) != list(range(config.population)):
            raise ValueError(f"members must have the ids 0 to {config.population - 1}, once each")
        for member in members:
            if member.version != 0:
                raise ValueError(f"member {member.id} begins at version {member.version}, not 0")
            transitions.check_member(member, config)
        path = Path(path)
        with creating(path, durable) as temporary:
            database = Database(temporary, durable=durable, clock=clock)
            with database.transaction(writing=True) as connection:
                schema.metadata.create_all(connection, checkfirst=False)
                now = database.now(connection)
                text = schema.dumps(config.to_json(), "the run's configuration")
                connection.execute(
                    run_table.insert().values(
                        id=1, schema=schema.VERSION, config=text, created_s=now
                    )
                )
                for member in members:
                    values = schema.member_values(member)
                    connection.execute(
                        member_table.insert().values(id=member.id, attempts=0, fence=0, **values)
                    )
                    schema.insert_version(connection, member, "initial", None, now)
                schema.insert_events(connection, events, now)
            database.close()
        return cls.open(path, durable=durable, clock=clock)

    # Leases.

    def claim(
        self,
        owner: str,
        residents: Mapping[int, int] | None = None,
        dead_owners: Collection[str] = (),
    ) -> Lease | None:
        """Take a member to train: the one statement that makes it ours also begins the lease.

        Free is a member with steps left that nobody holds a live lease on and that is active, or
        dead while the run exploits and somebody else could be copied. Which of them is taken says
        `pbt.rules.choose`.

        Writes "takeover" when the lease was not released but lapsed, and "failed" for each free
        member whose tries are used up.

        Args:
            owner: who claims; the same process may hold several members.
            residents: versions, by member, of the tasks that the caller has in memory.
            dead_owners: owners (see `owners`) known to be gone: their leases have lapsed.

        Returns:
            The lease, with the member as committed; None if nothing is free.
        """
        with self._database.transaction(writing=True) as connection:
            now = self._database.now(connection)
            members = statements.read_members(connection, self.config)
            if tired := transitions.exhausted(members, now, dead_owners, self.config):
                for member in tired:
                    statements.fail(
                        connection, self.config, member, now, member.error, member.owner
                    )
                members = statements.read_members(connection, self.config)
            chosen = transitions.choose(members, residents or {}, now, dead_owners, self.config)
            if chosen is None:
                return None
            lease = Lease(chosen, owner, chosen.fence + 1)
            # Nobody can have come between here, but where readers do not exclude writers they can.
            taken = connection.execute(
                member_table.update()
                .where(
                    member_table.c.id == chosen.id,
                    member_table.c.version == chosen.version,
                    member_table.c.fence == chosen.fence,
                )
                .values(
                    owner=owner,
                    fence=lease.fence,
                    lease_expires_s=now + self.config.lease_seconds,
                    attempts=member_table.c.attempts + 1,
                )
            )
            if taken.rowcount != 1:
                return None
            if chosen.owner is not None:
                event = statements.takeover(chosen, owner, now, dead_owners)
                schema.insert_events(connection, [event], now)
            return replace(
                lease, member=statements.read_member(connection, self.config, chosen.id) or chosen
            )

    def renew(self, lease: Lease) -> None:
        """Begin the lease's time anew. Call it when training made progress, never from a timer.

        Raises:
            LostLease: somebody else has the member. A lease that expired unnoticed is renewed.
        """
        with self._database.transaction(writing=True) as connection:
            expires = self._database.now(connection) + self.config.lease_seconds
            statements.update_fenced(connection, self.config, lease, lease_expires_s=expires)

    def release(self, lease: Lease) -> None:
        """Give a member back as it was last committed. That is no attempt: see `crash`.

        Raises:
            LostLease: somebody else has the member already.
        """
        with self._database.transaction(writing=True) as connection:
            statements.update_fenced(
                connection,
                self.config,
                lease,
                owner=None,
                lease_expires_s=None,
                attempts=sa.func.max(0, member_table.c.attempts - 1),
            )

    def crash(self, lease: Lease, error: str) -> bool:
        """Give a member back after an error: the try counts, and is written as "crashed".

        The member is marked failed, with an event, when its tries are used up.

        Args:
            lease: ends.
            error: the traceback.

        Returns:
            Whether the member is failed now.

        Raises:
            LostLease: somebody else has the member already.
        """
        with self._database.transaction(writing=True) as connection:
            now = self._database.now(connection)
            member = statements.update_fenced(
                connection, self.config, lease, owner=None, lease_expires_s=None, error=error
            )
            details = {"attempts": member.attempts, "error": error, "owner": lease.owner}
            event = Event("crashed", member.id, member.version, member.agent_steps, details)
            schema.insert_events(connection, [event], now)
            if failed := member.attempts >= self.config.max_attempts:
                statements.fail(connection, self.config, member, now, error, lease.owner)
        return failed

    def forgive(self, dead_owners: Collection[str]) -> list[int]:
        """Free what a dead run held, without counting the tries: called once by a new launcher.

        A member that crashes kills its worker, and the launcher goes on. When the launcher is gone
        too, somebody killed the run or the machine stopped, and no member is to blame.

        Returns:
            The members that were freed, each with a "takeover" event.
        """
        with self._database.transaction(writing=True) as connection:
            now = self._database.now(connection)
            freed = [
                member
                for member in statements.read_members(connection, self.config)
                if member.owner in dead_owners
            ]
            for member in freed:
                connection.execute(
                    member_table.update()
                    .where(member_table.c.id == member.id)
                    .values(
                        owner=None,
                        lease_expires_s=None,
                        fence=member.fence + 1,
                        attempts=max(0, member.attempts - 1),
                    )
                )
            events = [statements.takeover(member, None, now, dead_owners) for member in freed]
            schema.insert_events(connection, events, now)
        return [member.id for member in freed]

    def commit(
        self,
        lease: Lease,
        member: Member,
        *,
        kind: VersionKind | None = None,
        report: Report | None = None,
        events: Sequence[Event] = (),
        release: bool = False,
    ) -> Lease:
        """Write a member's new state, all of it in one transaction, and renew the lease.

        Args:
            lease: whose `member` is the state that the new one follows.
            member: the new state. Its owner, fence, expiry, attempts and error are the store's and
                are ignored.
            kind: of the new version, which must be `lease.member.version + 1`, with a checkpoint of
                its own. None: no new version; window, score, state and last ready steps may change,
                what a checkpoint holds may not.
            report: for kind "slice", and only for it.
            events: decisions made on the way, of this member, at the old or the new version.
            release: give the member back in the same transaction.

        Returns:
            The lease to go on with; its `member` is what is now committed.

        Raises:
            LostLease: somebody else has taken the member over; nothing was written.
            ValueError: the new state does not follow from the old one, or holds a number that is
                not finite; nothing was written.
        """
        transitions.check_member(member, self.config)
        transitions.check_step(lease.member, member, kind, report, events)
        values = schema.member_values(member)
        going_on = 0 if release else 1
        if kind is not None:
            values |= {"attempts": going_on, "error": None}
        elif member.state != lease.member.state:
            values["attempts"] = going_on  # whoever re-seeds it has tries of its own
        elif release:
            values["attempts"] = sa.func.max(0, member_table.c.attempts - 1)
        with self._database.transaction(writing=True) as connection:
            now = self._database.now(connection)
            values |= {
                "owner": None if release else lease.owner,
                "lease_expires_s": None if release else now + self.config.lease_seconds,
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

    def pin(self, checkpoint: str, owner: str, seconds: float) -> bool:
        """Keep a checkpoint from collection for a while, because somebody is about to read it.

        Returns:
            Whether it is kept. False: nothing named it any more, so it may be half deleted already;
            choose again. (What is still named now was named at every collection since it was
            committed: names go once and do not come back.)
        """
        with self._database.transaction(writing=True) as connection:
            now = self._database.now(connection)
            connection.execute(pin_table.delete().where(pin_table.c.expires_s <= now))
            if checkpoint not in schema.referenced(connection, now):
                return False
            statements.delete_pin(connection, checkpoint, owner)
            connection.execute(
                pin_table.insert().values(
                    checkpoint=checkpoint, owner=owner, expires_s=now + seconds
                )
            )
        return True

    def unpin(self, checkpoint: str, owner: str) -> None:
        """End a pin; nothing happens if there is none."""
        with self._database.transaction(writing=True) as connection:
            statements.delete_pin(connection, checkpoint, owner)

    # Named leases, and the run itself.

    def acquire(
        self, name: str, owner: str, seconds: float, dead_owners: Collection[str] = ()
    ) -> bool:
        """Take or renew a lease of any name, such as the projector's.

        Returns:
            Whether the owner has it now, for `seconds`.
        """
        with self._database.transaction(writing=True) as connection:
            now = self._database.now(connection)
            named = named_lease_table.c.name == name
            row = connection.execute(sa.select(named_lease_table).where(named)).first()
            mine = row is None or row.owner == owner or row.owner in dead_owners
            if not mine and row is not None and row.expires_s > now:
                return False
            connection.execute(named_lease_table.delete().where(named))
            connection.execute(
                named_lease_table.insert().values(name=name, owner=owner, expires_s=now + seconds)
            )
        return True

    def give_up(self, name: str, owner: str) -> None:
        """End a named lease, if the owner has it."""
        with self._database.transaction(writing=True) as connection:
            connection.execute(
                named_lease_table.delete().where(
                    named_lease_table.c.name == name, named_lease_table.c.owner == owner
                )
            )

    def extend(self, total_steps: int) -> None:
        """Give each member more agent steps: the one setting that may grow in a resumed run.

        Finished members become active again, with an "extended" event each. Workers that have the
        store open go on to the old total; those who know the new one take the members further.

        Raises:
            ValueError: it would be less than now, or is no valid total.
        """
        with self._database.transaction(writing=True) as connection:
            now = self._database.now(connection)
            # As it is now: another launcher may have extended the run since we opened it.
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
            for member in statements.read_members(connection, self.config):
                if member.state == "finished" and member.agent_steps < total_steps:
                    connection.execute(
                        member_table.update()
                        .where(member_table.c.id == member.id)
                        .values(state="active")
                    )
                    details = {"total_steps_before": before, "total_steps": total_steps}
                    event = Event(
                        "extended", member.id, member.version, member.agent_steps, details
                    )
                    schema.insert_events(connection, [event], now)
        self.config = config
