"""SQL statements that several of the store's transactions share.

The conditions below are those of `pbt.records` in SQL, so that a claim
does not read the whole population.
"""

import functools
import json
from collections.abc import Collection
from typing import Any, NamedTuple

import sqlalchemy as sa

from pbt import records
from pbt.records import Event, Lease, Member, VersionKind
from pbt.run import RunConfig
from pbt.store import leases, schema
from pbt.store.database import LostLease
from pbt.store.schema import event_table, member_table, pin_table, report_table, version_table

_MEMBER = member_table.c
_NOW = sa.bindparam("now", type_=sa.Float)
_DEAD: sa.BindParameter[Any] = sa.bindparam("dead", expanding=True)
_LIVE: sa.BindParameter[Any] = sa.bindparam("live", expanding=True)

_IS_SOUND = _MEMBER.state.in_(("active", "finished"))
# Before the state "lost" had a name, it was written as "failed" with too many attempts.
_IS_REPLACEABLE = sa.and_(
    sa.bindparam("exploits", type_=sa.BigInteger) == 1,
    sa.or_(
        _MEMBER.state == "diverged",
        sa.and_(
            _MEMBER.state == "failed",
            _MEMBER.attempts <= sa.bindparam("max_attempts", type_=sa.BigInteger),
        ),
    ),
)
_GOES_ON = sa.and_(
    _MEMBER.agent_steps < sa.bindparam("total", type_=sa.BigInteger),
    sa.or_(_IS_SOUND, _IS_REPLACEABLE),
)
"""As `records.may_go_on`."""
_DONOR = member_table.alias("donor")
_HAS_DONOR = sa.exists().where(
    _DONOR.c.state.in_(("active", "finished")), _DONOR.c.checkpoint.is_not(None)
)
_IS_FREE = sa.or_(
    # Nobody holds it, and it does not rest after a crash.
    sa.and_(
        _MEMBER.owner.is_(None),
        sa.or_(
            _MEMBER.lease_expires_s.is_(None),
            _MEMBER.lease_expires_s <= _NOW,
            _MEMBER.lease_expires_s > sa.bindparam("longest_rest_end", type_=sa.Float),
        ),
    ),
    # Its holder is gone, or its lease expired. A living holder is given more time.
    sa.and_(
        _MEMBER.owner.is_not(None),
        sa.or_(
            _MEMBER.lease_expires_s.is_(None),
            _MEMBER.owner.in_(_DEAD),
            _MEMBER.lease_expires_s > sa.bindparam("longest_lease_end", type_=sa.Float),
            sa.and_(
                _MEMBER.lease_expires_s <= _NOW,
                sa.or_(
                    _MEMBER.owner.not_in(_LIVE),
                    _MEMBER.lease_expires_s <= sa.bindparam("patience_end", type_=sa.Float),
                ),
            ),
        ),
    ),
)
_IS_READY = sa.and_(_GOES_ON, _IS_FREE, sa.or_(_IS_SOUND, _HAS_DONOR))
_LIVING_HOLDERS = (
    sa.select(_MEMBER.id)
    .where(
        _MEMBER.owner.is_not(None),
        _MEMBER.owner.not_in(_DEAD),
        sa.or_(
            _MEMBER.owner.in_(_LIVE),
            _MEMBER.lease_expires_s.between(
                _NOW, sa.bindparam("longest_lease_end", type_=sa.Float)
            ),
        ),
    )
    .limit(1)
)
_GOING_ON = sa.select(member_table).where(_GOES_ON).order_by(_MEMBER.id)
_KILLED = sa.select(member_table).where(_GOES_ON, _MEMBER.owner.in_(_DEAD)).order_by(_MEMBER.id)
_OTHER_GOES_ON = (
    sa.select(_MEMBER.id).where(_GOES_ON, _MEMBER.id != sa.bindparam("member")).limit(1)
)
_BY_ID = sa.select(member_table).where(_MEMBER.id == sa.bindparam("member"))
_ALL = sa.select(member_table).order_by(_MEMBER.id)
_OWNERS = sa.select(_MEMBER.owner).where(_MEMBER.owner.is_not(None)).distinct()
_VERSIONS = sa.select(_MEMBER.id, _MEMBER.version).where(
    _MEMBER.id.in_(sa.bindparam("members", expanding=True))
)


