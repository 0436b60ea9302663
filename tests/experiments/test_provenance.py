"""The commit that a run is recorded with, in a repository of the test's own."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.analysis import provenance

MODULE = Path(provenance.__file__).relative_to(Path(__file__).parents[2])


def _run(directory: Path, *command: str) -> str:
    return subprocess.run(
        command, cwd=directory, capture_output=True, text=True, check=True, timeout=60
    ).stdout.strip()


def _git(directory: Path, *arguments: str) -> str:
    author = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    return _run(directory, "git", *author, *arguments)


def _recorded_commit(directory: Path) -> str:
    code = "from experiments.analysis import provenance; print(provenance.commit())"
    return _run(directory, sys.executable, "-c", code)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository with this module, where it lies in ours, and a result, in one commit."""
    checkout = tmp_path / "a checkout"
    (checkout / MODULE).parent.mkdir(parents=True)
    (checkout / "results").mkdir()
    (checkout / "experiments/__init__.py").touch()
    shutil.copy(provenance.__file__, checkout / MODULE)
    (checkout / "results/scores.csv").write_text("old")
    _git(checkout, "init", "--quiet")
    _git(checkout, "add", "experiments", "results")
    _git(checkout, "commit", "--quiet", "--message", "all")
    return checkout


def test_a_commit_is_dirty_by_its_code_alone(checkout: Path) -> None:
    commit = _git(checkout, "rev-parse", "HEAD")[:12]
    assert _recorded_commit(checkout) == commit
    (checkout / "results/scores.csv").write_text("new")
    (checkout / "untracked.txt").touch()
    assert _recorded_commit(checkout) == commit
    (checkout / "experiments/__init__.py").write_text('"""Changed."""')
    assert _recorded_commit(checkout) == f"{commit}-dirty"


def test_code_inside_somebody_elses_checkout_has_no_commit(checkout: Path) -> None:
    shutil.copytree(checkout / "experiments", checkout / "venv/experiments")
    assert _recorded_commit(checkout / "venv") == "None"
