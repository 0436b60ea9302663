"""The records that the store keeps, and the questions that they answer about themselves.

Records: `Member`, `Version`, `Report`, `Event`, `Lease`. The functions below them say whether a
member may go on, may be copied, or has a window that may decide. `pbt.store.statements` asks the
first two in SQL.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pbt.run import RunConfig
from pbt.task import Episode

MemberState = Literal["active", "finished", "diverged", "failed", "lost"]
"""The state of a member.

- `active`: It trains, or waits for a worker.
- `finished`: It has trained `total_steps`.
- `diverged`: A number stopped being finite. A copy of another member will replace it.
- `failed`: It crashed `max_attempts` times in a row, and other members did not. A copy of another
  member will replace it.
- `lost`: It failed again while it was being replaced. Nobody claims it any more.

A new launcher makes failed and lost members active again, see `Store.forgive`.
"""
VersionKind = Literal["initial", "slice", "exploit", "explore", "reseed", "restore"]
"""How a version came about.

- `initial`: The hyperparameters were drawn.
- `slice`: The member trained.
- `exploit`: The member copied a better one, and explored.
- `explore`: The hyperparameters changed without a copy.
- `reseed`: A copy of another member replaced a diverged or failed one.
- `restore`: The member went back to an earlier version, because its checkpoint was damaged.
"""
COPIES: tuple[VersionKind, ...] = ("exploit", "reseed", "restore")
"""The kinds of version that have a parent to copy."""
EventKind = Literal[
    "exploit",
    "no-exploit",
    "explore",
    "reseed",
    "diverged",
    "crashed",
    "failed",
    "takeover",
    "restored",
    "forked",
    "extended",
    "revived",
]
"""The store writes `crashed`, `failed`, `takeover`, `extended` and `revived`. Workers write the
others."""


@dataclass(frozen=True)
class Member:
    """One member of the population at its last committed version."""

    id: int
    version: int
    """Goes up by one with each commit that has a kind. Version 0 is the initial draw."""
    agent_steps: int
    """Agent steps that the member itself has trained. Never copied. A restore may lower them."""
    hyperparameters: Mapping[str, float]
    """Real values by name. Those of integers are real too, and are rounded where they are used."""
    window: tuple[float, ...] = ()
    """Returns of the last counted episodes, oldest first. Starts again when the task loads or is
    rebuilt."""
    counted_episodes: int = 0
    """Number of counted episodes since then. The window is valid from `min_episodes` on."""
    last_ready_steps: int = 0
    """The member's agent steps when it was last ready."""
    checkpoint: str | None = None
    """Name of the version's checkpoint; None only at version 0."""
    parent: tuple[int, int] | None = None
    """(member, version) that the last exploit, reseed or restore copied."""
    attempts: int = 0
    """Attempts at this version without a commit: crashes in a row, plus one while a worker holds
    the member. The store keeps it; `commit` ignores it."""
    error: str | None = None
    """Traceback of the last crash that left one. The store keeps it; `commit` ignores it."""
    state: MemberState = "active"
    score: float | None = None
    """Mean of the last valid window, by which members are ranked; None before the first one."""
    owner: str | None = None
    """The process that holds the member's lease, see `pbt.owner`."""
    fence: int = 0
    """Number of the last lease, which every write under it names. It only goes up."""
    lease_expires_s: float | None = None
    """Unix time in seconds, by the database's clock, at which the lease expires. Without an owner,
    that until which the member rests after a crash."""

    @property
    def window_mean(self) -> float:
        """Mean of the window, NaN when empty."""
        return mean(self.window)


@dataclass(frozen=True)
class Version:
    """One committed state of one member: a node of the family tree."""

    member: int
    version: int
    kind: VersionKind
    agent_steps: int
    """The member's agent steps at this version."""
    checkpoint: str | None
    hyperparameters: Mapping[str, float]
    parent: tuple[int, int] | None = None
    """(member, version) that it copied; the member's own earlier version for a restore."""
    score: float | None = None
    """Mean of the window if the version is a slice and its window is valid."""
    created_s: float = 0.0
    """Unix time in seconds by the database's clock."""


@dataclass(frozen=True)
class Report:
    """What one slice of training did. Only versions of kind "slice" have one."""

    member: int
    version: int
    agent_steps: int
    """The member's agent steps after the slice."""
    slice_steps: int
    """Agent steps of the slice."""
    seconds: float
    """Seconds of training, without waiting, loading and publishing."""
    hyperparameters: Mapping[str, float]
    """The values that the slice trained with."""
    episodes: tuple[Episode, ...]
    """Episodes that finished in the slice, on the axis of the member's agent steps."""
    metrics: Mapping[str, float]
    """Means over the slice."""
    created_s: float = 0.0
    """Unix time in seconds by the database's clock."""


