"""The records that the store keeps: members, versions, reports, events, leases."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pbt.task import Episode

MemberState = Literal["active", "diverged", "failed", "finished"]
VersionKind = Literal["initial", "slice", "exploit", "explore", "reseed", "restore"]
"""`explore` is exploring without copying anybody (the toy's); the others are what they say."""
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
]
"""The store itself writes `crashed`, `failed`, `takeover` and `extended`, the worker the others."""


def mean(values: Sequence[float]) -> float:
    """Arithmetic mean, without overflow, and never outside of the values; NaN of nothing."""
    if not values:
        return math.nan
    if min(values) == max(values):  # dividing their sum may round
        return values[0]
    try:
        return math.fsum(values) / len(values)
    except OverflowError:  # the sum of huge values, not their mean
        return math.fsum(value / len(values) for value in values)


@dataclass(frozen=True)
class Member:
    """One member of the population at its last committed version."""

    id: int
    version: int
    """Goes up by exactly one per commit; 0 is the initial draw, never trained."""
    agent_steps: int
    """The member's own training, never copied; falls only in a restore."""
    hyperparameters: Mapping[str, float]
    """Latent real values, also of integers."""
    window: tuple[float, ...] = ()
    """Returns of the last counted episodes since the last exploit, load or rebuild, in order."""
    counted_episodes: int = 0
    """How many episodes counted since then: the window is valid from `min_episodes` on."""
    last_ready_steps: int = 0
    """The member's agent steps when it was last ready, whatever came of it."""
    checkpoint: str | None = None
    """Directory of this version below the run's checkpoint directory; None only at version 0."""
    parent: tuple[int, int] | None = None
    """(member, version) that the last exploit, reseed or restore copied; a restore's is its own."""
    attempts: int = 0
    """Tries begun at this version that ended neither in a commit nor in a clean release: crashes
    in a row, plus one while somebody holds the lease. Kept by the store, ignored in `commit`."""
    error: str | None = None
    """Traceback of the last crash that left one. Kept by the store, ignored in `commit`."""
    state: MemberState = "active"
    score: float | None = None
    """Mean of the last window that was valid: what it is ranked by; None before, never NaN."""
    owner: str | None = None
    fence: int = 0
    lease_expires_s: float | None = None
    """On the database's clock, seconds."""

    @property
    def window_mean(self) -> float:
        """Mean of the window, NaN when empty."""
        return mean(self.window)


@dataclass(frozen=True)
class Version:
    """One committed state of one member: the nodes of the family tree."""

    member: int
    version: int
    kind: VersionKind
    agent_steps: int
    checkpoint: str | None
    hyperparameters: Mapping[str, float]
    parent: tuple[int, int] | None = None
    """(member, version): the donor for exploit and reseed, its own earlier one for restore."""
    score: float | None = None
    """Mean of the window if it is valid at this version (kind slice only), else None."""
    created_s: float = 0.0
    """Unix time on the database's clock."""


@dataclass(frozen=True)
class Report:
    """What one slice of training did. Only versions of kind "slice" have one."""

    member: int
    version: int
    agent_steps: int
    """The member's total after the slice."""
    slice_steps: int
    seconds: float
    """Time spent training, without waiting, loading and publishing."""
    hyperparameters: Mapping[str, float]
    episodes: tuple[Episode, ...]
    metrics: Mapping[str, float]
    created_s: float = 0.0


@dataclass(frozen=True)
class Event:
    """A decision, with all that decided it."""

    kind: EventKind
    member: int
    version: int
    """The member's version that the event led to (exploit, reseed, restored) or was decided at."""
    agent_steps: int
    details: Mapping[str, Any] = field(default_factory=dict)
    id: int = 0
    """Set by the store, in order of commit."""
    created_s: float = 0.0


@dataclass(frozen=True)
class Lease:
    """The right to train `member` until the lease expires; the fence makes a late commit harmless.

    Identified by (member's id, owner, fence); `member` is the committed version it began with.
    """

    member: Member
    owner: str
    fence: int
