"""The tools that look at the code, and rules that no tool knows."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("agents", "envs", "pbt", "experiments")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
SCRIPTS = Path(sysconfig.get_path("scripts"))


def name(path):
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize(
    "tool",
    [
        [sys.executable, "-m", "ruff", "check", "."],
        [sys.executable, "-m", "ruff", "format", "--check", "."],
        [sys.executable, "-m", "mypy"],
        [str(SCRIPTS / "lint-imports")],
    ],
    ids=["ruff-check", "ruff-format", "mypy", "lint-imports"],
)
def test_tools_find_nothing(tool):
    done = subprocess.run(tool, cwd=ROOT, capture_output=True, text=True, timeout=170)
    assert done.returncode == 0, done.stdout + done.stderr


# Nothing runs what a file or a string says. Ruff's rules in pyproject.toml find most of it.

# What no rule of ruff knows: a flag that is not the literal False, and two builtins.
UNSAFE = re.compile(
    r"\b(?:allow_pickle|shell)\s*=(?!=)\s*(?!False\b)|(?<![\w.])(?:compile|__import__)\s*\("
)


def unsafe(code):
    """Return what ruff, with the project's rules, and `UNSAFE` find in the code of a module."""
    done = subprocess.run(
        [
            *[sys.executable, "-m", "ruff", "check", "--no-cache", "--output-format=concise"],
            *["--stdin-filename", "pbt/sample.py", "-"],
        ],
        cwd=ROOT,
        input=code,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode in (0, 1), done.stderr
    return re.findall(r"sample\.py:\d+:\d+: (S\d+|TID251) ", done.stdout) + UNSAFE.findall(code)


def test_no_flag_and_no_builtin_of_ours_runs_code():
    for path in SOURCES:
        assert not UNSAFE.findall(path.read_text()), name(path)


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from pickle import load",
        "import torch\ntorch.load(path)",
        "import torch as t\nt.load(path)",
        "from torch import load as read\nread(path)",
        "import numpy as np\nnp.load(path, allow_pickle=True)",
        "import numpy as np\nnp.load(path, allow_pickle=flag)",
        "import yaml\nyaml.load(text)",
        "eval(text)",
        "def f():\n    exec(text)",
        "import subprocess\nsubprocess.run(text, shell=True)",
        "import subprocess\nsubprocess.run(text, shell=flag)",
        "import os\nos.system(text)",
        "import pandas as pd\npd.read_pickle(path)",
        "import torch\ntorch.save(state, path)",
        "compile(text, path, mode)",
        "__import__(text)",
    ],
)
def test_the_rules_find_what_they_are_for(code):
    assert unsafe(code)


def test_the_rules_let_the_rest_pass():
    code = (
        "import re\n\nimport numpy as np\n\n"
        "np.load(path, allow_pickle=False)\nmodel.eval()\nre.compile('a')\nstate.load(path)\n"
    )
    assert unsafe(code) == []


def test_the_rules_have_no_exceptions():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]["lint"]
    assert set(settings["per-file-ignores"]) == {"tests/**"}
    for path in SOURCES:
        assert not re.search(r"noqa(?!:)|noqa:.*\b(?:S\d|TID)", path.read_text()), name(path)


# The house rules.


def test_a_module_can_be_read_in_one_go():
    lines = {name(path): len(path.read_text().splitlines()) for path in SOURCES}
    assert {path: count for path, count in lines.items() if count > 650} == {}


def test_nothing_forks():
    """A child of a fork has the parent's locks, and none of the threads that would free them."""
    forks = r"\bos\.fork|preexec_fn|get_context\((?!\"spawn\"\))|multiprocessing\.(?!get_context)\w"
    for path in SOURCES:
        assert not re.findall(rf"{forks}|ProcessPoolExecutor|import Process\b", path.read_text()), (
            path
        )


def test_a_wheel_holds_the_packages_with_their_types_and_nothing_else(tmp_path):
    copy = tmp_path / "source"
    copy.mkdir()
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, copy)
    for folder in (*PACKAGES, "tests"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "results").mkdir()
    (copy / "results" / "analysis.py").touch()
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet"]
    done = subprocess.run(
        [*build, "--wheel-dir", str(tmp_path), str(copy)],
        capture_output=True,
        text=True,
        timeout=170,
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    held = {file for file in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in file}
    types = {f"{package}/py.typed" for package in PACKAGES}
    assert held == {name(path) for path in SOURCES} | types
    assert any(file.endswith("/LICENSE") for file in zipfile.ZipFile(wheel).namelist())


# Importing is free.

_IMPORT_ALL = """
import importlib, sys, threading
for name in sys.argv[1:]:
    importlib.import_module(name)
assert threading.active_count() == 1, threading.enumerate()
print(*sorted({name.partition(".")[0] for name in sys.modules}), file=sys.stderr)
"""


def imported_by(modules, directory):
    """Import modules in a fresh process: prints nothing, writes nothing; returns what came too."""
    done = subprocess.run(
        [sys.executable, "-c", _IMPORT_ALL, *modules],
        cwd=directory,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PYTHONDONTWRITEBYTECODE": "1",
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1, done.stderr  # no warning either
    assert list(directory.iterdir()) == []
    return set(done.stderr.split())


def modules(*packages):
    return [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in SOURCES
        if path.relative_to(ROOT).parts[0] in packages
    ]


def test_importing_does_no_work(tmp_path):
    imported = imported_by(modules(*PACKAGES), tmp_path)
    assert set(PACKAGES) <= imported
    assert not imported & {"pytest", "hypothesis", "imageio", "imageio_ffmpeg", "pygame"}


def test_the_engine_needs_no_learner(tmp_path):
    imported = imported_by(modules("pbt"), tmp_path)
    forbidden = {"torch", "gymnasium", "ale_py", "agents", "envs", "experiments", "matplotlib"}
    assert not imported & forbidden


def test_worlds_need_no_network_and_networks_no_worlds(tmp_path):
    assert "torch" not in imported_by(modules("envs"), tmp_path)
    assert not imported_by(modules("agents"), tmp_path) & {"gymnasium", "ale_py", "pbt"}


# What the README promises is what is run.

MAIN = "pip install -c constraints.txt -e . && python -m experiments.atari"
TESTS = "pip install -c constraints.txt -e '.[dev]' && python -m pytest"


def test_the_readme_has_the_two_commands_and_no_others_like_them():
    text = (ROOT / "README.md").read_text()
    # Up to a comment, or to where the line or the literal ends.
    commands = re.findall(r"^\s*(pip install[^#`\n]*?)\s*(?:#.*|`+)?$", text, re.MULTILINE)
    assert sorted(commands) == sorted([MAIN, TESTS])


def test_the_test_command_is_the_one_that_is_run():
    lines = (ROOT / ".ci/run").read_text().splitlines()
    assert [line for line in lines if "pip install" in line] == [TESTS]
    assert os.access(ROOT / ".ci/run", os.X_OK)


def test_every_dependency_is_pinned_once():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.+!-]+", pin) for pin in pins), pins
    names = [pin.partition("==")[0].lower().replace("_", "-") for pin in pins]
    assert len(names) == len(set(names))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    wanted = [*project["dependencies"], *(one for extra in extras for one in extra)]
    assert {re.split(r"\[|>=", one)[0].lower() for one in wanted} <= set(names)
