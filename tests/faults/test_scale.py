"""The scale test itself, on a population that is small enough for a test."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

SCALE = Path(__file__).parent / "scale.py"


def scale(*arguments):
    done = subprocess.run(
        [sys.executable, str(SCALE), *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout[done.stdout.index("{") : done.stdout.rindex("}") + 1])


def test_every_slice_of_every_member_is_counted(tmp_path):
    found = scale("--members", "12", "--workers", "3", "--slices", "3", "--json", f"{tmp_path}/f")
    assert found["slices"] == 36
    assert found["rows"] == 12 + 36 + found["copies"]
    assert found["workers_seen"] == 3
    assert found["claims"] >= 36
    assert json.loads((tmp_path / "f").read_text()) == found


def test_what_a_turn_costs_is_measured():
    found = scale("--costs", "20")
    assert found["members"] == 20
    assert found["turn"]["client_ms"] > 0
