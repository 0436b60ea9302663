"""Who holds a lease: one process, named so that others can see that it has gone."""

import os
import socket
from collections.abc import Iterable
from pathlib import Path

import psutil


def current() -> str:
    """The calling process: host, boot, process id and start time, separated by slashes.

    The start time tells a process from a later one that was given the same id; the boot id does the
    same across reboots.
    """
    pid = os.getpid()
    return "/".join((socket.gethostname(), _boot_id(), str(pid), _started(pid)))


def is_gone(owner: str) -> bool:
    """Whether the owner's process certainly ended: of one on another host, that is never known."""
    parts = owner.split("/")
    if len(parts) != 4 or parts[0] != socket.gethostname():
        return False
    _, boot_id, pid, started = parts
    if boot_id != _boot_id():
        return True
    try:
        zombie = psutil.Process(int(pid)).status() == psutil.STATUS_ZOMBIE
        return zombie or _started(int(pid)) != started
    except (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
        return True
    except (ValueError, OSError, psutil.Error):
        return False


def gone(owners: Iterable[str | None]) -> set[str]:
    """Those of the owners whose processes certainly ended."""
    return {name for name in set(owners) if name is not None and is_gone(name)}


def _boot_id() -> str:
    """The kernel's id of this boot; the boot time in seconds where there is none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return str(round(psutil.boot_time()))


def _started(pid: int) -> str:
    """When a process started: clock ticks since boot, which no change of the wall clock moves."""
    if Path("/proc/self/stat").exists():
        # The second field, the name in parentheses, may hold spaces: count from its end.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    return f"{psutil.Process(pid).create_time():.2f}"
