"""The transitions that the store allows: pure functions of records."""

from collections.abc import Mapping, Sequence
from typing import get_args

from pbt import records
from pbt.records import Event, Member, Report, VersionKind
from pbt.run import RunConfig
from pbt.store.statements import Candidate

_BEHIND_SLICES = 2
"""A worker leaves a live task for a member that is more than this many slices behind it."""


def choose(
    first: Candidate | None,
    in_memory: Sequence[Candidate],
    residents: Mapping[int, int],
    config: RunConfig,
) -> int | None:
    """Choose the member that a worker claims next; return its id, or None if there is none.

    Priority:

    1. Members that have not started. A member that starts early would be copied too often.
    2. Tasks already in memory, unless more than 2 slices ahead of the least advanced member.
    3. The fewest agent steps. Ties rotate with the version, so that no member is always first.

    Args:
        first: The first of all members that could be claimed, in the order of 3.
        in_memory: Those of them that the worker has a task for, in the same order.
        residents: Version of each task that the worker has in memory, by member.
        config: The run's settings.
    """
    if first is None:
        return None
    ahead = 0 if first.agent_steps == 0 else _BEHIND_SLICES * config.report_interval
    for candidate in in_memory:
        is_warm = residents.get(candidate.id) == candidate.version
        if is_warm and candidate.agent_steps - first.agent_steps <= ahead:
            return candidate.id
    return first.id


def check_member(member: Member, config: RunConfig) -> None:
    """Check what must hold of any committed state; raise `ValueError` if it does not."""
    who = f"member {member.id}"
    if member.state not in get_args(records.MemberState):
        raise ValueError(f"{who} has the unknown state {member.state!r}")
    if not 0 <= member.agent_steps <= config.total_steps:
        raise ValueError(
            f"{who} has {member.agent_steps} agent steps, not 0 to {config.total_steps}"
        )
    if len(member.window) > config.window:
        raise ValueError(f"{who}'s window has {len(member.window)} of at most {config.window}")
    try:
        config.space.validate(member.hyperparameters)
    except ValueError as error:
        raise ValueError(f"{who}: {error}") from None


def check_step(
    old: Member,
    new: Member,
    kind: VersionKind | None,
    report: Report | None,
    events: Sequence[Event],
) -> None:
    """Check what must hold between two committed states; raise `ValueError` if it does not."""
    who = f"member {old.id}"
    expected = old.version + (kind is not None)
    if (new.id, new.version) != (old.id, expected):
        raise ValueError(
            f"{who}: member {new.id} version {new.version} does not follow version {old.version} "
            f"by a commit of kind {kind}: expected version {expected}"
        )
    if kind is not None and (kind == "initial" or kind not in get_args(VersionKind)):
        raise ValueError(f"{who}: {kind!r} is no kind that can be committed")
    if kind is not None and new.checkpoint in (None, old.checkpoint):
        raise ValueError(f"{who}: version {new.version} needs a checkpoint of its own")
    if kind is None and _held_by_checkpoint(new) != _held_by_checkpoint(old):
        raise ValueError(
            f"{who}: what a checkpoint holds changes only with a version, give its kind"
        )
    if (report is not None) != (kind == "slice"):
        raise ValueError(f"{who}: a slice needs a report, and nothing else may have one: {kind}")
    steps = report.slice_steps if report is not None else 0
    if kind != "restore" and new.agent_steps != old.agent_steps + steps:
        raise ValueError(
            f"{who}: {old.agent_steps} agent steps and {steps} reported are not {new.agent_steps}"
        )
    if report is not None and (report.member, report.version, report.agent_steps) != (
        new.id,
        new.version,
        new.agent_steps,
    ):
        raise ValueError(f"{who}: the report is of another member, version or agent steps")
    for event in events:
        if event.kind not in get_args(records.EventKind):
            raise ValueError(f"{who}: unknown event {event.kind!r}")
        if event.member != old.id or event.version not in (old.version, new.version):
            raise ValueError(
                f"{who}: event {event.kind} is of member {event.member} version {event.version}"
            )


def _held_by_checkpoint(member: Member) -> tuple[object, ...]:
    return member.agent_steps, member.checkpoint, dict(member.hyperparameters)
