"""Become a ViZDoom engine: a process that dies with its owner and leaves nothing behind.

`envs.doom_engine` runs this file in Python's isolated mode. It imports the standard library only.

    python -I -S doom_child.py DIRECTORY OWNER ENGINE [ARGUMENT ...]
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
"""Option of Linux's prctl: the signal to send when the parent is gone. It survives exec."""
NOTE = "instance-"
"""Beginning of the name of an empty file in the directory; the engine's instance id follows."""


def main() -> None:
    """Prepare this process, then replace it by the engine."""
    directory, owner, engine = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != owner:  # the owner died before prctl
        os._exit(1)
    os.setsid()  # Ctrl-C in the terminal reaches the owner only
    os.chdir(directory)
    instance_id = sys.argv[sys.argv.index("+viz_instance_id") + 1]
    os.close(os.open(NOTE + instance_id, os.O_CREAT | os.O_WRONLY, 0o600))
    null = os.open(os.devnull, os.O_RDWR)
    for standard in range(3):
        os.dup2(null, standard)
    os.execv(engine, [engine, *sys.argv[4:]])


if __name__ == "__main__":
    main()
