"""Why a worker or a run ends: exit codes, and the last word on a population."""

import json

from pbt.store import Store

EXIT_DEAD = 1
"""Every member diverged or failed for good."""
EXIT_NO_RUN = 2
"""There is no run at the given place."""
EXIT_DISK_FULL = 74
"""EX_IOERR of sysexits.h: starting another worker would not help."""
EXIT_BUSY = 75
"""EX_TEMPFAIL: the store stayed locked, or the like: another worker may have more luck."""


def verdict(store: Store) -> tuple[int, str] | None:
    """Exit code and message of a run that is over; None while somebody may still train."""
    if store.unfinished():
        return None
    total = store.config.total_steps
    members = store.members()
    dead = [member for member in members if member.agent_steps < total]
    if not dead:
        return 0, f"finished: {len(members)} members trained {total:,} agent steps each"
    story = _first_death(store)
    if len(dead) == len(members):
        return EXIT_DEAD, f"all {len(members)} members diverged or failed; {story}"
    unspent = sum(total - member.agent_steps for member in dead)
    return 0, (
        f"finished: {len(members) - len(dead)} of {len(members)} members; the others diverged or"
        f" failed for good and left {unspent:,} agent steps unspent; {story}"
    )


def _first_death(store: Store) -> str:
    first = next((event for event in store.events() if event.kind in ("diverged", "failed")), None)
    if first is None:
        return "no event says why"
    hyperparameters = store.version(first.member, first.version).hyperparameters
    lines = str(first.details.get("error", "")).strip().splitlines() or ["unknown"]
    return (
        f"the first was member {first.member}, {first.kind} at {first.agent_steps:,} agent steps"
        f" with {json.dumps(dict(hyperparameters))}: {lines[-1]}"
    )
