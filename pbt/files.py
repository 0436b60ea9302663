"""What the store's file and the checkpoints' directories need from the file system."""

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

OLD_S = 3600.0
"""Age in seconds from which a temporary file is taken for the remains of a killed process."""


def remove_old(directory: Path, pattern: str) -> None:
    """Delete files and directories that match a pattern and are older than `OLD_S`."""
    for path in directory.glob(pattern):
        with contextlib.suppress(OSError):  # another process was quicker
            if time.time() - path.lstat().st_mtime > OLD_S:
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()


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
