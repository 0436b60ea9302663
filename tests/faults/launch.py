"""A launcher process: launch.py RUN_DIR WORKERS [HANG_S]."""

import signal
import sys
from pathlib import Path

import shifted_clock

from pbt import local

shifted_clock.install()

# Tests started in the background of a shell would hand down an ignored SIGINT.
signal.signal(signal.SIGINT, signal.default_int_handler)

child = Path(__file__).with_name("child.py")
sys.exit(
    local.run(
        Path(sys.argv[1]),
        int(sys.argv[2]),
        command=(sys.executable, str(child)),
        restart_pause_s=0.05,
        hang_s=float(sys.argv[3]) if len(sys.argv) > 3 else None,
    )
)
