"""`tune`: train a population of a learner of one's own, from a script or a notebook.

docs/writing-a-learner.md begins with an example.
"""

import importlib
import importlib.util
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.members import own
from pbt import run, slices, task
from pbt import space as spaces

if TYPE_CHECKING:
    from experiments import launch

CHECKS = 10
"""Times that members are compared in a run, unless a ready interval is given."""


def tune(
    learner: type[own.Learner],
    space: Mapping[str, spaces.Dimension] | spaces.Space,
    *,
    steps: int,
    population: int = 8,
    workers: int | None = None,
    run_dir: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    **engine: Any,
) -> "launch.Result":
    """Create a run or go on with it, train it, and write its page and TensorBoard files.

    The same call again resumes the run, or says that it is finished. More steps extend it.

    Args:
        learner: The class. Worker processes import it from its file.
        space: Prior and bounds of each hyperparameter. Exploring changes all but constants, or
            those that a `pbt.space.Space` says.
        steps: Steps of each member.
        population: Number of members.
        workers: Number of worker processes; default: one per core, at most one per member.
        run_dir: Directory of the run; default: results/runs/ and the name of the class.
        settings: Keywords of the learner's constructor, as JSON has them.
        **engine: Other fields of `pbt.run.RunConfig`. By default members are compared ten times, by
            their last score, and the worst fifth copies from the best fifth.

    Returns:
        Directory, best member, its score and hyperparameters, and an exit code: 0 if the run is
        finished, see `experiments.launch.run_experiment`.

    Raises:
        ValueError: The class cannot be imported by a worker, or a setting makes no sense.
        experiments.launch.Refused: The run cannot begin, such as in a directory with another one.
        RuntimeError: A worker process called this function while it imported the learner's file.

    What the learner's own code raises while one is built and saved, as a check, is raised too.
    Nothing was created then.
    """
    if task.run_directory() is not None:
        raise RuntimeError(
            "tune() was called while a worker process imported the learner's file: put the call "
            'under `if __name__ == "__main__":`'
        )
    # A worker imports the learner's file, and with it this module, but needs none of these.
    from experiments import cluster, config, launch

    config.check_workers(workers)
    hyper = space if isinstance(space, spaces.Space) else _space(space)
    task_config = {
        "settings": dict(settings or {}),
        "units": {"score": learner.score_name, "step": learner.step_name},
        "whole": [
            name
            for name, dimension in hyper.dimensions.items()
            if isinstance(dimension, spaces.IntUniform)
        ],
    }
    ready_interval = engine.pop("ready_interval", max(1, round(steps / CHECKS)))
    window = engine.pop("window", 1)
    run_config = run.RunConfig(
        **{
            "task": f"{_module(learner)}:{learner.__qualname__}.make_task",
            "space": hyper,
            "task_config": task_config,
            "population": population,
            "total_steps": steps,
            "ready_interval": ready_interval,
            "report_interval": min(ready_interval, steps),
            "window": window,
            "min_episodes": window,
            "exploit": "truncation",
            **engine,
        }
    )
    directory = Path(run_dir or Path("results/runs") / learner.__name__.lower())
    _check(run_config, directory)
    return launch.run_experiment(
        directory, run_config, cluster.THIS_MACHINE.num_workers(workers, population)
    )


def _space(dimensions: Mapping[str, spaces.Dimension]) -> spaces.Space:
    free = (name for name, one in dimensions.items() if not isinstance(one, spaces.Constant))
    return spaces.Space(dict(dimensions), tuple(free))


def _module(learner: type[own.Learner]) -> str:
    """Return the name by which worker processes import the module of a class.

    Raises:
        ValueError: They cannot, because the class is in no file or inside a function.
    """
    name = learner.__qualname__
    if "<locals>" in name:
        raise ValueError(
            f"{name} is defined inside a function, where worker processes cannot find it: define "
            "it at the top level of a file"
        )
    if learner.__module__ != "__main__":
        return learner.__module__
    main = sys.modules["__main__"]
    if (spec := main.__spec__) is not None:  # python -m package.module
        return spec.name
    if (file := getattr(main, "__file__", None)) is None:
        raise ValueError(
            f"{name} is defined in a notebook or at a prompt, and worker processes can only import "
            f"it from a file: write the cell into one, with `%%writefile {name.lower()}.py` as its "
            f"first line, and then `from {name.lower()} import {name}`"
        )
    return _found_as(Path(file), name)


def _found_as(script: Path, name: str) -> str:
    """Return the name of the module that a script is, for other processes."""
    spec = None
    if script.suffix == ".py" and script.stem.isidentifier():
        spec = importlib.util.find_spec(script.stem)
    if spec is None or spec.origin is None or not Path(spec.origin).samefile(script):
        other = "" if spec is None else f" (that name is {spec.origin})"
        raise ValueError(
            f"{name} is defined in {script}, which worker processes cannot import{other}: give the "
            f"file another name, such as {name.lower()}.py"
        )
    return script.stem


def _check(run_config: run.RunConfig, run_dir: Path) -> None:
    """Build a learner as a worker does, set its hyperparameters and save it."""
    values = run_config.space.sample(np.random.default_rng(0))
    with task.making_in(run_dir):
        built = slices.named_factory(run_config.task)(run_config.task_config, 0, 0)
    try:
        built.set_hyperparameters(values)  # so that its own errors are raised as they are
        slices.set_hyperparameters(built, values, run_config.space)
        with tempfile.TemporaryDirectory() as directory:
            built.save(Path(directory))
    finally:
        built.close()
