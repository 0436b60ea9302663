"""Rescue a member whose checkpoint cannot be read, or which has diverged."""

import contextlib
import json
import logging
from dataclasses import replace

from pbt import checkpoint, claim, records, store

_log = logging.getLogger(__name__)


def origin(claimed: claim.Claim) -> int:
    """Return the version whose checkpoint the member has: an earlier one after restores."""
    version = claimed.store.version(claimed.member.id, claimed.member.version)
    while version.kind == "restore" and version.parent is not None:
        version = claimed.store.version(*version.parent)
    return version.version


def restore(
    claimed: claim.Claim, error: checkpoint.CheckpointError, before: int | None = None
) -> bool:
    """Go back to the member's newest readable version; without one, mark the member failed.

    That version has more agent steps than the member if it could not be read at an earlier restore.

    Args:
        claimed: The claimed member.
        error: Why its checkpoint cannot be used.
        before: Version that the readable one is older than; the present one by default.

    Returns:
        Whether there was a readable version.
    """
    member = claimed.member
    _log.error("member %d: its checkpoint cannot be used: %s", member.id, error)
    old = claimed.store.previous_version(member.id, before or member.version)
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
        except checkpoint.NotThere:
            raise
        except checkpoint.CheckpointError:
            old = claimed.store.previous_version(member.id, old.version)
            continue
        details = {
            "error": str(error),
            "from_version": member.version,
            "to_version": old.version,
            "agent_steps_repeated": max(0, member.agent_steps - old.agent_steps),
        }
        claimed.commit(child, "restore", events=[records.event_of("restored", child, details)])
        return True
    failed = replace(member, state="failed", window=(), counted_episodes=0)
    details = {"error": f"no checkpoint of the member can be read: {error}"}
    claimed.commit(failed, None, events=[records.event_of("failed", member, details)], release=True)
    return False


def diverged(claimed: claim.Claim, message: str) -> None:
    """Mark a member diverged. Its last finite version stays until a copy replaces it."""
    member = claimed.member
    details = {"error": message, "hyperparameters": dict(member.hyperparameters)}
    _log.error("member %d diverged: %s", member.id, json.dumps(details))
    dead = replace(member, state="diverged", window=(), counted_episodes=0)
    with contextlib.suppress(store.LostLease):
        event = records.event_of("diverged", member, details)
        claimed.commit(dead, None, events=[event], release=True)
