"""The store's tables, and the conversion between records and rows.

Mappings and sequences are stored as JSON text. Names that a user chose, such as those of
hyperparameters and metrics, occur only inside JSON, so any name can be stored. All other values are
bound parameters.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import sqlalchemy as sa

from pbt import records
from pbt.records import Event, Member, Report, Version, VersionKind
from pbt.task import Episode

VERSION = 1
"""Version of the tables below. Goes up with every change of them."""

metadata = sa.MetaData()
run_table = sa.Table(
    "run",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("schema", sa.Integer, nullable=False),
    sa.Column("config", sa.Text, nullable=False),
    sa.Column("created_s", sa.Float, nullable=False),
)
member_table = sa.Table(
    "member",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("agent_steps", sa.Integer, nullable=False),
    sa.Column("hyperparameters", sa.Text, nullable=False),
    sa.Column("window", sa.Text, nullable=False),
    sa.Column("counted_episodes", sa.Integer, nullable=False),
    sa.Column("last_ready_steps", sa.Integer, nullable=False),
    sa.Column("checkpoint", sa.Text),
    sa.Column("parent_member", sa.Integer),
    sa.Column("parent_version", sa.Integer),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("error", sa.Text),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("score", sa.Float),
    sa.Column("owner", sa.Text),
    sa.Column("fence", sa.Integer, nullable=False),
    sa.Column("lease_expires_s", sa.Float),
)
version_table = sa.Table(
    "version",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("member", sa.Integer, nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("agent_steps", sa.Integer, nullable=False),
    sa.Column("checkpoint", sa.Text),
    sa.Column("hyperparameters", sa.Text, nullable=False),
    sa.Column("parent_member", sa.Integer),
    sa.Column("parent_version", sa.Integer),
    sa.Column("score", sa.Float),
    sa.Column("created_s", sa.Float, nullable=False),
    sa.UniqueConstraint("member", "version"),
    sa.Index("version_score", "score"),
    sqlite_autoincrement=True,
)
report_table = sa.Table(
    "report",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("member", sa.Integer, nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("agent_steps", sa.Integer, nullable=False),
    sa.Column("slice_steps", sa.Integer, nullable=False),
    sa.Column("seconds", sa.Float, nullable=False),
    sa.Column("hyperparameters", sa.Text, nullable=False),
    sa.Column("episodes", sa.Text, nullable=False),
    sa.Column("metrics", sa.Text, nullable=False),
    sa.Column("created_s", sa.Float, nullable=False),
    sa.UniqueConstraint("member", "version"),
    sqlite_autoincrement=True,
)
event_table = sa.Table(
    "event",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("member", sa.Integer, nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("agent_steps", sa.Integer, nullable=False),
    sa.Column("details", sa.Text, nullable=False),
    sa.Column("created_s", sa.Float, nullable=False),
    sqlite_autoincrement=True,
)
pin_table = sa.Table(
    "pin",
    metadata,
    sa.Column("checkpoint", sa.Text, primary_key=True),
    sa.Column("owner", sa.Text, primary_key=True),
    sa.Column("expires_s", sa.Float, nullable=False),
)
named_lease_table = sa.Table(
    "named_lease",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("owner", sa.Text, nullable=False),
    sa.Column("expires_s", sa.Float, nullable=False),
)

_DECODE: Mapping[str, Callable[[Any], Any]] = {
    "hyperparameters": dict,
    "metrics": dict,
    "details": dict,
    "window": tuple,
    "episodes": lambda episodes: tuple(Episode(*values) for values in episodes),
}
"""How the value of each JSON column becomes a record's field."""


def dumps(value: Any, what: str) -> str:
    """Return JSON text; raise `ValueError` for NaN, infinity and anything else but JSON."""
    try:
        return json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{what} must be finite JSON: {error}") from None


def member_values(member: Member) -> dict[str, Any]:
    """Return the columns of a member that a commit writes."""
    return {
        "version": member.version,
        "agent_steps": int(member.agent_steps),
        "hyperparameters": _numbers(member.hyperparameters, "hyperparameter"),
        "window": dumps([float(value) for value in member.window], "a window"),
        "counted_episodes": int(member.counted_episodes),
        "last_ready_steps": int(member.last_ready_steps),
        "checkpoint": member.checkpoint,
        **_parent(member.parent),
        "state": member.state,
        "score": None if member.score is None else float(member.score),
    }


