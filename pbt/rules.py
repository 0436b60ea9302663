"""What may follow what in a run: pure functions of records, used in the store's transactions."""

from collections.abc import Collection, Mapping, Sequence
from typing import get_args

from pbt import member as records
from pbt import schema, window
from pbt.member import Event, Member, Report, VersionKind
from pbt.run import RunConfig

_BEHIND_SLICES = 2
"""A worker leaves its resident members for one that is more than so many slices behind them."""
_CLOCK_SLACK_S = 1.0


def given_up(member: Member, config: RunConfig) -> bool:
    """Whether a member is dead for good: the tries to re-seed it are used up as well."""
    return member.state == "failed" and member.attempts > config.max_attempts


def may_go_on(member: Member, config: RunConfig) -> bool:
    """Whether a member has steps left and is not dead for good (whoever holds it now)."""
    if member.agent_steps >= config.total_steps:
        return False
    if is_training(member, config):
        return True
    # A dead member is re-seeded from another one, unless nobody is ever copied.
    dead = member.state in ("diverged", "failed")
    return dead and config.exploit != "none" and not given_up(member, config)


def is_training(member: Member, config: RunConfig) -> bool:
    """Whether a member is sound and has steps left.

    One that finished has, if the run was extended while its worker still knew the old total.
    """
    return member.state in ("active", "finished") and member.agent_steps < config.total_steps


def is_donor(member: Member) -> bool:
    """Whether a member may be copied at all: sound, and something of it is on disk."""
    return member.state in ("active", "finished") and member.checkpoint is not None


def has_valid_window(member: Member, config: RunConfig) -> bool:
    """Whether a member's last returns may decide."""
    return window.is_valid(
        member.window, member.counted_episodes, config.min_episodes, config.window
    )


def lapsed(member: Member, now: float, dead_owners: Collection[str], config: RunConfig) -> bool:
    """Whether nobody holds a member, or whoever held it may be relieved."""
    expires = member.lease_expires_s
    if member.owner is None or member.owner in dead_owners or expires is None:
        return True
    # Farther ahead than a lease lasts: the clock was set back. At worst a needless takeover.
    return not now < expires <= now + config.lease_seconds + _CLOCK_SLACK_S


def exhausted(
    members: Sequence[Member], now: float, dead_owners: Collection[str], config: RunConfig
) -> list[Member]:
    """Members whose tries are used up, and whom nobody holds: one more claim is one too many."""
    return [
        member
        for member in members
        if may_go_on(member, config)
        and member.attempts >= config.max_attempts
        and lapsed(member, now, dead_owners, config)
    ]


def choose(
    members: Sequence[Member],
    residents: Mapping[int, int],
    now: float,
    dead_owners: Collection[str],
    config: RunConfig,
) -> Member | None:
    """Which member a worker that holds `residents` (versions by member) takes next, if any.

    The one with the fewest agent steps, but rather one that it has in memory. Members that have not
    begun come first, all of them: their building has to be paid for anyway, and who starts early
    would meet few others and be copied by many. Among equals another one is first each time: who
    is always first looks at others that are always a slice behind.
    """
    somebody_to_copy = any(is_donor(member) for member in members)  # never a dead one itself
    free = [
        member
        for member in members
        if may_go_on(member, config)
        and lapsed(member, now, dead_owners, config)
        and (is_training(member, config) or somebody_to_copy)
    ]
    free.sort(key=lambda m: (m.agent_steps, (m.id - m.version) % config.population))
    free = [member for member in free if member.agent_steps == 0] or free
    warm = [member for member in free if residents.get(member.id) == member.version]
    if warm:
        ahead = warm[0].agent_steps - free[0].agent_steps
        if ahead <= _BEHIND_SLICES * config.report_interval:
            return warm[0]
    return free[0] if free else None


def unfinished(members: Sequence[Member], config: RunConfig) -> list[Member]:
    """Members that somebody trains or that can still be claimed, now or later."""
    going_on = [member for member in members if may_go_on(member, config)]
    # An active member without a checkpoint is no donor yet, but will be.
    hope = any(is_training(m, config) for m in going_on) or any(map(is_donor, members))
    return going_on if hope else []


def check_member(member: Member, config: RunConfig) -> None:
    """What must hold of any committed state."""
    who = f"member {member.id}"
    if member.state not in get_args(records.MemberState):
        raise ValueError(f"{who} has the unknown state {member.state!r}")
    if not 0 <= member.agent_steps <= config.total_steps:
        raise ValueError(
            f"{who} has {member.agent_steps} agent steps, not 0 to {config.total_steps}"
        )
    for episode_return in member.window:
        schema.finite(episode_return, f"{who}'s return")
    if len(member.window) > config.window:
        raise ValueError(f"{who}'s window has {len(member.window)} of at most {config.window}")
    schema.finite(member.score, f"{who}'s score")
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
    """What must hold between a committed state and the next."""
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
    if kind is None and (new.agent_steps, new.checkpoint, dict(new.hyperparameters)) != (
        old.agent_steps,
        old.checkpoint,
        dict(old.hyperparameters),
    ):
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
    if report is not None:
        if (report.member, report.version, report.agent_steps) != (
            new.id,
            new.version,
            new.agent_steps,
        ):
            raise ValueError(f"{who}: the report is of another member, version or agent steps")
        for episode in report.episodes:
            schema.finite(episode.episode_return, f"{who}'s return")
    for event in events:
        if event.kind not in get_args(records.EventKind):
            raise ValueError(f"{who}: unknown event {event.kind!r}")
        if event.member != old.id or event.version not in (old.version, new.version):
            raise ValueError(
                f"{who}: event {event.kind} is of member {event.member} version {event.version}"
            )
