"""Temporary directories of engines, which the next owner clears away if theirs was killed.

A lock on a directory tells whether it is still in use. The kernel drops it with its owner.
"""

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

STALE_S = 60.0
"""Age in seconds below which a directory is left alone, since it may not be locked yet."""


@contextlib.contextmanager
def directory(prefix: str) -> Iterator[Path]:
    """Provide a temporary directory whose name begins with `prefix`; remove it after the block."""
    path = Path(tempfile.mkdtemp(prefix=prefix))
    lock = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(lock)


def clear_stale(prefix: str, before: Callable[[Path], None] | None = None) -> None:
    """Remove the directories of owners that were killed.

    Args:
        prefix: Beginning of the directories' names.
        before: Called with each directory before it is removed.
    """
    for path in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        with contextlib.suppress(OSError):  # another user's, or another process removes it now
            if time.time() - path.stat().st_mtime < STALE_S:
                continue
            lock = os.open(path, os.O_RDONLY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if before is not None:
                    before(path)
                shutil.rmtree(path)
            finally:
                os.close(lock)
