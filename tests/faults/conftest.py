"""Runs of the toy, in this process and in others."""

import importlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pbt import create, local, run, space, storage, worker

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # the toy is imported by name, here and in the workers
invariants = importlib.import_module("invariants")


def wait_until(condition, seconds=30.0):
    """Poll; returns the first true value, fails at the deadline."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.02)
    raise AssertionError(f"not true within {seconds} s: {condition}")


class ToyRun:
    """A run directory of the toy, with all that is done to it."""

    def __init__(
        self, directory: Path, url: str | None = None, checkpoints: str | None = None, **settings
    ):
        self.directory = directory
        self.log = directory.with_name(f"{directory.name}.log")
        task_config = {"log": str(self.log), **settings.pop("task_config", {})}
        defaults = {
            "task": "toy:make_task",
            "space": space.Space({"rate": space.Uniform(0.05, 1.0)}, adapt=("rate",)),
            "population": 4,
            "total_steps": 400,
            "report_interval": 100,
            "ready_interval": 100,
            "lease_seconds": 20.0,
            "seed": 1,
        }
        self.config = run.RunConfig(**{**defaults, **settings}, task_config=task_config)
        self.store = create.create_run(
            directory, self.config, url=url, checkpoints=checkpoints, durable=False
        )
        self.place = storage.of(directory, durable=False)
        self.checkpoints = self.place.local

    def work(self, **arguments) -> worker.Outcome:
        """Be a worker, in this process."""
        return worker.run(self.store, self.directory, durable=False, **arguments)

    def work_until(self, commits: int, **arguments) -> worker.Outcome:
        """Be a worker until there are so many versions of members."""
        return self.work(
            stop=lambda: 15 if len(self.store.versions()) - 4 >= commits else 0, **arguments
        )

    def launch(self, workers=2, **arguments) -> int:
        """Be a launcher, in this process."""
        return local.run(
            self.directory,
            workers,
            command=(sys.executable, str(HERE / "child.py")),
            restart_pause_s=0.05,
            **arguments,
        )

    def spawn(
        self,
        script: str,
        *arguments: str,
        fault: str = "none:none:0",
        umask: int = -1,
        **variables: str,
    ) -> subprocess.Popen:
        """Start a script of this folder on the run, with other variables in its environment."""
        paths = os.pathsep.join([str(HERE), *filter(None, sys.path)])
        own = {"FAULT": fault, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", **variables}
        return subprocess.Popen(
            [sys.executable, str(HERE / script), str(self.directory), *arguments],
            env={**os.environ, **own},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            umask=umask,
        )

    def check(self):
        invariants.check(self.store, self.place)

    def repeated_steps(self) -> int:
        return invariants.repeated_steps(self.store, self.log)

    def events(self, *kinds):
        return [event for event in self.store.events() if event.kind in kinds]

    def assert_complete(self):
        """Every member trained exactly its steps, and the promise holds."""
        total = self.config.total_steps
        assert [member.agent_steps for member in self.store.members()] == [total] * len(
            self.store.members()
        )
        assert {member.state for member in self.store.members()} == {"finished"}
        assert {member.owner for member in self.store.members()} == {None}
        self.check()

    def results(self) -> list[tuple]:
        """All reports, of which nothing depends on who worked when if nobody exploits."""
        return sorted(
            (r.member, r.version, r.agent_steps, r.episodes, r.metrics["theta"], r.hyperparameters)
            for _, r in self.store.reports()
        )

    def newest(self, member: int) -> Path:
        """The directory of a member's committed checkpoint."""
        return self.checkpoints / self.store.member(member).checkpoint


@pytest.fixture
def toy_run(tmp_path):
    """A factory of runs in a directory with a space in its name; what it spawned ends with it."""
    made = []

    class Tracked(ToyRun):
        def spawn(self, *arguments, **settings):
            process = super().spawn(*arguments, **settings)
            made.append(process)
            return process

    def make(name="a run", **settings):
        return Tracked(tmp_path / name, **settings)

    yield make
    for process in made:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture(name="wait_until")
def _wait_until():
    return wait_until
