"""The README's own learner, run as a user would: saved to a file, and started."""

import os
import re
import subprocess
import sys
from pathlib import Path

from pbt import store

README = Path(__file__).parents[1] / "README.md"


def start(arguments, cwd):
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_your_own_learner_works_as_printed(tmp_path):
    (block,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    (tmp_path / "my_learner.py").write_text(block)
    done = start(["my_learner.py"], tmp_path)
    assert done.returncode == 0, done.stderr
    run_dir = tmp_path / "results/runs/quadratic"
    with store.Store.open(run_dir) as run_store:
        members, events = run_store.members(), run_store.events()
    assert [member.agent_steps for member in members] == [2_000] * 8
    assert any(event.kind == "exploit" for event in events)
    assert max(member.score for member in members) > -1  # from -250
    report = start(["-m", "experiments.report", str(run_dir)], tmp_path)
    assert report.returncode == 0, report.stderr
    assert (run_dir / "report" / "schedule.csv").exists()
    again = start(["my_learner.py"], tmp_path)
    assert again.returncode == 0
    assert "finished" in again.stdout


def test_every_file_and_command_the_readme_names_exists():
    text = README.read_text()
    root = README.parent
    for path in re.findall(r"\b(?:agents|envs|pbt|experiments)/\w+\.py\b", text):
        assert (root / path).is_file(), path
    for module in re.findall(r"python -m experiments\.(\w+)", text):
        assert (root / "experiments" / f"{module}.py").is_file(), module
    for picture in re.findall(r"!\[[^]]*\]\(([^)]+)\)", text):
        assert (root / picture).is_file(), picture
