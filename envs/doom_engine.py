"""Start ViZDoom's engine processes so that none of them, nor their files, is ever left behind.

Every `vizdoom.DoomGame` is a process of its own, `vizdoom`, driven through shared memory. ViZDoom
1.3.2 has these traits, each observed, and this module handles them:

- The engine outlives an owner that is killed: it waits for ever, and three files of it stay in
  `/dev/shm`. Here the process first asks the kernel to kill it when its owner is gone (on Linux
  only; elsewhere such engines must be ended by hand), and the files are unlinked as soon as both
  sides have opened them.
- The engine writes `_vizdoom` and `_vizdoom.ini` into the current directory. Here that is a
  temporary directory, which is removed once the engine runs.
- The engine is in its owner's process group, so Ctrl-C kills it while the owner still finishes a
  slice of training. Here it has a session of its own.
- An engine that is killed raises `ViZDoomUnexpectedExitException` in its owner's next call.

ViZDoom takes the path of one executable without arguments. So a two-line shell script in the
temporary directory starts `envs/engine_child.py`, which becomes the engine. An owner that is killed
while it builds its environments leaves that directory and its engines' files. The next owner
clears both away.
"""

import contextlib
import os
import shlex
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from envs import engine_child, scratch

SHARED_MEMORY = Path("/dev/shm")
SHARED_MEMORY_NAMES = ("ViZDoomSM", "ViZDoomMQDoom", "ViZDoomMQCtr")
"""Beginnings of file names; the instance's id follows."""
PREFIX = "pbt-vizdoom-"
"""Beginning of the names of temporary directories."""


@contextlib.contextmanager
def launcher(engine: str) -> Iterator[str]:
    """Provide an executable that starts an engine as the module's docstring says.

    The executable is removed after the block, by when all engines must have started.

    Args:
        engine: Path of ViZDoom's own executable.

    Raises:
        ValueError: The temporary directory cannot hold executables.
    """
    scratch.clear_stale(PREFIX, _unlink_noted)
    with scratch.directory(PREFIX) as directory:
        script = directory / "vizdoom"
        child = [sys.executable, "-I", "-S", engine_child.__file__, str(directory)]
        child += [str(os.getpid()), "+viz_instance_id", engine]
        script.write_text(f'#!/bin/sh\nexec {shlex.join(child)} "$@"\n')
        script.chmod(0o700)
        if not os.access(script, os.X_OK):
            raise ValueError(
                f"nothing can be executed in {tempfile.gettempdir()}: set TMPDIR to a directory "
                "that is not mounted noexec"
            )
        yield str(script)


def _unlink_noted(directory: Path) -> None:
    """Unlink the shared memory of the engines that were started from a directory."""
    for note in directory.glob(f"{engine_child.NOTE}*"):
        unlink_shared_memory(note.name.removeprefix(engine_child.NOTE))


def unlink_shared_memory(instance_id: str) -> None:
    """Unlink the shared memory of an engine, after both sides have opened it."""
    for name in SHARED_MEMORY_NAMES:
        SHARED_MEMORY.joinpath(name + instance_id).unlink(missing_ok=True)
