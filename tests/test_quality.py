"""The tools that look at the code, and rules that no tool knows."""

import ast
import os
import re
import subprocess
import sys
import sysconfig
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


# What may run code out of a file, or out of a string.

_FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
_FORBIDDEN_CALLS = {
    "eval",
    "exec",
    "compile",
    "__import__",
    "torch.load",
    "torch.save",
    "torch.jit.load",
    "yaml.load",
    "yaml.unsafe_load",
    "pandas.read_pickle",
    "os.system",
    "os.popen",
}


def dotted(node):
    """`a.b.c` of an expression that is one; else an empty string."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (owner := dotted(node.value)):
        return f"{owner}.{node.attr}"
    return ""


def unsafe(tree):
    """Lines of a module that could run what a file says, with what they call."""
    real_names = {}  # what is meant by an imported name, also under an alias
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                real_names[alias.asname or alias.name.split(".")[0]] = (
                    alias.name if alias.asname else alias.name.split(".")[0]
                )
                if alias.name.split(".")[0] in _FORBIDDEN_MODULES:
                    found.append((node.lineno, alias.name))
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                real_names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
            if node.module.split(".")[0] in _FORBIDDEN_MODULES:
                found.append((node.lineno, node.module))
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        first, _, rest = dotted(node.func).partition(".")
        called = ".".join(filter(None, (real_names.get(first, first), rest)))
        flags = {keyword.arg: keyword.value for keyword in node.keywords}
        if called in _FORBIDDEN_CALLS:
            found.append((node.lineno, called))
        for flag in ("allow_pickle", "shell"):
            value = flags.get(flag)
            if value is not None and not (isinstance(value, ast.Constant) and value.value is False):
                found.append((node.lineno, f"{called}({flag}=...)"))
    return found


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_nothing_is_unpickled_or_evaluated(path):
    assert unsafe(ast.parse(path.read_text())) == []


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
    ],
)
def test_the_search_finds_what_it_is_for(code):
    assert unsafe(ast.parse(code))


def test_the_search_lets_the_rest_pass():
    code = "import numpy as np\nnp.load(path)\nmodel.eval()\nre.compile('a')\nstate.load(path)"
    assert unsafe(ast.parse(code)) == []


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


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_every_module_says_what_it_is(path):
    assert ast.get_docstring(ast.parse(path.read_text())) or not path.read_text().strip()


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
    pins = [line.partition(" ")[0] for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.+!-]+", pin) for pin in pins), pins
    names = [pin.partition("==")[0].lower().replace("_", "-") for pin in pins]
    assert len(names) == len(set(names))
    wanted = re.findall(r'^    "([\w-]+)[>=]', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    wanted += re.findall(r'"(imageio[\w-]*)>=', (ROOT / "pyproject.toml").read_text())
    assert {one.lower() for one in wanted} <= set(names)
