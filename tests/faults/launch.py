"""A launcher process: launch.py RUN_DIR WORKERS."""

import sys
from pathlib import Path

from pbt import local

child = Path(__file__).with_name("child.py")
sys.exit(
    local.run(
        Path(sys.argv[1]),
        int(sys.argv[2]),
        command=(sys.executable, str(child)),
        restart_pause_s=0.05,
    )
)
