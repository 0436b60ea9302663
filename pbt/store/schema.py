"""The store's tables, and how records become rows and rows become records.

Mappings and sequences are JSON text. What is named by a user (hyperparameters, metrics) stands
inside JSON, so that any name comes back as it went in; all else is a bound
parameter.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, cast

import sqlalchemy as sa

from pbt import records
from pbt.records import Event, Member, Report, Version, VersionKind
from pbt.task import Episode

VERSION = 1
"""Of the tables below; goes up with every change of them."""

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
    """JSON text. Raises `ValueError` for what is not JSON, NaN and infinity."""
    try:
        return json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{what} must be finite JSON: {error}") from None


def _numbers(values: Mapping[str, float], what: str) -> str:
    """A mapping of names to finite real numbers as JSON. Any name will do."""
    for name, value in values.items():
        if not isinstance(name, str):
            raise ValueError(f"{what} {name!r} must be named by a string")
        records.check_finite(value, f"{what} {name!r}")
    return dumps({name: float(value) for name, value in values.items()}, what)


def member_values(member: Member) -> dict[str, Any]:
    """A member's own columns: all but its id and what the store keeps about it."""
    parent = member.parent or (None, None)
    return {
        "version": member.version,
        "agent_steps": int(member.agent_steps),
        "hyperparameters": _numbers(member.hyperparameters, "hyperparameter"),
        "window": dumps([float(value) for value in member.window], "a window"),
        "counted_episodes": int(member.counted_episodes),
        "last_ready_steps": int(member.last_ready_steps),
        "checkpoint": member.checkpoint,
        "parent_member": parent[0],
        "parent_version": parent[1],
        "state": member.state,
        "score": None if member.score is None else float(member.score),
    }


def insert_version(
    connection: sa.Connection, member: Member, kind: VersionKind, score: float | None, now: float
) -> None:
    """Write one version, as the member is after it."""
    copied = kind in ("exploit", "reseed", "restore")
    parent = (member.parent if copied else None) or (None, None)
    connection.execute(
        version_table.insert().values(
            member=member.id,
            version=member.version,
            kind=kind,
            agent_steps=int(member.agent_steps),
            checkpoint=member.checkpoint,
            hyperparameters=_numbers(member.hyperparameters, "hyperparameter"),
            parent_member=parent[0],
            parent_version=parent[1],
            score=score,
            created_s=now,
        )
    )


def insert_report(connection: sa.Connection, report: Report, now: float) -> None:
    """Write one report."""
    records.check_finite(report.seconds, "a report's seconds")
    episodes = [
        (
            int(episode.agent_steps),
            float(episode.episode_return),
            int(episode.length),
            bool(episode.counted),
        )
        for episode in report.episodes
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
    """Write events, in their order."""
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


def best(query: sa.Select[Any]) -> sa.Select[Any]:
    """The version with the highest score; the earliest of equals, so that it changes rarely."""
    return (
        query.where(version_table.c.score.is_not(None))
        .order_by(version_table.c.score.desc(), version_table.c.id)
        .limit(1)
    )


def referenced(connection: sa.Connection, now: float) -> set[str]:
    """Checkpoints that must be kept at this time."""
    columns = sa.select(version_table.c.member, version_table.c.checkpoint)
    names = {row.checkpoint for row in connection.execute(best(columns)).all()}
    for member in connection.execute(sa.select(member_table.c.id)).scalars().all():
        # By the index: a long run has tens of thousands of versions.
        newest = (
            sa.select(version_table.c.checkpoint)
            .where(version_table.c.member == member, version_table.c.checkpoint.is_not(None))
            .order_by(version_table.c.version.desc())
            .limit(2)
        )
        names |= set(connection.execute(newest).scalars())
    live = sa.select(pin_table.c.checkpoint).where(pin_table.c.expires_s > now)
    return cast(set[str], names | set(connection.execute(live).scalars()))


def to_member(row: sa.Row[Any], max_attempts: int) -> Member:
    """Return a row of `member` as a record.

    Before the state "lost" had a name, it was written as "failed" with too many attempts.
    """
    is_lost = row.state == "failed" and row.attempts > max_attempts
    return Member(
        id=row.id,
        version=row.version,
        agent_steps=row.agent_steps,
        hyperparameters=json.loads(row.hyperparameters),
        window=tuple(json.loads(row.window)),
        counted_episodes=row.counted_episodes,
        last_ready_steps=row.last_ready_steps,
        checkpoint=row.checkpoint,
        parent=_pair(row),
        attempts=row.attempts,
        error=row.error,
        state="lost" if is_lost else row.state,
        score=row.score,
        owner=row.owner,
        fence=row.fence,
        lease_expires_s=row.lease_expires_s,
    )


def to_version(row: sa.Row[Any]) -> Version:
    """A row of `version` as a record."""
    return Version(
        member=row.member,
        version=row.version,
        kind=row.kind,
        agent_steps=row.agent_steps,
        checkpoint=row.checkpoint,
        hyperparameters=json.loads(row.hyperparameters),
        parent=_pair(row),
        score=row.score,
        created_s=row.created_s,
    )


def to_report(row: sa.Row[Any]) -> Report:
    """A row of `report` as a record."""
    return Report(
        member=row.member,
        version=row.version,
        agent_steps=row.agent_steps,
        slice_steps=row.slice_steps,
        seconds=row.seconds,
        hyperparameters=json.loads(row.hyperparameters),
        episodes=tuple(Episode(*values) for values in json.loads(row.episodes)),
        metrics=json.loads(row.metrics),
        created_s=row.created_s,
    )


def to_event(row: sa.Row[Any]) -> Event:
    """A row of `event` as a record."""
    return Event(
        kind=row.kind,
        member=row.member,
        version=row.version,
        agent_steps=row.agent_steps,
        details=json.loads(row.details),
        id=row.id,
        created_s=row.created_s,
    )


def _pair(row: sa.Row[Any]) -> tuple[int, int] | None:
    return None if row.parent_member is None else (row.parent_member, row.parent_version)
