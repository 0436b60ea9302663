"""Half a minute of the soak on each database. `soak.py --minutes 10` runs for longer."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("store", ["sqlite", "postgresql"])
def test_a_short_soak_violates_nothing(store, tmp_path):
    program = Path(__file__).with_name("soak.py")
    report = tmp_path / "report.json"
    done = subprocess.run(
        [
            *(sys.executable, str(program), "--minutes", "0.5", "--seed", "11"),
            *("--store", store, "--json", str(report)),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    found = json.loads(report.read_text())
    assert found["violations"] == []
    assert found["counts"]["checks between faults"] >= 3