_CRASHES = (
    sa.select(event_table.c.kind, event_table.c.details)
    .where(
        event_table.c.member == sa.bindparam("member"),
        event_table.c.version == sa.bindparam("version"),
        event_table.c.kind.in_(("crashed", "takeover", "revived")),
    )
    .order_by(event_table.c.id)
)
_LAST_REPORT = sa.select(sa.func.max(report_table.c.id))
_OTHERS_REPORT = (
    sa.select(report_table.c.id)
    .where(
        report_table.c.id > sa.bindparam("first"), report_table.c.member != sa.bindparam("member")
    )
    .limit(1)
)


class Circumstances(NamedTuple):
    """What decides beside its row whether a member is free."""

    now: float
    """Time in seconds by the database's clock."""
    dead_owners: Collection[str] = ()
    """Owners known to be gone."""
    live_owners: Collection[str] = ()
    """Owners known to be alive and not stopped."""


class Candidate(NamedTuple):
    """What a choice needs to know of a member that could be claimed now."""

    id: int
    version: int
    agent_steps: int


def create_indexes(connection: sa.Connection, config: RunConfig) -> None:
    """Create the indexes by which claims are fast, where a run does not have them yet."""
    rotation = _rotation(config.population)
    for index in (
        f"member_next ON member (agent_steps, ({rotation}))",
        "member_owner ON member (owner) WHERE owner IS NOT NULL",
    ):
        connection.execute(sa.text(f"CREATE INDEX IF NOT EXISTS {index}"))


def ready_members(
    connection: sa.Connection,
    config: RunConfig,
    circumstances: Circumstances,
    among: Collection[int] | None = None,
) -> list[Candidate]:
    """Return free members that a worker could claim now, in the order of the claims.

    Args:
        connection: A transaction.
        config: The run's settings.
        circumstances: Time and owners.
        among: Ids to choose from. None: all, but only the first one is returned.
    """
    first, those = _ready_queries(config.population)
    values = _values(config, circumstances)
    if among is None:
        rows = connection.execute(first, values).all()
    else:
        rows = connection.execute(those, {**values, "among": list(among)}).all()
    return [Candidate(*row) for row in rows]


def unfinished(connection: sa.Connection, config: RunConfig) -> list[Member]:
    """Return the members that may go on, as `records.unfinished` does."""
    rows = connection.execute(_GOING_ON, _values(config)).all()
    going_on = [schema.to_member(row, config) for row in rows]
    # A member that still trains is a donor as soon as it has a checkpoint.
    if any(records.is_training(member, config) for member in going_on):
        return going_on
    has_donor = connection.execute(sa.select(_HAS_DONOR)).scalar()
    return going_on if has_donor else []


def killed(
    connection: sa.Connection, config: RunConfig, dead_owners: Collection[str]
) -> list[Member]:
    """Return the members that may go on and are held by owners known to be gone."""
    if not dead_owners:
        return []
    rows = connection.execute(_KILLED, {**_values(config), "dead": list(dead_owners)}).all()
    return [schema.to_member(row, config) for row in rows]


def is_alone(connection: sa.Connection, config: RunConfig, circumstances: Circumstances) -> bool:
    """Return whether nobody who may be alive holds a member."""
    values = _values(config, circumstances)
    return connection.execute(_LIVING_HOLDERS, values).first() is None


def read_member(connection: sa.Connection, config: RunConfig, member: int) -> Member | None:
    """Return one member as it is now; None for an unknown id."""
    row = connection.execute(_BY_ID, {"member": member}).first()
    return None if row is None else schema.to_member(row, config)


def read_members(
    connection: sa.Connection,
    config: RunConfig,
    known: dict[int, tuple[sa.Row[Any], Member]] | None = None,
) -> list[Member]:
    """Return all members as they are now, by id. For `known` see `schema.to_members`."""
    return schema.to_members(connection.execute(_ALL).all(), config, known)


def read_owners(connection: sa.Connection) -> set[str]:
    """Return everyone who is recorded as holding a member."""
    return set(connection.execute(_OWNERS).scalars())


def read_versions(connection: sa.Connection, members: Collection[int]) -> dict[int, int]:
    """Return the committed version of each of the given members."""
    rows = connection.execute(_VERSIONS, {"members": list(members)}).all()
    return {row.id: row.version for row in rows}


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


