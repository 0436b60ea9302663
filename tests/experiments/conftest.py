"""Commands, run as a user runs them, but in the test's own process; and small environments."""

import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from experiments import launch
from pbt import store, verdict, worker


@dataclass
class Result:
    code: int | None
    out: str
    err: str


@pytest.fixture
def command(monkeypatch, capsys):
    """Call a module's main with arguments; returns its exit code and what it printed."""

    def call(module, *arguments):
        monkeypatch.setattr(sys, "argv", ["command", *map(str, arguments)])
        capsys.readouterr()
        code = None
        try:
            module.main()
        except SystemExit as error:
            code = error.code
        return Result(code, *capsys.readouterr())

    return call


@pytest.fixture
def one_process(monkeypatch):
    """Train runs in the test's own process, by the real worker, and draw no figures."""

    def work(run_dir, workers, on_tick=None, **_):
        with store.Store.open(run_dir, durable=False) as run_store:
            message = verdict.of(run_store)
            if message is None:
                worker.run(run_store, Path(run_dir), durable=False)
                message = verdict.of(run_store)
            if on_tick is not None:
                on_tick(run_store)
        print(message[1])
        return message[0]

    monkeypatch.setattr(launch.cluster.local, "run", work)
    monkeypatch.setattr(
        launch.run_report,
        "write_report",
        lambda store, directory: directory.mkdir(exist_ok=True),
    )


@pytest.fixture(scope="session")
def finished_runs():
    """Directories of runs that no test changes, and what was printed, by the command."""
    return {}


@pytest.fixture
def train(command, here, one_process, finished_runs, tmp_path_factory):
    """Call a module's main, which trains the run `run`; the second time, copy what it trained.

    The call returns what the module's main printed.
    """

    def call(module, *arguments):
        key = (module.__name__, *map(str, arguments))
        if key in finished_runs:
            kept, printed = finished_runs[key]
            shutil.copytree(kept, "run")
            return printed
        result = command(module, *arguments)
        assert result.code == 0, result
        kept = tmp_path_factory.mktemp("finished") / "run"
        finished_runs[key] = shutil.copytree("run", kept), result.out
        return result.out

    return call


def tree(directory):
    """Everything below, with its content's size and time."""
    return {
        path: (path.lstat().st_mtime_ns, path.lstat().st_size)
        for path in [directory, *directory.rglob("*")]
    }


@pytest.fixture
def refused(command, here):
    """Call a module's main, which must refuse in one line and change nothing; returns the line."""

    def call(module, *arguments):
        before = tree(here)
        result = command(module, *arguments)
        assert result.code == 2, result
        assert tree(here) == before
        assert result.out == ""
        assert re.fullmatch(r"error: .+\n", result.err), result.err  # one line
        return result.err

    return call


ENVIRONMENTS = '''
import os
import time

import gymnasium
import numpy as np
from gymnasium import spaces


class Length(gymnasium.Env):
    """The return is the length, 1 or 21 with equal chance: short episodes finish first."""

    observation_space = spaces.Box(0, 100, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left = 21 if self.np_random.random() < 0.5 else 1
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.left -= 1
        return np.zeros(1, np.float32), 1.0, self.left == 0, False, {}


class Slow(Length):
    """As long as a file named slow lies in the working directory."""

    def step(self, action):
        if os.path.exists("slow"):
            time.sleep(0.01)
        return super().step(action)


class Picture(gymnasium.Env):
    """20 steps of images whose red grows with time."""

    observation_space = spaces.Box(0, 255, (24, 32, 3), np.uint8)
    action_space = spaces.Discrete(3)

    def image(self):
        image = np.zeros((24, 32, 3), np.uint8)
        image[:, :, 0] = 12 * self.time
        return image

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return self.image(), {}

    def step(self, action):
        self.time += 1
        return self.image(), 1.0, self.time == 20, False, {}


class Sampled(Length):
    """Observations are drawn from the space."""

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), *super().step(action)[1:]


class Nested(Sampled):
    observation_space = spaces.Dict({"at": spaces.Box(0, 1, (3,)), "wind": spaces.Discrete(4)})


class Pair(Sampled):
    observation_space = spaces.Tuple((spaces.MultiBinary(3), spaces.Discrete(4, start=2)))


class Tiny(Sampled):
    observation_space = spaces.Box(0, 255, (7, 7, 3), np.uint8)


class Grid(Sampled):
    observation_space = spaces.Dict({"image": Tiny.observation_space, "mission": spaces.Text(9)})


class Words(Sampled):
    observation_space = spaces.Tuple((spaces.Text(9), spaces.Discrete(2)))


class Parts(Sampled):
    """Images, vectors and numbers are seen; actions have parts, and of the first one is illegal."""

    observation_space = spaces.Dict(
        {"image": Picture.observation_space, "rest": Nested.observation_space}
    )
    action_space = spaces.Dict({"where": spaces.MultiDiscrete([3, 2]), "fire": spaces.Discrete(2)})

    @property
    def info(self):
        return {"action_mask": {"where": (np.array([1, 0, 1], np.int8), None), "fire": None}}

    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed)[0], self.info

    def step(self, action):
        assert self.action_space.contains(action) and action["where"][0] != 1, action
        return *super().step(action)[:-1], self.info


class NeedsMore(Length):
    def __init__(self):
        raise gymnasium.error.DependencyNotInstalled("run `pip install more`")


class Imports(Length):
    def __init__(self):
        import a_package_nobody_has


class Broken(Length):
    def __init__(self):
        raise RuntimeError("no display\\nat :0")


for env in (
    *(Length, Slow, Picture, Nested, Pair, Tiny, Grid, Words, Parts),
    *(NeedsMore, Imports, Broken),
):
    gymnasium.register(f"{env.__name__}-v0", env)
'''

PLACES = """
import gymnasium
import numpy as np
from gymnasium import spaces

from envs import function_call
from small_envs import Sampled


class Places(Sampled):
    '''A function has arguments, one of which is a place on the screen; one function is illegal.'''

    observation_space = spaces.Dict(
        {"screen": spaces.Box(0, 255, (12, 12), np.uint8), "wind": spaces.Box(0, 1, (3,))}
    )
    action_space = function_call.FunctionCall([3, 144, 2], [[1, 0], [1, 1], [0, 1]])

    @property
    def info(self):
        return {"action_mask": (np.array([1, 0, 1], np.int8), None, None)}

    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed)[0], self.info

    def step(self, action):
        assert action[0] == 0 and action[2] == 0 or action[0] == 2 and action[1] == 0, action
        return *super().step(action)[:-1], self.info


gymnasium.register("Places-v0", Places)
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working directory; `small_envs:Length-v0` and others can be imported.

    So can `small_places:Places-v0`, which needs the suite.
    """
    modules = tmp_path / "modules"
    modules.mkdir()
    (modules / "small_envs.py").write_text(ENVIRONMENTS)
    (modules / "small_places.py").write_text(PLACES)
    monkeypatch.syspath_prepend(str(modules))
    working = tmp_path / "working"
    working.mkdir()
    monkeypatch.chdir(working)
    return working
