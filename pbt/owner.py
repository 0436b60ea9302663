"""Owners of leases. An owner is a process, named so that others can see when it is gone."""

import os
import socket
from collections.abc import Iterable
from pathlib import Path

import psutil


def current() -> str:
    """Return the name of the calling process: host/boot/process id/start time.

    Boot and start time tell the process from a later one with the same id.
    """
    pid = os.getpid()
    return "/".join((socket.gethostname(), _boot_id(), str(pid), _started(pid)))


def is_gone(owner: str) -> bool:
    """Return whether an owner's process has certainly ended. Another host's never has."""
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
    """Return those of the owners whose processes have certainly ended."""
    return {name for name in set(owners) if name is not None and is_gone(name)}


def _boot_id() -> str:
    """Return the kernel's id of this boot, or the boot time in seconds where there is none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return str(round(psutil.boot_time()))


def _started(pid: int) -> str:
    """Return when a process started, by a clock that nobody can set where there is one."""
    if Path("/proc/self/stat").exists():
        # Clock ticks since boot. Count fields from the end of the second one, the name in
        # parentheses, which may contain spaces.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    return f"{psutil.Process(pid).create_time():.2f}"
