"""What becomes of a member whose checkpoint cannot be read, or whose numbers ran away."""

import contextlib
import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pbt import checkpoint, held, store
from pbt.member import Event, EventKind, Member

_log = logging.getLogger(__name__)


def event_of(kind: EventKind, member: Member, details: Mapping[str, Any]) -> Event:
    """An event of a member at the version it is given at."""
    return Event(kind, member.id, member.version, member.agent_steps, details)


def restore(claimed: held.Held, error: checkpoint.CheckpointError) -> bool:
    """Go back to the member's newest version that can be read; if there is none, it failed."""
    member = claimed.member
    _log.error("member %d: its checkpoint cannot be used: %s", member.id, error)
    old = claimed.store.previous_version(member.id, member.version)
    while old is not None:
        try:
            claimed.open_verified(old)
            child = claimed.publish_child(
                old,
                agent_steps=old.agent_steps,
                hyperparameters=old.hyperparameters,
                last_ready_steps=min(member.last_ready_steps, old.agent_steps),
                parent=(old.member, old.version),
            )
        except checkpoint.CheckpointError:
            old = claimed.store.previous_version(member.id, old.version)
            continue
        details = {
            "error": str(error),
            "from_version": member.version,
            "to_version": old.version,
            "agent_steps_repeated": member.agent_steps - old.agent_steps,
        }
        claimed.commit(child, "restore", events=[event_of("restored", child, details)])
        return True
    failed = replace(member, state="failed", window=(), counted_episodes=0)
    details = {"error": f"no checkpoint of the member can be read: {error}"}
    claimed.commit(failed, None, events=[event_of("failed", member, details)], release=True)
    return False


def diverged(claimed: held.Held, message: str) -> None:
    """The step was not applied: the last finite version stands, and waits to be replaced."""
    member = claimed.member
    details = {"error": message, "hyperparameters": dict(member.hyperparameters)}
    _log.error("member %d diverged: %s", member.id, json.dumps(details))
    dead = replace(member, state="diverged", window=(), counted_episodes=0)
    with contextlib.suppress(store.LostLease):
        event = event_of("diverged", member, details)
        claimed.commit(dead, None, events=[event], release=True)