@dataclass(frozen=True)
class Event:
    """A decision or an incident, with the evidence for it."""

    kind: EventKind
    member: int
    version: int
    """The member's version that the event led to (exploit, reseed, restored) or happened at."""
    agent_steps: int
    """The member's agent steps."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """The evidence, JSON. Its keys depend on the kind."""
    id: int = 0
    """Position in the order of commits, set by the store."""
    created_s: float = 0.0
    """Unix time in seconds by the database's clock, set by the store."""


@dataclass(frozen=True)
class Lease:
    """The right to train a member until the lease expires or another worker claims the member."""

    member: Member
    """The member as it was last committed under this lease."""
    owner: str
    fence: int


class DamagedRow(ValueError):
    """A row of the store holds what no store writes. The message names its table and its id."""


# Numbers and events.


def mean(values: Sequence[float]) -> float:
    """Return the arithmetic mean without overflow, never outside of the values; NaN if empty."""
    if not values:
        return math.nan
    if min(values) == max(values):  # dividing their sum may round
        return values[0]
    try:
        return math.fsum(values) / len(values)
    except OverflowError:  # the sum of huge values, not their mean
        return math.fsum(value / len(values) for value in values)


def check_finite(value: float | None, what: str) -> None:
    """Raise `ValueError` if a number is NaN or infinite. None passes."""
    if value is not None and not math.isfinite(value):
        raise ValueError(f"{what} is {value}: only finite numbers are stored")


def event_of(kind: EventKind, member: Member, details: Mapping[str, Any]) -> Event:
    """Return an event of a member at its present version."""
    return Event(kind, member.id, member.version, member.agent_steps, details)


def event_record(event: Event) -> dict[str, Any]:
    """Return an event as one line of `events.jsonl`, with the fields of `Event` as keys."""
    order = ("id", "kind", "member", "version", "agent_steps", "created_s")
    return {name: getattr(event, name) for name in order} | {"details": dict(event.details)}


# The window of returns.


def extend_window(
    window: Sequence[float], counted_episodes: int, episodes: Iterable[Episode], size: int
) -> tuple[tuple[float, ...], int]:
    """Add finished episodes to a member's window of returns.

    An episode counts only if it began after the member's last exploit, load or rebuild.

    Args:
        window: Returns of the last counted episodes; start from `()` after an exploit.
        counted_episodes: Number of counted episodes so far; start from 0 after an exploit.
        episodes: Episodes in the order in which they finished.
        size: Largest length of the window.

    Returns:
        The new window and the new number of counted episodes.
    """
    counted = [episode.episode_return for episode in episodes if episode.counted]
    return tuple([*window, *counted][-size:]), counted_episodes + len(counted)


def has_valid_window(member: Member, config: RunConfig) -> bool:
    """Return whether a member's window may decide.

    The window is valid after `min_episodes` counted episodes. With n parallel environments the
    first episodes to finish are the shortest, so `min_episodes` should be at least 2 n. Otherwise
    a member that has just copied another one would look worse wherever return grows with length.
    """
    least = max(config.min_episodes, config.window)
    return len(member.window) == config.window and member.counted_episodes >= least


# Who may go on, and who may be copied.


def is_training(member: Member, config: RunConfig) -> bool:
    """Return whether a member is sound and has steps left.

    A finished member has steps left if the run was extended while its worker knew the old total.
    """
    return member.state in ("active", "finished") and member.agent_steps < config.total_steps


def may_go_on(member: Member, config: RunConfig) -> bool:
    """Return whether a worker may train or replace a member, now or later.

    Diverged and failed members go on when a copy replaces them, so only in a run that exploits.
    """
    is_replaceable = member.state in ("diverged", "failed") and config.exploit != "none"
    has_steps_left = member.agent_steps < config.total_steps
    return is_training(member, config) or (is_replaceable and has_steps_left)


def is_dead(member: Member) -> bool:
    """Return whether a member diverged, failed or was lost, so nobody trains it as it is."""
    return member.state in ("diverged", "failed", "lost")


def is_donor(member: Member) -> bool:
    """Return whether a member may be copied: it is sound, and has a checkpoint."""
    return member.state in ("active", "finished") and member.checkpoint is not None


def unfinished(members: Sequence[Member], config: RunConfig) -> list[Member]:
    """Return the members that may go on; none if there is no member left to replace them with."""
    going_on = [member for member in members if may_go_on(member, config)]
    # A member that still trains is a donor as soon as it has a checkpoint.
    hope = any(is_training(m, config) for m in going_on) or any(map(is_donor, members))
    return going_on if hope else []
