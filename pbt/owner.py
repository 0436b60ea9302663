"""Owners of leases. An owner is a process, named so that others can see when it is gone."""

import functools
import os
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import psutil

_FIRST_NAMESPACE = "4026531836"
"""The namespace of process ids in which Linux starts. Other systems have no others."""


def current() -> str:
    """Return the name of the calling process: host/boot/process namespace/process id/start time.

    Boot and start time tell the process from a later one with the same id. The namespace tells it
    from the processes of another container, which may have the same ids.
    """
    pid = os.getpid()
    return "/".join((socket.gethostname(), _boot_id(), _namespace(), str(pid), _look(pid)[1]))


def machine(owner: str) -> str:
    """Return which machine, boot and process namespace an owner belongs to."""
    return owner.rpartition("/")[0].rpartition("/")[0]


def gone(owners: Iterable[str | None]) -> set[str]:
    """Return those of the owners whose processes have certainly ended."""
    return {name for name in set(owners) if name is not None and _state(name) == "gone"}


def at_work(owners: Iterable[str | None]) -> set[str]:
    """Return those of the owners whose processes are certainly alive, and not stopped."""
    return {name for name in set(owners) if name is not None and _state(name) == "at work"}


def _state(owner: str) -> Literal["gone", "stopped", "at work", "unknown"]:
    """Return what an owner's process does. Those of another host, boot or namespace are unknown."""
    parts = owner.split("/")
    if len(parts) == 4:  # older code did not name the namespace
        parts.insert(2, _FIRST_NAMESPACE)
    if len(parts) != 5 or parts[:3] != [socket.gethostname(), _boot_id(), _namespace()]:
        return "unknown"
    if not parts[3].isdecimal():
        return "unknown"
    try:
        status, started = _look(int(parts[3]))
    except (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
        return "gone"
    except (OSError, psutil.Error):
        return "unknown"
    if started != parts[4] or status in ("Z", "X", psutil.STATUS_ZOMBIE):
        return "gone"
    return "stopped" if status in ("T", "t", psutil.STATUS_STOPPED) else "at work"


@functools.cache
def _boot_id() -> str:
    """Return the kernel's id of this boot, or the boot time in seconds where there is none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return str(round(psutil.boot_time()))


def _namespace() -> str:
    """Return the number of this process's namespace of process ids."""
    try:
        return os.readlink("/proc/self/ns/pid").strip("pid:[]")
    except OSError:
        return _FIRST_NAMESPACE


def _look(pid: int) -> tuple[str, str]:
    """Return a process's status and when it started, by a clock that nobody can set if possible."""
    if Path("/proc/self/stat").exists():
        # Clock ticks since boot. Count fields from the end of the second one, the name in
        # parentheses, which may contain spaces.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return fields[0], fields[19]
    process = psutil.Process(pid)
    return process.status(), f"{process.create_time():.2f}"
