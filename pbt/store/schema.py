"""The store's tables, and the conversion between records and rows.

Mappings and sequences are stored as JSON text. Names that a user chose, such as those of
hyperparameters and metrics, occur only inside JSON, so any name can be stored. All other values are
bound parameters.

Every row that is read is checked. What no store writes, as after a flipped bit, raises
`DamagedRow`.
"""

import contextlib
import json
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, cast, get_args

import sqlalchemy as sa

from pbt import records
from pbt.records import DamagedRow, Event, Member, Report, Version, VersionKind
from pbt.run import RunConfig
from pbt.task import Episode

VERSION = 1
"""Version of the tables below. Goes up with every change of them."""

_COUNT = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
"""64 bits in both databases. SQLite has one type of whole numbers."""
metadata = sa.MetaData()
run_table = sa.Table(
    "run",
    metadata,
    sa.Column("id", _COUNT, primary_key=True),
    sa.Column("schema", _COUNT, nullable=False),
    sa.Column("config", sa.Text, nullable=False),
    sa.Column("created_s", sa.Float, nullable=False),
)
member_table = sa.Table(
    "member",
    metadata,
    sa.Column("id", _COUNT, primary_key=True, autoincrement=False),
    sa.Column("version", _COUNT, nullable=False),
    sa.Column("agent_steps", _COUNT, nullable=False),
    sa.Column("hyperparameters", sa.Text, nullable=False),
    sa.Column("window", sa.Text, nullable=False),
    sa.Column("counted_episodes", _COUNT, nullable=False),
    sa.Column("last_ready_steps", _COUNT, nullable=False),
    sa.Column("checkpoint", sa.Text),
    sa.Column("parent_member", _COUNT),
    sa.Column("parent_version", _COUNT),
    sa.Column("attempts", _COUNT, nullable=False),
    sa.Column("error", sa.Text),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("score", sa.Float),
    sa.Column("owner", sa.Text),
    sa.Column("fence", _COUNT, nullable=False),
    sa.Column("lease_expires_s", sa.Float),
)
version_table = sa.Table(
    "version",
    metadata,
    sa.Column("id", _COUNT, primary_key=True),
    sa.Column("member", _COUNT, nullable=False),
    sa.Column("version", _COUNT, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("agent_steps", _COUNT, nullable=False),
    sa.Column("checkpoint", sa.Text),
    sa.Column("hyperparameters", sa.Text, nullable=False),
    sa.Column("parent_member", _COUNT),
    sa.Column("parent_version", _COUNT),
    sa.Column("score", sa.Float),
    sa.Column("created_s", sa.Float, nullable=False),
    sa.UniqueConstraint("member", "version"),
    sa.Index("version_score", "score"),
    sqlite_autoincrement=True,
)
report_table = sa.Table(
    "report",
    metadata,
    sa.Column("id", _COUNT, primary_key=True),
    sa.Column("member", _COUNT, nullable=False),
    sa.Column("version", _COUNT, nullable=False),
    sa.Column("agent_steps", _COUNT, nullable=False),
    sa.Column("slice_steps", _COUNT, nullable=False),
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
    sa.Column("id", _COUNT, primary_key=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("member", _COUNT, nullable=False),
    sa.Column("version", _COUNT, nullable=False),
    sa.Column("agent_steps", _COUNT, nullable=False),
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


def printable(value: Any) -> Any:
    """Return JSON whose texts can be stored and shown: lone surrogates and NUL are escaped.

    The text of an error may hold anything, such as bytes of a file name.
    """
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")
    if isinstance(value, Mapping):
        return {printable(name): printable(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [printable(entry) for entry in value]
    return value


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


def referenced(connection: sa.Connection, now: float, member: int | None = None) -> set[str]:
    """Return the names of the checkpoints that must be kept at this time.

    These are each member's newest two, or the newest once all members are finished, that of the
    best score ever, and the pinned ones. With `member`, those of other members are only in it if
    they are pinned or the best ever.
    """
    # The earliest of equal scores, so that the best version changes rarely.
    best = (
        sa.select(version_table.c.checkpoint)
        .where(version_table.c.score.is_not(None))
        .order_by(version_table.c.score.desc(), version_table.c.id)
        .limit(1)
    )
    pinned = sa.select(pin_table.c.checkpoint).where(pin_table.c.expires_s > now)
    names = {*connection.execute(best).scalars(), *connection.execute(pinned).scalars()}
    # Subqueries by member use the index. A long run has tens of thousands of versions.
    newest = (
        sa.select(version_table.c.checkpoint)
        .where(version_table.c.member == member_table.c.id, version_table.c.checkpoint.is_not(None))
        .order_by(version_table.c.version.desc())
        .limit(1)
    )
    going_on = sa.select(member_table.c.id).where(member_table.c.state != "finished").limit(1)
    kept = [newest] if connection.execute(going_on).first() is None else [newest, newest.offset(1)]
    query = sa.select(*(one.scalar_subquery() for one in kept))
    if member is not None:
        query = query.where(member_table.c.id == member)
    for row in connection.execute(query.select_from(member_table)):
        names |= set(row) - {None}
    return cast(set[str], names)


def check_tables(connection: sa.Connection) -> None:
    """Raise `DamagedRow` unless all tables and columns are there."""
    inspector = sa.inspect(connection)
    for table in metadata.sorted_tables:
        found = set()
        if inspector.has_table(table.name):
            found = {column["name"] for column in inspector.get_columns(table.name)}
        if missing := [name for name in table.c.keys() if name not in found]:  # noqa: SIM118
            raise DamagedRow(f"table {table.name} has no column {', '.join(missing)}")


def to_config(text: Any) -> RunConfig:
    """Return the run's settings from their JSON text; raise `ValueError` if they are damaged."""
    return RunConfig.from_json(_object(_loads(_text(text, "it"))))


def to_member(row: sa.Row[Any], config: RunConfig) -> Member:
    """Return a row of `member` as a record.

    Before the state "lost" had a name, it was written as "failed" with too many attempts.

    Raises:
        DamagedRow: The row holds what no store writes.
    """
    with _in_row(member_table, row):
        values = _fields(member_table, row)
        if row.state == "failed" and row.attempts > config.max_attempts:
            values["state"] = "lost"
        _check_one_of(values["state"], get_args(records.MemberState), "state")
        _check_member(row.id, config)
        config.space.validate(values["hyperparameters"])
        if len(values["window"]) > config.window:
            raise ValueError(f"window has {len(values['window'])} of at most {config.window}")
        return Member(**values)


def to_members(
    rows: Sequence[sa.Row[Any]],
    config: RunConfig,
    known: dict[int, tuple[sa.Row[Any], Member]] | None = None,
) -> list[Member]:
    """Return the rows of `member` as records; raise `DamagedRow` unless all members are there.

    Args:
        rows: The rows, by id.
        config: The run's settings.
        known: Rows that were read before and their records, by id. Only rows that have changed
            since are read again.
    """
    known = {} if known is None else known
    for row in rows:
        if row.id not in known or known[row.id][0] != row:
            known[row.id] = (row, to_member(row, config))
    members = [known[row.id][1] for row in rows]
    if [member.id for member in members] != list(range(config.population)):
        raise DamagedRow(f"table member has {len(members)} of {config.population} members")
    return members


def to_version(row: sa.Row[Any], config: RunConfig) -> Version:
    """Return a row of `version` as a record; raise `DamagedRow` for what no store writes."""
    with _in_row(version_table, row):
        values = _fields(version_table, row)
        del values["id"]
        _check_one_of(values["kind"], get_args(VersionKind), "kind")
        _check_member(values["member"], config)
        if (values["parent"] is None) == (values["kind"] in records.COPIES):
            raise ValueError(f"a version of kind {values['kind']} has parent {values['parent']}")
        config.space.validate(values["hyperparameters"])
        return Version(**values)


def check_versions(versions: Sequence[Version]) -> None:
    """Raise `DamagedRow` unless versions are one whole history.

    Args:
        versions: All versions of a run, in order of commit.
    """
    steps: dict[tuple[int, int], int] = {}
    for version in versions:
        key = (version.member, version.version)
        before = (version.member, version.version - 1) if version.version else None
        for needed in (before, version.parent):
            if needed is not None and needed not in steps:
                raise DamagedRow(
                    f"table version: version {needed[1]} of member {needed[0]}, which version "
                    f"{key[1]} of member {key[0]} comes from, is missing"
                )
        # A restore has the steps of its parent. They may be more than those before it, if a
        # checkpoint that could not be read at an earlier restore can be read again.
        origin = version.parent if version.kind == "restore" else before
        trained = version.agent_steps - (steps[origin] if origin else 0)
        if trained < 0 or (trained > 0 and version.kind not in ("initial", "slice")):
            raise DamagedRow(
                f"table version: version {key[1]} of member {key[0]}, of kind {version.kind}, adds "
                f"{trained} agent steps"
            )
        steps[key] = version.agent_steps


def to_report(row: sa.Row[Any], config: RunConfig) -> Report:
    """Return a row of `report` as a record; raise `DamagedRow` for what no store writes."""
    with _in_row(report_table, row):
        values = _fields(report_table, row)
        del values["id"]
        _check_member(values["member"], config)
        if values["hyperparameters"].keys() != config.space.dimensions.keys():
            raise ValueError(f"hyperparameters are {sorted(values['hyperparameters'])}")
        if values["seconds"] < 0 or values["slice_steps"] > values["agent_steps"]:
            raise ValueError(
                f"{values['slice_steps']} of {values['agent_steps']} agent steps in "
                f"{values['seconds']} seconds"
            )
        return Report(**values)


def to_event(row: sa.Row[Any], config: RunConfig) -> Event:
    """Return a row of `event` as a record; raise `DamagedRow` for what no store writes."""
    with _in_row(event_table, row):
        values = _fields(event_table, row)
        _check_one_of(values["kind"], get_args(records.EventKind), "kind")
        _check_member(values["member"], config)
        return Event(**values)


def _numbers(values: Mapping[str, float]) -> dict[str, float]:
    for name, value in values.items():
        if not isinstance(name, str):
            raise ValueError(f"{name!r} must be a string, because it names a number")
        records.check_finite(value, name)
    return {name: float(value) for name, value in values.items()}


_PLAIN: Mapping[str, Callable[[Any], Any]] = {
    "hyperparameters": _numbers,
    "metrics": _numbers,
    "details": lambda details: printable(dict(details)),
    "window": lambda returns: [float(value) for value in returns],
    "episodes": lambda episodes: [
        (int(steps), float(episode_return), int(length), bool(counted))
        for steps, episode_return, length, counted in episodes
    ],
}
"""What JSON can hold of a record's field, for each column of JSON text."""


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
            # Numbers may come from NumPy, which no database knows.
            values[name] = table.c[name].type.python_type(value)
            if isinstance(values[name], float):
                records.check_finite(value, what)
    return values


def _fields(table: sa.Table, row: sa.Row[Any]) -> dict[str, Any]:
    """Return a row as the fields of a record, which are named like the columns.

    Raises:
        ValueError: A value is not of its column's type, or a number is not finite or negative.
    """
    values = {column.name: _value(column, getattr(row, column.name)) for column in table.c}
    for name in values.keys() & _PLAIN.keys():
        with _named(name):
            values[name] = _FROM_JSON[name](_loads(values[name]))
    if "parent_member" in values:
        member, version = values.pop("parent_member"), values.pop("parent_version")
        if (member is None) != (version is None):
            raise ValueError(f"parent is version {version} of member {member}")
        values["parent"] = None if member is None else (member, version)
    return values


@contextlib.contextmanager
def _in_row(table: sa.Table, row: sa.Row[Any]) -> Iterator[None]:
    """Turn what goes wrong in a row into `DamagedRow`."""
    try:
        yield
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        said = " ".join(str(error).split())
        raise DamagedRow(f"table {table.name}, row {row.id}: {said}") from error


@contextlib.contextmanager
def _named(name: str) -> Iterator[None]:
    try:
        yield
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise ValueError(f"{name}: {error}") from error


def _value(column: sa.Column[Any], value: Any) -> Any:
    """Return the value of a column; raise `ValueError` for one that no store writes."""
    name = column.name
    if value is None and column.nullable:
        return None
    if isinstance(column.type, sa.Integer):
        return _count(value, name)
    if isinstance(column.type, sa.Float):
        number = _finite(value, name)
        if name == "created_s" and not 0 <= number <= _LATEST_S:
            raise ValueError(f"{name} is {number}, and not a time")
        return number
    return _text(value, name)


def _loads(text: str) -> Any:
    """Return what JSON text holds; raise `ValueError` for anything else but finite JSON."""

    def finite(number: str) -> float:
        return _finite(float(number), "a number")

    # `parse_constant` gets NaN and Infinity, `parse_float` numbers such as 1e999.
    return json.loads(text, parse_float=finite, parse_constant=finite)


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{name} is {value!r:.40}, and not text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{name} is no UTF-8") from None
    return value


def _count(value: Any, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _LARGEST:
        raise ValueError(f"{name} is {value!r:.40}, and not a whole number from 0 on")
    return value


def _finite(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{name} is {value!r:.40}, and not a finite number")
    return float(value)


def _finite_by_name(values: Any) -> dict[str, float]:
    return {name: _finite(value, name) for name, value in _object(values).items()}


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{value!r:.40} is not a JSON object")
    return value


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{value!r:.40} is not a JSON list")
    return value


def _episode(values: Any) -> Episode:
    steps, episode_return, length, counted = _list(values)
    if not isinstance(counted, bool):
        raise ValueError(f"counted is {counted!r:.40}, and not true or false")
    return Episode(
        _count(steps, "agent_steps"),
        _finite(episode_return, "episode_return"),
        _count(length, "length"),
        counted,
    )


def _check_one_of(value: str, known: Collection[str], name: str) -> None:
    if value not in known:
        raise ValueError(f"{name} {value!r:.40} is unknown")


def _check_member(member: int, config: RunConfig) -> None:
    if member >= config.population:
        raise ValueError(f"there is no member {member} in a population of {config.population}")


_LARGEST = 2**53
"""Largest whole number that is stored. JSON readers and figures keep it exactly."""
_LATEST_S = 253_402_300_799
"""Largest time that is stored: the end of the year 9999, in Unix seconds."""
_FROM_JSON: Mapping[str, Callable[[Any], Any]] = {
    "hyperparameters": _finite_by_name,
    "metrics": _finite_by_name,
    "details": _object,
    "window": lambda returns: tuple(_finite(value, "a return") for value in _list(returns)),
    "episodes": lambda episodes: tuple(_episode(values) for values in _list(episodes)),
}
"""The record's field from what JSON holds, for each column of JSON text."""
