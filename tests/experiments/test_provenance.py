"""Which commit a run is said to be of, in a repository of the test's own."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.analysis import provenance


def _run(directory: Path, *command: str) -> str:
    return subprocess.run(
        command, cwd=directory, capture_output=True, text=True, check=True, timeout=60
    ).stdout.strip()


def _git(directory: Path, *arguments: str) -> str:
    author = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    return _run(directory, "git", *author, *arguments)


def _commit_told(directory: Path) -> str:
    code = "from experiments import provenance; print(provenance.commit())"
    return _run(directory, sys.executable, "-c", code)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository with this module and a result in it, in one commit."""
    checkout = tmp_path / "a checkout"
    (checkout / "experiments").mkdir(parents=True)
    (checkout / "results").mkdir()
    (checkout / "experiments/__init__.py").touch()
    shutil.copy(provenance.__file__, checkout / "experiments/provenance.py")
    (checkout / "results/scores.csv").write_text("old")
    _git(checkout, "init", "--quiet")
    _git(checkout, "add", "experiments", "results")
    _git(checkout, "commit", "--quiet", "--message", "all")
    return checkout


def test_a_commit_is_dirty_by_its_code_alone(checkout: Path) -> None:
    commit = _git(checkout, "rev-parse", "HEAD")[:12]
    assert _commit_told(checkout) == commit
    (checkout / "results/scores.csv").write_text("new")
    (checkout / "untracked.txt").touch()
    assert _commit_told(checkout) == commit
    (checkout / "experiments/__init__.py").write_text('"""Changed."""')
    assert _commit_told(checkout) == f"{commit}-dirty"


def test_code_inside_somebody_elses_checkout_has_no_commit(checkout: Path) -> None:
    shutil.copytree(checkout / "experiments", checkout / "venv/experiments")
    assert _commit_told(checkout / "venv") == "None"
