#!/usr/bin/env bash
# Make the virtual environments of the peers: make_environments.sh DIR
set -euo pipefail
dir=${1:?name a directory for the virtual environments}
for name in sb3 sample-factory; do
    python -m venv "$dir/$name"
    "$dir/$name/bin/pip" install -q torch==2.13.0 ale-py==0.12.1 opencv-python-headless
done
"$dir/sb3/bin/pip" install -q gymnasium==1.4.0 stable-baselines3==2.9.2 sb3-contrib==2.9.2
"$dir/sample-factory/bin/pip" install -q gymnasium==0.29.1 numpy==1.26.4 sample-factory==2.1.1
