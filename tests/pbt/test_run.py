import dataclasses
import json
import math
from pathlib import Path

import pytest

from pbt import run, space

SPACE = space.Space(
    {"learning_rate": space.LogUniform(1e-5, 1e-2), "unroll": space.IntUniform(5, 50)},
    adapt=("learning_rate",),
)


def config(**changes):
    values = {
        "task": "learner.module:make_task",
        "space": SPACE,
        "population": 4,
        "total_steps": 1024,
        "report_interval": 64,
        "ready_interval": 128,
        "task_config": {"game": "Pong", "net": {"core": "lstm", "sizes": (256, 128)}},
        "step_multiple": 32,
    }
    return run.RunConfig(**(values | changes))


def test_survives_json():
    first = config(exploit="truncation", perturb_factors=(0.5, 2), lease_seconds=1, seed=2**63)
    second = run.RunConfig.from_json(json.loads(json.dumps(first.to_json(), allow_nan=False)))
    assert second == first
    assert second.differences(first) == []
    assert second.task_config["net"]["sizes"] == [256, 128]
    assert second.space.dimensions["unroll"] == SPACE.dimensions["unroll"]


def test_every_field_goes_through_json():
    assert set(config().to_json()) == {field.name for field in dataclasses.fields(run.RunConfig)}


def test_the_same_settings_from_another_source_do_not_differ():
    assert config(lease_seconds=60).differences(config(lease_seconds=60.0)) == []
    assert config(task_config={"a": (1, 2)}) == config(task_config={"a": [1, 2]})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"population": 0}, ["population 0", "1 or more"]),
        ({"population": 2.0}, ["population 2.0", "whole number"]),
        ({"population": True}, ["population True", "whole number"]),
        ({"total_steps": 1000}, ["total_steps 1000", "multiple of 32", "992 or 1024"]),
        ({"report_interval": 16}, ["report_interval 16", "use 32"]),
        ({"ready_interval": 100}, ["ready_interval 100", "96 or 128"]),
        ({"ready_interval": 0}, ["ready_interval 0", "1 or more"]),
        ({"report_interval": 2048}, ["total_steps 1024", "report_interval 2048"]),
        ({"total_steps": -32}, ["total_steps -32"]),
        ({"seed": -1}, ["seed -1", "0 or more"]),
        ({"window": 0}, ["window 0"]),
        ({"min_episodes": 9}, ["min_episodes 9", "window 10", "10 or more"]),
        ({"max_attempts": 0}, ["max_attempts 0"]),
        ({"exploit": "t_test"}, ["exploit 't_test'", "t-test", "none"]),
        ({"explore": "mutate"}, ["explore 'mutate'", "perturb", "resample", "gaussian"]),
        ({"copy": "all"}, ["copy 'all'", "weights"]),
        ({"explore_at": "never"}, ["explore_at 'never'", "ready"]),
        ({"significance": 0}, ["significance 0", "0.05"]),
        ({"significance": math.nan}, ["significance nan"]),
        ({"significance": "0.05"}, ["significance '0.05'", "not a number"]),
        ({"truncation_fraction": 0.6}, ["truncation_fraction 0.6", "0.2"]),
        ({"resample_probability": 1.5}, ["resample_probability 1.5", "[0, 1]"]),
        ({"standard_deviation": 0.0}, ["standard_deviation 0.0"]),
        ({"lease_seconds": math.inf}, ["lease_seconds inf", "60"]),
        ({"perturb_factors": ()}, ["perturb_factors ()"]),
        ({"perturb_factors": (0, 1.2)}, ["perturb_factors (0.0, 1.2)"]),
        ({"perturb_factors": (1, 1.2)}, ["perturb_factors", "not 1"]),
        ({"perturb_factors": (0.8, math.nan)}, ["perturb_factors", "nan"]),
        ({"perturb_factors": 0.8}, ["perturb_factors 0.8", "not numbers"]),
        ({"task": "no_function"}, ["task 'no_function'", "module:function"]),
        ({"task": "os; import sys:f"}, ["module:function"]),
        ({"task": None}, ["task None"]),
        ({"task_config": {"a": math.nan}}, ["task_config", "finite"]),
        ({"task_config": {"a": {1, 2}}}, ["task_config", "JSON"]),
        ({"task_config": Path("x")}, ["task_config", "JSON"]),
        ({"space": {"learning_rate": 1}}, ["space", "pbt.space.Space"]),
    ],
)
def test_bad_values_are_refused_with_field_value_and_way_out(changes, words):
    with pytest.raises(ValueError) as raised:  # noqa: PT011, the words are looked at
        config(**changes)
    for word in words:
        assert word in str(raised.value)


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("significance", [0, -0.1, 1, 1.1, math.nan]),
        ("truncation_fraction", [0, -0.1, 0.51, 1.0, math.nan]),
        ("resample_probability", [-0.1, 1.1, math.nan]),
        ("standard_deviation", [0.0, -1.0, math.nan, math.inf]),
        ("perturb_factors", [(), (0, 1.2), (0.8, 1), (-1, 2), (math.nan,), (math.inf,)]),
    ],
)
def test_settings_of_the_strategies_have_limits(name, bad):
    for value in bad:
        with pytest.raises(ValueError, match=name):
            config(**{name: value})


def test_the_steps_suggested_are_accepted():
    for total in (992, 1024):
        assert config(total_steps=total).total_steps == total


@pytest.mark.parametrize(
    ("stored", "problem"),
    [
        (lambda values: values | {"colour": "red"}, "unknown fields.*colour"),
        (lambda values: {k: v for k, v in values.items() if k != "task"}, "not a run's"),
        (lambda values: {k: v for k, v in values.items() if k != "space"}, "not a run's"),
        (lambda values: values | {"space": 3}, "not a run's"),
        (lambda values: values | {"population": 0}, "population 0"),
    ],
)
def test_from_json_refuses_what_it_does_not_know(stored, problem):
    with pytest.raises(ValueError, match=problem):
        run.RunConfig.from_json(stored(config().to_json()))


def test_differences_are_listed_stored_first_with_dotted_names():
    other_space = space.Space(
        {"learning_rate": space.LogUniform(1e-4, 1e-2), "unroll": SPACE.dimensions["unroll"]},
        adapt=("learning_rate", "unroll"),
    )
    given = config(
        seed=7,
        total_steps=2048,
        space=other_space,
        task_config={"game": "Breakout", "net": {"core": "lstm"}, "new": 1},
    )
    assert sorted(config().differences(given)) == [
        "seed: 0 -> 7",
        'space.adapt: ["learning_rate"] -> ["learning_rate", "unroll"]',
        "space.dimensions.learning_rate.low: 1e-05 -> 0.0001",
        'task_config.game: "Pong" -> "Breakout"',
        "task_config.net.sizes: [256, 128] -> absent",
        "task_config.new: absent -> 1",
        "total_steps: 1024 -> 2048",
    ]


def test_a_configuration_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        config().seed = 3
