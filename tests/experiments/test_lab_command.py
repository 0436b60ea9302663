"""`python -m experiments.lab`: its messages, and a real run on a level of ViZDoom."""

import functools
import importlib.util
import json
import logging
import re
import sys

import pytest

from envs import doom
from experiments import lab, launch, presets
from experiments.members import learner
from pbt import store

needs_vizdoom = pytest.mark.skipif(
    not importlib.util.find_spec("vizdoom"), reason="the extra vizdoom is not installed"
)
TINY = (
    *("--level", "PredictPosition", "--num-envs", "4", "--agent", "a3c"),
    *("--population", "1", "--exploit", "none", "--fixed", "unroll_length=10"),
    *("--total-steps", "480", "--report-interval", "160", "--ready-interval", "160"),
)


@pytest.fixture
def refused(refused):
    return functools.partial(refused, lab)


@pytest.mark.parametrize(
    ("level", "words"),
    [
        ("MyWayHme", ["MyWayHme", "did you mean MyWayHome"]),
        ("mywayhome", ["did you mean MyWayHome"]),
        ("health", ["HealthGathering"]),
        ("Doom/MyWayHme", ["did you mean Doom/MyWayHome"]),
        ("VizdoomMyWayHome-v0", ["did you mean Doom/MyWayHome"]),
        ("nav_maze_static_1", ["did you mean Lab/nav_maze_static_01"]),
        ("Lab/nav_maze_static_01.lua", ["did you mean Lab/nav_maze_static_01"]),
        ("Pong", ["Pong", "experiments.gym"]),
        ("CartPole-v1", ["experiments.gym"]),
        ("", ["MyWayHome, HealthGathering"]),
    ],
)
def test_unknown_levels(refused, level, words):
    line = refused("--level", level)
    assert all(word in line for word in words), line


def test_packages_that_are_not_there(refused, monkeypatch):
    for package, level, way_out in (
        ("vizdoom", "MyWayHome", "pip install -c constraints.txt -e '.[vizdoom]'"),
        ("deepmind_lab", "Lab/nav_maze_static_01", "build deepmind_lab from source"),
    ):
        monkeypatch.setitem(sys.modules, package, None)  # importing it fails
        assert way_out in refused("--level", level)


@needs_vizdoom
def test_settings(refused, started):
    assert "--num-envs 0" in refused(*TINY, "--num-envs", "0")
    assert "--device nonsense" in refused(*TINY, "--device", "nonsense")
    assert started() == []


def test_help_lists_the_levels(command, here):
    result = command(lab, "--help")
    assert result.code == 0
    for level in doom.LEVELS.values():
        assert re.search(rf"{level.name} +{re.escape(level.description)}", result.out)
    assert list(here.iterdir()) == []


@pytest.mark.parametrize("name", ["MyWayHome", "Doom/MyWayHome", "VizdoomMyWayHome-v1"])
def test_a_level_by_any_of_its_names(name):
    assert presets.find_level(name) is doom.LEVELS["MyWayHome"]


@needs_vizdoom
def test_a_run_trains_resumes_and_evaluates(command, here, one_process, monkeypatch, started):
    monkeypatch.setattr(launch, "EVALUATION_EPISODES", 2)
    result = command(lab, *TINY, "--run-dir", "my runs/lab")
    assert result.code == 0, result
    assert "Doom/PredictPosition: 84 x 84 RGB, 4 actions" in result.out
    assert "mean of 2 fresh episodes" in result.out
    with store.Store.open("my runs/lab") as run_store:
        stored = run_store.config.task_config
    assert (stored["env_id"], stored["reward_scale"]) == ("Doom/PredictPosition", 1.0)
    assert stored["clip_rewards"] is True
    longer = [*TINY, "--run-dir", "my runs/lab", "--total-steps", "640"]
    assert command(lab, *longer).out.startswith("extending my runs/lab")
    line = command(lab, *longer, "--level", "Basic").err
    assert "Doom/PredictPosition" in line
    assert "reward_scale: 1.0 -> 0.01" in line
    assert [path.name for path in here.iterdir()] == ["my runs"]
    assert started() == []


@needs_vizdoom
def test_a_member_outlives_its_engines(caplog, started):
    config = learner.LearnerConfig("Doom/Basic", 2, clip_rewards=True, reward_scale=0.01)
    training = learner.make_task(json.loads(json.dumps(config.to_json())), 0, seed=0)
    training.set_hyperparameters({"unroll_length": 2})
    with caplog.at_level(logging.WARNING):
        progress = training.train(24, 24)
        assert not next(progress).restarted
        for engine in started():
            engine.kill()
        rest = list(progress)
    assert [one.restarted for one in rest] == [True, *[False] * (len(rest) - 1)]
    assert "an environment Doom/Basic failed" in caplog.text
    training.close()
    assert started() == []
