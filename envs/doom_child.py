"""What turns into a ViZDoom engine: a process that dies with its owner and keeps to itself.

Run as a file by `envs.doom_engine`, with Python's isolated mode; imports the standard library only.

    python -I -S doom_child.py DIRECTORY OWNER ENGINE [ARGUMENT ...]
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
"""Of Linux's prctl: the signal to get when the parent is gone. Survives exec."""
NOTE = "instance-"
"""An empty file in the directory is named so, followed by the engine's instance id."""


def main() -> None:
    """Prepare this process, then become the engine; returns never."""
    directory, owner, engine = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != owner:  # it died before we could ask
        os._exit(1)
    os.setsid()  # Ctrl-C in the terminal is the owner's to handle
    os.chdir(directory)
    instance_id = sys.argv[sys.argv.index("+viz_instance_id") + 1]
    os.close(os.open(NOTE + instance_id, os.O_CREAT | os.O_WRONLY, 0o600))
    null = os.open(os.devnull, os.O_RDWR)
    for standard in range(3):
        os.dup2(null, standard)
    os.execv(engine, [engine, *sys.argv[4:]])


if __name__ == "__main__":
    main()
