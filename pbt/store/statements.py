"""SQL statements that several of the store's transactions share."""

from collections.abc import Collection
from typing import Any

import sqlalchemy as sa

from pbt import records
from pbt.records import Event, Lease, Member, VersionKind
from pbt.run import RunConfig
from pbt.store import schema
from pbt.store.database import LostLease
from pbt.store.schema import member_table, pin_table, version_table


def read_member(connection: sa.Connection, config: RunConfig, member: int) -> Member | None:
    """Return one member as it is now; None for an unknown id."""
    row = connection.execute(sa.select(member_table).where(member_table.c.id == member)).first()
    return None if row is None else schema.to_member(row, config)


def read_members(connection: sa.Connection, config: RunConfig) -> list[Member]:
    """Return all members as they are now, by id."""
    rows = connection.execute(sa.select(member_table).order_by(member_table.c.id)).all()
    return schema.to_members(rows, config)


def update_member(connection: sa.Connection, member: int, **values: Any) -> None:
    """Change columns of a member, whoever holds it."""
    connection.execute(member_table.update().where(member_table.c.id == member).values(**values))


def update_fenced(
    connection: sa.Connection, config: RunConfig, lease: Lease, **values: Any
) -> Member:
    """Change columns of a member if the lease still stands, and return the member.

    Raises:
        LostLease: The lease was lost. The caller must roll the transaction back.
    """
    changed = connection.execute(
        member_table.update()
        .where(
            member_table.c.id == lease.member.id,
            member_table.c.owner == lease.owner,
            member_table.c.fence == lease.fence,
            member_table.c.version == lease.member.version,
        )
        .values(**values)
    )
    member = read_member(connection, config, lease.member.id)
    if changed.rowcount != 1 or member is None:
        holder = member.owner if member is not None else None
        raise LostLease(
            f"{lease.owner} no longer holds member {lease.member.id} at version "
            f"{lease.member.version} (fence {lease.fence}): it is held by {holder or 'nobody'}"
        )
    return member


def fail(
    connection: sa.Connection,
    config: RunConfig,
    member: Member,
    now: float,
    error: str | None,
    owner: str | None,
) -> None:
    """Mark a member failed, or lost if it was failed already, with a "failed" event.

    Args:
        connection: A writing transaction.
        config: The run's settings.
        member: The member as it is now.
        now: Time in seconds by the database's clock.
        error: The last traceback; None if there is none.
        owner: Who made the last attempt.
    """
    again = member.state == "failed"
    update_member(
        connection,
        member.id,
        state="lost" if again else "failed",
        attempts=0,
        fence=member.fence + 1,
        owner=None,
        lease_expires_s=None,
    )
    details = {
        "attempts": member.attempts,
        "error": error or "no traceback: its worker was killed, or hung",
        "owner": owner,
        "for_good": again or config.exploit == "none",
    }
    schema.insert_events(connection, [records.event_of("failed", member, details)], now)


def takeover(member: Member, owner: str | None, now: float, dead_owners: Collection[str]) -> Event:
    """Return the event that says why a lease ended without its holder.

    Args:
        member: The member as it was held.
        owner: The new holder; None if there is none.
        now: Time in seconds by the database's clock.
        dead_owners: Owners known to be gone.
    """
    details = {
        "from": member.owner,
        "to": owner,
        "because": "its process is gone" if member.owner in dead_owners else "its lease lapsed",
        "late_s": None if member.lease_expires_s is None else now - member.lease_expires_s,
        "attempts": member.attempts,
    }
    return records.event_of("takeover", member, details)


def check_parent(connection: sa.Connection, member: Member, kind: VersionKind) -> None:
    """Check that a copied version exists; raise `ValueError` if it does not."""
    if kind not in records.COPIES:
        return
    who = f"member {member.id}: a version of kind {kind}"
    if member.parent is None:
        raise ValueError(f"{who} needs a parent")
    if (member.parent[0] == member.id) != (kind == "restore"):
        raise ValueError(f"{who} cannot have the parent {member.parent}")
    query = sa.select(version_table.c.id).where(
        version_table.c.member == member.parent[0], version_table.c.version == member.parent[1]
    )
    if connection.execute(query).first() is None:
        raise ValueError(f"{who} names the parent {member.parent}, which never existed")


def delete_pin(connection: sa.Connection, checkpoint: str, owner: str) -> None:
    """End one owner's pin of a checkpoint, if there is one."""
    connection.execute(
        pin_table.delete().where(pin_table.c.checkpoint == checkpoint, pin_table.c.owner == owner)
    )