def insert_version(
    connection: sa.Connection, member: Member, kind: VersionKind, score: float | None, now: float
) -> None:
    """Write a version of the given kind, with the state that the member has at it."""
    connection.execute(
        version_table.insert().values(
            member=member.id,
            version=member.version,
            kind=kind,
            agent_steps=int(member.agent_steps),
            checkpoint=member.checkpoint,
            hyperparameters=_numbers(member.hyperparameters, "hyperparameter"),
            **_parent(member.parent if kind in records.COPIES else None),
            score=score,
            created_s=now,
        )
    )


def insert_report(connection: sa.Connection, report: Report, now: float) -> None:
    """Write a report."""
    records.check_finite(report.seconds, "a report's seconds")
    episodes = [
        (int(steps), float(episode_return), int(length), bool(counted))
        for steps, episode_return, length, counted in report.episodes
    ]
    connection.execute(
        report_table.insert().values(
            member=report.member,
            version=report.version,
            agent_steps=int(report.agent_steps),
            slice_steps=int(report.slice_steps),
            seconds=float(report.seconds),
            hyperparameters=_numbers(report.hyperparameters, "hyperparameter"),
            episodes=dumps(episodes, "episodes"),
            metrics=_numbers(report.metrics, "metric"),
            created_s=now,
        )
    )


def insert_events(connection: sa.Connection, events: Sequence[Event], now: float) -> None:
    """Write events in the given order."""
    for event in events:
        connection.execute(
            event_table.insert().values(
                kind=event.kind,
                member=event.member,
                version=event.version,
                agent_steps=int(event.agent_steps),
                details=dumps(dict(event.details), f"the details of event {event.kind}"),
                created_s=now,
            )
        )


def referenced(connection: sa.Connection, now: float) -> set[str]:
    """Return the names of the checkpoints that must be kept at this time."""
    # The earliest of equal scores, so that the best version changes rarely.
    best = (
        sa.select(version_table.c.checkpoint)
        .where(version_table.c.score.is_not(None))
        .order_by(version_table.c.score.desc(), version_table.c.id)
        .limit(1)
    )
    pinned = sa.select(pin_table.c.checkpoint).where(pin_table.c.expires_s > now)
    names = {*connection.execute(best).scalars(), *connection.execute(pinned).scalars()}
    for member in connection.execute(sa.select(member_table.c.id)).scalars().all():
        # One query per member uses the index. A long run has tens of thousands of versions.
        newest = (
            sa.select(version_table.c.checkpoint)
            .where(version_table.c.member == member, version_table.c.checkpoint.is_not(None))
            .order_by(version_table.c.version.desc())
            .limit(2)
        )
        names |= set(connection.execute(newest).scalars())
    return cast(set[str], names)


def to_member(row: sa.Row[Any], max_attempts: int) -> Member:
    """Return a row of `member` as a record.

    Before the state "lost" had a name, it was written as "failed" with too many attempts.
    """
    values = _values(row)
    if row.state == "failed" and row.attempts > max_attempts:
        values["state"] = "lost"
    return Member(**values)


def to_version(row: sa.Row[Any]) -> Version:
    """Return a row of `version` as a record."""
    values = _values(row)
    del values["id"]
    return Version(**values)


def to_report(row: sa.Row[Any]) -> Report:
    """Return a row of `report` as a record."""
    values = _values(row)
    del values["id"]
    return Report(**values)


def to_event(row: sa.Row[Any]) -> Event:
    """Return a row of `event` as a record."""
    return Event(**_values(row))


def _numbers(values: Mapping[str, float], what: str) -> str:
    """Return named finite numbers as JSON text."""
    for name, value in values.items():
        if not isinstance(name, str):
            raise ValueError(f"{what} {name!r} must be named by a string")
        records.check_finite(value, f"{what} {name!r}")
    return dumps({name: float(value) for name, value in values.items()}, what)


def _parent(parent: tuple[int, int] | None) -> dict[str, int | None]:
    member, version = parent or (None, None)
    return {"parent_member": member, "parent_version": version}


def _values(row: sa.Row[Any]) -> dict[str, Any]:
    """Return a row's columns as the fields of a record, which have the same names."""
    values = {
        name: _DECODE[name](json.loads(value)) if name in _DECODE else value
        for name, value in row._mapping.items()
    }
    if "parent_member" in values:
        member, version = values.pop("parent_member"), values.pop("parent_version")
        values["parent"] = None if member is None else (member, version)
    return values
