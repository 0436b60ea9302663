"""The documentation's own code, run as a user would, and the names in it, looked up."""

import ast
import functools
import importlib
import os
import re
import subprocess
import sys
import traceback
from pathlib import Path

import pytest
import torch

from experiments import gym, report
from pbt import store, worker
from python_process import python

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FOLDERS = "agents|envs|pbt|experiments|tests"
LEARNERS = {"digits": "digits", "my_learner": "quadratic", "my_network": "sine"}
"""Modules of docs/writing-a-learner.md, in its order, and the directories of their runs."""


def page(path):
    return str(path.relative_to(ROOT))


SHORTER = {
    "digits": ("steps=20, population=6", "steps=10, population=4, workers=1"),
    "my_network": ("workers=2", "workers=1"),
}
"""What the suite leaves out of them."""


@pytest.mark.parametrize("shorter", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("module", "run_name"), LEARNERS.items())
def test_a_learner_of_your_own_works_as_printed(module, run_name, shorter, tmp_path, monkeypatch):
    text = (ROOT / "docs/writing-a-learner.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == len(LEARNERS)
    block = blocks[list(LEARNERS).index(module)]
    assert f"ave this as `{module}.py`" in " ".join(text.split())
    printed, short = SHORTER.get(module, ("", ""))
    assert printed in block
    code = block.replace(printed, short) if shorter else block
    (tmp_path / f"{module}.py").write_text(code)
    done = python(tmp_path, f"{module}.py")
    assert done.returncode == 0, done.stderr
    run_dir = tmp_path / "results/runs" / run_name
    with store.Store.open(run_dir) as run_store:
        members, events = run_store.members(), run_store.events()
    assert {member.state for member in members} == {"finished"}
    assert any(event.kind == "exploit" for event in events)
    # A tenth of guessed digits is right. The quadratic begins at -250, and the sine, which is its
    # mean square, at -0.5.
    least = {"digits": 0.5, "quadratic": -1, "sine": -0.05}[run_name]
    assert max(member.score for member in members) > least
    if module == "digits":
        lines = [line for line in block.splitlines() if line.strip()]
        assert len(lines) <= 30
        assert "best accuracy" in done.stdout
        assert "results/runs/digits: member" in done.stdout.splitlines()[-1]
        assert "evaluate" not in (run_dir / "report/summary.md").read_text()
    if module == "my_learner":
        assert len(block.splitlines()) < 55  # README: about 40 lines
        monkeypatch.setattr(sys, "argv", ["report", str(run_dir)])
        report.main()
        assert (run_dir / "report" / "schedule.csv").exists()
    if module == "my_learner" or not shorter:
        again = python(tmp_path, f"{module}.py")
        assert again.returncode == 0
        assert "finished" in again.stdout


class Reached(BaseException):
    """The end of the path; no part of the suite catches it."""


def stack():
    """Return file and function of each frame in the packages, the outermost first."""
    frames = [
        (os.path.relpath(frame.filename, ROOT), frame.name) for frame in traceback.extract_stack()
    ]
    return [frame for frame in frames if frame[0].split(os.sep)[0] in FOLDERS.split("|")[:4]]


def test_the_path_from_command_to_gradient_is_as_written(tmp_path, monkeypatch):
    text = (ROOT / "docs/architecture.md").read_text()
    blocks = re.findall(r"```text\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 2
    reached = []

    def end_here(*_, **__):
        reached.append(stack())
        raise Reached

    class Popen(subprocess.Popen):
        def __init__(self, command, *arguments, **keywords):
            if "pbt.worker" in command:
                end_here()
            super().__init__(command, *arguments, **keywords)

    run_dir = str(tmp_path / "run")
    monkeypatch.setattr(
        sys, "argv", ["gym", "--preset", "quick", "--workers", "1", "--run-dir", run_dir]
    )
    monkeypatch.setattr(subprocess, "Popen", Popen)
    with pytest.raises(Reached):
        gym.main()
    monkeypatch.setattr(torch.Tensor, "backward", end_here)
    monkeypatch.setattr(worker.process, "dump_stacks_on_abort", lambda: None)  # pytest's own stays
    with pytest.raises(Reached):
        worker.main([run_dir])
    for block, frames in zip(blocks, reached, strict=True):  # up to the worker's start; a worker
        written = [
            (file, function)
            for file, functions in (line.split(": ") for line in block.splitlines())
            for function in functions.split(", ")
        ]
        # The decorator of all commands, which says how they end, is left out.
        assert [frame for frame in frames if frame[0] != "experiments/cli.py"] == written


@pytest.mark.parametrize("path", PAGES, ids=page)
def test_every_file_and_command_that_a_page_names_exists(path):
    text = path.read_text()
    for name in re.findall(rf"\b(?:{FOLDERS}|docs|results)/[\w/-]+\.\w+\b", text):
        assert (ROOT / name).is_file() or name.startswith("results/runs/"), name
    for folder in re.findall(rf"\b((?:{FOLDERS})(?:/\w+)*)/(?![\w*])", text):
        assert (ROOT / folder).is_dir(), folder
    for module in re.findall(r"python -m experiments\.(\w+)", text):
        assert (ROOT / "experiments" / f"{module}.py").is_file(), module
    for module in re.findall(r"`((?:agents|envs|pbt|experiments)(?:\.\w+)+)`", text):
        assert found(module), module
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
        if "://" not in target:
            assert (path.parent / target).exists(), target


def test_every_row_of_the_page_of_faults_has_a_test_or_says_why_not():
    lines = (ROOT / "docs/fault-tests.md").read_text().splitlines()
    rows = [line for line in lines if line.startswith("| ") and "| what must hold |" not in line]
    assert len(rows) > 80
    parsed = {}
    for row in rows:
        assert "Not tested: " in row or "::" in row, row
        named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`( \(slow\))?", row)
        assert len(named) == row.count("::"), row
        for path, function, is_slow in named:
            module = parsed.setdefault(path, ast.parse((ROOT / path).read_text()))
            tests = [node for node in module.body if getattr(node, "name", None) == function]
            assert len(tests) == 1, (path, function)
            marks = [ast.unparse(mark) for mark in tests[0].decorator_list]
            marks += [
                mark
                for node in module.body
                if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "pytestmark"
                for mark in re.findall(r"pytest\.mark\.\w+", ast.unparse(node.value))
            ]
            assert ("pytest.mark.slow" in marks) == bool(is_slow), (path, function)


def found(name):
    """Whether a dotted name is a module of ours, or something in one."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        path = ROOT.joinpath(*parts[:length])
        file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if file.is_file():
            module = importlib.import_module(".".join(parts[:length]))
            return not parts[length:] or functools.reduce(
                lambda owner, part: getattr(owner, part, None), parts[length:], module
            )
    return False
