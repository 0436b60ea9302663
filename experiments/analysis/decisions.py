"""What was decided in a run, one row per decision, from its events."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from experiments.analysis.history import History
from pbt.records import Event


@dataclasses.dataclass(frozen=True)
class Decision:
    """An event, with what it was decided by where it says so."""

    kind: str
    member: int
    agent_steps: int
    """The member's own."""
    elapsed_s: float
    """Since the run was created."""
    other: int | None
    """The donor, or the member that was no better."""
    own_mean: float | None
    """Mean of the window that was compared."""
    other_mean: float | None
    t: float | None
    degrees_of_freedom: float | None
    p: float | None
    reason: str
    before: Mapping[str, float]
    """Hyperparameters as the learner used them; empty if they did not change."""
    after: Mapping[str, float]

    @property
    def is_copy(self) -> bool:
        """Whether the member took something from another one."""
        return self.kind in ("exploit", "reseed")


def decisions(history: History) -> list[Decision]:
    """All decisions in order; the `explore` that belongs to a copy is told with it."""
    created = min((version.created_s for version in history.versions), default=0.0)
    explored = {(e.member, e.version): e for e in history.events if e.kind == "explore"}
    copies = {(e.member, e.version) for e in history.events if e.kind in ("exploit", "reseed")}
    return [
        _decision(history, event, explored.get((event.member, event.version)), created)
        for event in history.events
        if not (event.kind == "explore" and (event.member, event.version) in copies)
    ]


def _decision(history: History, event: Event, explored: Event | None, created: float) -> Decision:
    details = event.details
    other = details.get("donor", details.get("opponent"))
    before, after = _change(history, event)
    reason = details.get("reason", "")
    if not reason and "error" in details:
        lines = str(details["error"]).strip().splitlines()
        reason = lines[-1] if lines else ""
    return Decision(
        kind=event.kind,
        member=event.member,
        agent_steps=event.agent_steps,
        elapsed_s=max(0.0, event.created_s - created),
        other=other if isinstance(other, int) else None,
        own_mean=_number(details.get("own_mean")),
        other_mean=_number(details.get("opponent_mean")),
        t=_number(details.get("t")),
        degrees_of_freedom=_number(details.get("degrees_of_freedom")),
        p=_number(details.get("p")),
        reason=str(reason),
        before=before,
        after=after,
    )


def _change(history: History, event: Event) -> tuple[dict[str, float], dict[str, float]]:
    """Hyperparameters before and after a decision that made a version of its own."""
    version = history.tree.versions.get((event.member, event.version))
    last = history.tree.versions.get((event.member, event.version - 1))
    if version is None or last is None or event.kind not in ("exploit", "reseed", "explore"):
        return {}, {}
    used = history.config.space.used
    before, after = used(last.hyperparameters), used(version.hyperparameters)
    return ({n: float(v) for n, v in before.items()}, {n: float(v) for n, v in after.items()})


def _number(value: Any) -> float | None:
    """A finite number, or None: evidence is recorded as JSON, and not all of it by every rule."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) else None
