"""Become an engine: a process that dies with its owner and leaves nothing behind.

`envs.doom_engine` and `envs.starcraft_game` run this file in Python's isolated mode. It imports the
standard library only.

    python -I -S engine_child.py DIRECTORY OWNER NOTED ENGINE [ARGUMENT ...]

DIRECTORY becomes the working directory. OWNER is the process id of the owner. NOTED is the name of
one of the engine's arguments, whose value is noted in DIRECTORY; it may be empty.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
"""Option of Linux's prctl: the signal to send when the parent is gone. It survives exec. The parent
is the thread that started this process."""
NOTE = "instance-"
"""Beginning of the name of an empty file in the directory; the noted value follows."""


def main() -> None:
    """Prepare this process, then replace it by the engine."""
    directory, owner, noted, engine = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != owner:  # the owner died before prctl
        os._exit(1)
    os.setsid()  # Ctrl-C in the terminal reaches the owner only
    os.chdir(directory)
    if noted:
        value = sys.argv[sys.argv.index(noted, 5) + 1]
        os.close(os.open(NOTE + value, os.O_CREAT | os.O_WRONLY, 0o600))
    null = os.open(os.devnull, os.O_RDWR)
    for standard in range(3):
        os.dup2(null, standard)
    os.execv(engine, [engine, *sys.argv[5:]])


if __name__ == "__main__":
    main()