def end_attempt(
    connection: sa.Connection,
    config: RunConfig,
    member: Member,
    now: float,
    error: str | None,
    owner: str | None,
) -> bool:
    """Take a member from a holder that crashed or was killed, and let it rest, or mark it failed.

    Args:
        connection: A writing transaction.
        config: The run's settings.
        member: The member as it is now. Its attempts count the one that ended.
        now: Time in seconds by the database's clock.
        error: The last traceback; None if there is none.
        owner: Who made the attempt.

    Returns:
        Whether the member is failed or lost now.
    """
    is_over = member.attempts >= config.max_attempts and is_own_fault(connection, config, member)
    values: dict[str, Any] = {
        "owner": None,
        "lease_expires_s": now + leases.rest_s(member.attempts, config),
        "fence": member.fence + 1,
    }
    again = member.state == "failed"
    if is_over:
        values |= {"state": "lost" if again else "failed", "attempts": 0, "lease_expires_s": None}
    update_member(connection, member.id, **values)
    if is_over:
        details = {
            "attempts": member.attempts,
            "error": error or "no traceback: its worker was killed, or hung",
            "owner": owner,
            "for_good": again or config.exploit == "none",
        }
        schema.insert_events(connection, [records.event_of("failed", member, details)], now)
    return is_over


def is_own_fault(connection: sa.Connection, config: RunConfig, member: Member) -> bool:
    """Return whether it is the member itself that crashes, and not what all members need.

    It is if another member has trained a slice since this one first crashed at its version, or if
    no other member may go on. A failed member counts as crashing by itself, because nothing of it
    is lost while a copy replaces it.
    """
    if member.state == "failed":
        return True
    values = {**_values(config), "member": member.id}
    if connection.execute(_OTHER_GOES_ON, values).first() is None:
        return True
    first = None
    for kind, text in connection.execute(
        _CRASHES, {"member": member.id, "version": member.version}
    ).all():
        details = json.loads(text)
        if kind == "revived":
            first = None
        elif first is None:
            first = details.get("last_report")  # if it counts, and not in events of older code
    if first is None:
        return False
    others = {"first": first, "member": member.id}
    return connection.execute(_OTHERS_REPORT, others).first() is not None


def last_report(connection: sa.Connection) -> int:
    """Return the id of the newest report; 0 if there is none."""
    return connection.execute(_LAST_REPORT).scalar() or 0


def takeover(
    member: Member,
    owner: str | None,
    now: float,
    dead_owners: Collection[str],
    last_report: int | None = None,
) -> Event:
    """Return the event that says why a lease ended without its holder.

    Args:
        member: The member as it was held.
        owner: The new holder; None if there is none.
        now: Time in seconds by the database's clock.
        dead_owners: Owners known to be gone.
        last_report: Id of the newest report if the attempt counts, see `is_own_fault`.
    """
    details = {
        "from": member.owner,
        "to": owner,
        "because": "its process is gone" if member.owner in dead_owners else "its lease lapsed",
        "late_s": None if member.lease_expires_s is None else now - member.lease_expires_s,
        "attempts": member.attempts,
    }
    if last_report is not None:
        details["last_report"] = last_report
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


def is_kept(connection: sa.Connection, checkpoint: str, now: float) -> bool:
    """Return whether a checkpoint is one of those that `schema.referenced` returns."""
    owner, _, _ = checkpoint.partition("/")  # a checkpoint's name begins with its member
    member = int(owner) if owner.isdecimal() else None
    return checkpoint in schema.referenced(connection, now, member)


def delete_pin(connection: sa.Connection, checkpoint: str, owner: str) -> None:
    """End one owner's pin of a checkpoint, if there is one."""
    connection.execute(
        pin_table.delete().where(pin_table.c.checkpoint == checkpoint, pin_table.c.owner == owner)
    )


def _values(config: RunConfig, circumstances: Circumstances | None = None) -> dict[str, Any]:
    """Return the parameters of the conditions above."""
    now, dead_owners, live_owners = circumstances or Circumstances(0.0)
    return {
        "exploits": int(config.exploit != "none"),
        "max_attempts": config.max_attempts,
        "total": config.total_steps,
        "now": now,
        "dead": list(dead_owners),
        "live": list(live_owners),
        "longest_rest_end": now + leases.longest_rest_s(config),
        "longest_lease_end": now + leases.longest_lease_s(config),
        "patience_end": now - leases.patience_s(config),
    }


def _rotation(population: int) -> str:
    """Return the SQL by which members with equal steps take turns: (id - version) % population."""
    # SQL's remainder has the sign of its left side. The text must be that of the index.
    return f"((id - version) % {population} + {population}) % {population}"


@functools.lru_cache
def _ready_queries(population: int) -> tuple[sa.Select[Any], sa.Select[Any]]:
    """Return the queries for the first of all ready members, and for some of them."""
    query = (
        sa.select(_MEMBER.id, _MEMBER.version, _MEMBER.agent_steps)
        .where(_IS_READY)
        .order_by(_MEMBER.agent_steps, sa.literal_column(_rotation(population)))
    )
    return query.limit(1), query.where(_MEMBER.id.in_(sa.bindparam("among", expanding=True)))
