"""Starts ViZDoom's engine processes so that nothing of them is ever left behind.

Every `vizdoom.DoomGame` is a process of its own, `vizdoom`, driven through shared memory. What
ViZDoom 1.3.2 does with them, each point tried, and what we make of it:

- The engine outlives an owner that is killed: it waits for ever, and three files of it stay in
  `/dev/shm`. Here the process that becomes the engine first asks the kernel to be killed when its
  owner is gone (Linux only: elsewhere such engines must be ended by hand), and the files are
  unlinked as soon as both sides have opened them.
- The engine makes `_vizdoom` and `_vizdoom.ini` in the current directory. Here its current
  directory is a temporary one, which is removed as soon as it runs.
- The engine is in its owner's process group: Ctrl-C kills it while the owner still finishes a
  slice of training. Here it has a session of its own.
- An engine that is killed raises `ViZDoomUnexpectedExitException` in its owner's next call.

ViZDoom takes the path of one executable and no more, so a two-line shell script in the temporary
directory starts `envs/doom_child.py`, which becomes the engine. An owner that is killed while it
builds its worlds leaves that directory and its engines' files: whoever builds worlds next clears
both away. The owner holds a lock on the directory, so that one in use is known by that.
"""

import contextlib
import fcntl
import os
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from envs import doom_child

SHARED_MEMORY = Path("/dev/shm")
SHARED_MEMORY_NAMES = ("ViZDoomSM", "ViZDoomMQDoom", "ViZDoomMQCtr")
"""Followed by the instance's id."""
PREFIX = "pbt-vizdoom-"
"""Of temporary directories."""
STALE_S = 60.0
"""A directory younger than this may not be locked yet, and is left alone."""


@contextlib.contextmanager
def launcher(engine: str) -> Iterator[str]:
    """An executable that starts `engine` as the module's docstring says; gone after the block.

    Engines must have been started when the block ends.

    Raises:
        ValueError: the temporary directory cannot hold executables.
    """
    _clear_stale()
    directory = tempfile.mkdtemp(prefix=PREFIX)
    lock = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        script = Path(directory, "vizdoom")
        child = [sys.executable, "-I", "-S", doom_child.__file__, directory]
        script.write_text(
            f'#!/bin/sh\nexec {shlex.join([*child, str(os.getpid()), engine])} "$@"\n'
        )
        script.chmod(0o700)
        if not os.access(script, os.X_OK):
            raise ValueError(
                f"nothing can be executed in {tempfile.gettempdir()}: set TMPDIR to a directory "
                "that is not mounted noexec"
            )
        yield str(script)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        os.close(lock)


def _clear_stale() -> None:
    """Remove what owners left that were killed while they built their worlds."""
    for directory in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # another user's, or somebody else removes it now
            if time.time() - directory.stat().st_mtime < STALE_S:
                continue
            lock = os.open(directory, os.O_RDONLY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                for note in directory.glob(f"{doom_child.NOTE}*"):
                    unlink_shared_memory(note.name.removeprefix(doom_child.NOTE))
                shutil.rmtree(directory)
            finally:
                os.close(lock)


def unlink_shared_memory(instance_id: str) -> None:
    """Take the names off memory that owner and engine have both opened: it goes with them."""
    for name in SHARED_MEMORY_NAMES:
        SHARED_MEMORY.joinpath(name + instance_id).unlink(missing_ok=True)
