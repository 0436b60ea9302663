"""A launcher on a cluster: place.py RUN_DIR ray|slurm WORKERS."""

import signal
import sys
from pathlib import Path

from pbt import ray_places, slurm

# Tests started in the background of a shell would hand down an ignored SIGINT.
signal.signal(signal.SIGINT, signal.default_int_handler)

run = {"ray": ray_places.run, "slurm": slurm.run}[sys.argv[2]]
sys.exit(run(Path(sys.argv[1]), int(sys.argv[3])))
