"""Why a worker or a run ends: its exit code and its last message."""

import contextlib
import json
import re
import sysconfig
from collections.abc import Sequence

from pbt import disk
from pbt.records import Member
from pbt.store import NotARun, ReadOnly, Store, StoreError

EXIT_DEAD = 1
"""The run cannot go on: every member diverged, failed or was lost, all of them crash alike, or the
checkpoints are not there."""
EXIT_NO_RUN = 2
"""There is no run at the given place."""
EXIT_UNSPENT = 3
"""The run is over, but some members died and left steps unspent."""
EXIT_DISK_FULL = 74
"""The disk is full, so another worker would not help. EX_IOERR of sysexits.h."""
EXIT_BUSY = 75
"""The store could not be used, so a later worker may succeed. EX_TEMPFAIL of sysexits.h."""

_FRAME = re.compile(r'^ +File "([^"<]+)", line (\d+)(?:, in (.+))?$', re.MULTILINE)
"""A frame of a traceback. A syntax error is in no function."""
_CAUSE = "\nThe above exception was the direct cause of the following exception:\n"
"""What stands between the traceback of a cause and that of the exception raised from it."""
_LIBRARIES = tuple(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib"))


def of(store: Store) -> tuple[int, str] | None:
    """Return exit code and message of a run that is over; None while a member may go on."""
    if unfinished := store.unfinished():
        return (EXIT_DEAD, _common_fault(store, unfinished)) if store.all_crash_alike() else None
    total = store.config.total_steps
    members = store.members()
    dead = [member for member in members if member.agent_steps < total]
    if not dead:
        if len(members) == 1:
            return 0, f"finished: 1 member trained {total:,} steps"
        return 0, f"finished: {len(members)} members trained {total:,} steps each"
    story = _first_death(store)
    if any(member.state in ("failed", "lost") for member in dead):
        story += "; the same command tries those that failed again"
    if len(dead) == len(members):
        return EXIT_DEAD, f"all {len(members)} members diverged or failed; {story}"
    unspent = sum(total - member.agent_steps for member in dead)
    return EXIT_UNSPENT, (
        f"finished: {len(members) - len(dead)} of {len(members)} members; the others diverged or"
        f" failed for good and left {unspent:,} steps unspent; {story}"
    )


def of_error(error: StoreError) -> int:
    """Return the exit code of a worker that the store's error ends."""
    if disk.is_full(error):
        return EXIT_DISK_FULL
    return EXIT_NO_RUN if isinstance(error, NotARun | ReadOnly) else EXIT_BUSY


def _common_fault(store: Store, members: Sequence[Member]) -> str:
    error = next((member.error for member in members if member.error), "their workers were killed")
    return (
        f"all {len(members)} members that may go on crash alike, so the fault is none of their own"
        f" (the last error: {described(store, error)}); mend it, and the same command"
        " goes on"
    )


def described(store: Store, error: str) -> str:
    """Return the last line of a crash's traceback, its place, and the log that has all of it."""
    return last_words(error) + _log(store, error)


def last_words(error: str) -> str:
    """Return the last line of a traceback, and the place in the learner's own code.

    That is the last frame outside of Python's library and of installed packages, or the last one if
    all are there. Of an exception that was raised from another one it is the other one's. A text
    without frames has no place.
    """
    said = (error.strip().splitlines() or ["unknown"])[-1]
    frames = _FRAME.findall(error.partition(_CAUSE)[0])
    own = [frame for frame in frames if not frame[0].startswith(_LIBRARIES)] or frames
    if not own:
        return said
    file, line, function = own[-1]
    return f"{said}, in {file}, line {line}{f', in {function}' if function else ''}"


def _log(store: Store, error: str) -> str:
    """Return which log has a traceback, for the end of a message; empty if there is none."""
    wanted = error.strip()
    for log in sorted((store.path.parent / "logs").glob("worker-*.log")):
        with contextlib.suppress(OSError):
            if wanted and wanted in log.read_text(errors="replace"):
                return f"; the whole traceback is in {log}"
    return ""


def _first_death(store: Store) -> str:
    deaths = (e for e in store.events(damaged=[]) if e.kind in ("diverged", "failed"))
    first = next(deaths, None)
    if first is None:
        return "no event says why"
    hyperparameters = store.version(first.member, first.version).hyperparameters
    error = str(first.details.get("error", ""))
    return (
        f"the first was member {first.member}, {first.kind} at {first.agent_steps:,} steps"
        f" with {json.dumps(dict(hyperparameters))}: {described(store, error)}"
    )
