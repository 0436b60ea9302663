"""What the store's file and the checkpoints' directories need from the file system."""

import contextlib
import fcntl
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

OLD_S = 3600.0
"""Age in seconds from which a temporary file is taken for the remains of a killed process."""

_NETWORK = ("nfs", "cifs", "smb", "lustre", "gpfs", "beegfs", "ceph", "glusterfs", "fuse", "9p")
"""How the names of file systems of several machines begin."""


def remove_old(directory: Path, pattern: str) -> None:
    """Delete files and directories that match a pattern and are older than `OLD_S`."""
    for path in directory.glob(pattern):
        with contextlib.suppress(OSError):  # another process was quicker
            if time.time() - path.lstat().st_mtime > OLD_S:
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()


def now_in(directory: Path) -> float:
    """Return the Unix time in seconds by the clock that stamps the files of a directory.

    A file server's clock may differ from this machine's. The time is that of a file that is written
    and deleted there, or this machine's if none can be written.
    """
    probe = directory / f".tmp-clock-{secrets.token_hex(8)}"
    try:
        probe.touch(exist_ok=False)
        return probe.stat().st_mtime
    except OSError:
        return time.time()
    finally:
        with contextlib.suppress(OSError):
            probe.unlink()


def is_on_network(path: Path) -> bool:
    """Return whether a path lies on a file system of several machines, as far as Linux knows."""
    best, found = 0, ""
    with contextlib.suppress(OSError):
        resolved = str(path.absolute().resolve())
        for line in Path("/proc/self/mounts").read_text(errors="replace").splitlines():
            _, mount, kind, *_ = line.split(" ")
            mount = mount.replace("\\040", " ")
            is_above = resolved == mount or resolved.startswith(mount.rstrip("/") + "/")
            if is_above and len(mount) >= best:
                best, found = len(mount), kind
    return found.startswith(_NETWORK)


def sync_directory(path: Path) -> None:
    """Make the names in a directory survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Wait for an exclusive `flock` on an existing file or directory, and hold it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
