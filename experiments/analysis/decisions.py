"""The decisions of a run, one row per decision, from its events."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from experiments.analysis.history import History
from pbt.records import Event


@dataclasses.dataclass(frozen=True)
class Decision:
    """An event, with its evidence as far as it was recorded."""

    kind: str
    member: int
    agent_steps: int
    """The member's own agent steps."""
    elapsed_s: float
    """Seconds since the run was created."""
    other: int | None
    """The donor, or the member that was no better."""
    own_mean: float | None
    """Mean return of the member's window."""
    other_mean: float | None
    """Mean return of the other's window."""
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
    """Return all decisions in order. The `explore` of a copy is part of that copy's row."""
    created = min((version.created_s for version in history.versions), default=0.0)
    copies = {(e.member, e.version) for e in history.events if e.kind in ("exploit", "reseed")}
    return [
        _decision(history, event, created)
        for event in history.events
        if not (event.kind == "explore" and (event.member, event.version) in copies)
    ]


def number(value: Any) -> float | None:
    """Return a value of an event's details if it is a finite number, else None."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) else None


def reason(details: Mapping[str, Any]) -> str:
    """Return why a decision was made, else the last line of an error; empty without either."""
    found = details.get("reason", "")
    if not found and "error" in details:
        lines = str(details["error"]).strip().splitlines()
        found = lines[-1] if lines else ""
    return str(found)


def _decision(history: History, event: Event, created: float) -> Decision:
    details = event.details
    for_good = "given up for good: " if details.get("for_good") else ""
    other = details.get("donor", details.get("opponent"))
    before, after = _change(history, event)
    return Decision(
        kind=event.kind,
        member=event.member,
        agent_steps=event.agent_steps,
        elapsed_s=max(0.0, event.created_s - created),
        other=other if isinstance(other, int) else None,
        own_mean=number(details.get("own_mean")),
        other_mean=number(details.get("opponent_mean")),
        t=number(details.get("t")),
        degrees_of_freedom=number(details.get("degrees_of_freedom")),
        p=number(details.get("p")),
        reason=for_good + reason(details),
        before=before,
        after=after,
    )


def _change(history: History, event: Event) -> tuple[dict[str, float], dict[str, float]]:
    """Return the hyperparameters before and after an event that made a version of its own."""
    version = history.tree.versions.get((event.member, event.version))
    last = history.tree.versions.get((event.member, event.version - 1))
    if version is None or last is None or event.kind not in ("exploit", "reseed", "explore"):
        return {}, {}
    used = history.config.space.used
    before, after = used(last.hyperparameters), used(version.hyperparameters)
    return ({n: float(v) for n, v in before.items()}, {n: float(v) for n, v in after.items()})
