"""The store's tables, and the conversion between records and rows.

Mappings and sequences are stored as JSON text. Names that a user chose, such as those of
hyperparameters and metrics, occur only inside JSON, so any name can be stored. All other values are
bound parameters.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
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


def dumps(value: Any, what: str) -> str:
    """Return JSON text; raise `ValueError` for NaN, infinity and anything else but JSON."""
    try:
        return json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{what} must be finite JSON: {error}") from None


def member_values(member: Member) -> dict[str, Any]:
    """Return the columns of a member that a commit writes."""
    values = _columns(member_table, member)
    kept = ("id", "attempts", "error", "owner", "fence", "lease_expires_s")
    return {name: value for name, value in values.items() if name not in kept}


def insert_version(
    connection: sa.Connection, member: Member, kind: VersionKind, score: float | None, now: float
) -> None:
    """Write a version of the given kind, with the state that the member has at it."""
    version = Version(
        member=member.id,
        version=member.version,
        kind=kind,
        agent_steps=member.agent_steps,
        checkpoint=member.checkpoint,
        hyperparameters=member.hyperparameters,
        parent=member.parent if kind in records.COPIES else None,
        score=score,
        created_s=now,
    )
    connection.execute(version_table.insert().values(_columns(version_table, version)))


def insert_report(connection: sa.Connection, report: Report, now: float) -> None:
    """Write a report."""
    values = _columns(report_table, replace(report, created_s=now))
    connection.execute(report_table.insert().values(values))


def insert_events(connection: sa.Connection, events: Sequence[Event], now: float) -> None:
    """Write events in the given order."""
    for event in events:
        values = _columns(event_table, replace(event, created_s=now))
        del values["id"]  # the database counts
        connection.execute(event_table.insert().values(values))


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
    values = _fields(row)
    if row.state == "failed" and row.attempts > max_attempts:
        values["state"] = "lost"
    return Member(**values)


def to_version(row: sa.Row[Any]) -> Version:
    """Return a row of `version` as a record."""
    values = _fields(row)
    del values["id"]
    return Version(**values)


def to_report(row: sa.Row[Any]) -> Report:
    """Return a row of `report` as a record."""
    values = _fields(row)
    del values["id"]
    return Report(**values)


def to_event(row: sa.Row[Any]) -> Event:
    """Return a row of `event` as a record."""
    return Event(**_fields(row))


def _numbers(values: Mapping[str, float]) -> dict[str, float]:
    for name, value in values.items():
        if not isinstance(name, str):
            raise ValueError(f"{name!r} must be a string, because it names a number")
        records.check_finite(value, name)
    return {name: float(value) for name, value in values.items()}


_PLAIN: Mapping[str, Callable[[Any], Any]] = {
    "hyperparameters": _numbers,
    "metrics": _numbers,
    "details": dict,
    "window": lambda returns: [float(value) for value in returns],
    "episodes": lambda episodes: [
        (int(steps), float(episode_return), int(length), bool(counted))
        for steps, episode_return, length, counted in episodes
    ],
}
"""What JSON can hold of a record's field, for each column of JSON text."""
_TUPLES: Mapping[str, Callable[[Any], Any]] = {
    "window": tuple,
    "episodes": lambda episodes: tuple(Episode(*values) for values in episodes),
}
"""The record's field from what JSON holds, where that is not a mapping."""


def _columns(table: sa.Table, record: Member | Version | Report | Event) -> dict[str, Any]:
    """Return a record as a row; raise `ValueError` for numbers that are not finite."""
    values = {field.name: getattr(record, field.name) for field in fields(record)}
    if "parent" in values:
        values["parent_member"], values["parent_version"] = values.pop("parent") or (None, None)
    for name, value in values.items():
        what = f"{name} of a {table.name}"
        if name in _PLAIN:
            values[name] = dumps(_PLAIN[name](value), what)
        elif value is not None:
            # Numbers may come from NumPy, which SQLite does not know.
            values[name] = table.c[name].type.python_type(value)
            if isinstance(values[name], float):
                records.check_finite(value, what)
    return values


def _fields(row: sa.Row[Any]) -> dict[str, Any]:
    """Return a row as the fields of a record, which are named like the columns."""
    values = dict(row._mapping)
    for name in values.keys() & _PLAIN.keys():
        values[name] = json.loads(values[name])
    for name in values.keys() & _TUPLES.keys():
        values[name] = _TUPLES[name](values[name])
    if "parent_member" in values:
        member, version = values.pop("parent_member"), values.pop("parent_version")
        values["parent"] = None if member is None else (member, version)
    return values
