"""Commands in processes of their own, as in a user's terminal."""

import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]


def start(here, *arguments):
    """Python with some arguments in the directory `here`, with pipes."""
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        cwd=here,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
