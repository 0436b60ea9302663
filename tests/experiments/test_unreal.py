"""UNREAL as a member of a population: flags, refusals, hyperparameters, replay over a load."""

import json
import re

import numpy as np
import pytest

from agents import unreal
from experiments import atari, cli, gym, presets
from experiments.members import checks, learner
from pbt import explore

COSTS = set(unreal.COSTS)


def parse(*args):
    return cli.parse(presets.ATARI, "", ["--agent", "unreal", *args])


def test_its_costs_are_hyperparameters_that_pbt_may_adapt():
    space = parse().search_space()
    assert set(space.dimensions) == {"learning_rate", "entropy_cost", "unroll_length"} | COSTS
    assert space.adapt == ("learning_rate", "entropy_cost", "unroll_length")
    drawn = space.sample(np.random.default_rng(0))
    assert 1e-4 <= drawn["pixel_control_cost"] <= 1e-2
    assert drawn["value_replay_cost"] == drawn["reward_prediction_cost"] == 1

    flags = ("--reward-prediction-cost.prior", "0.1", "10")
    names = ("pixel_control_cost", "reward_prediction_cost")
    space = parse(*flags, "--adapt", *names).search_space()
    assert space.adapt == names
    drawn = space.sample(np.random.default_rng(0))
    new, _ = explore.perturb(drawn, space, np.random.default_rng(0))
    for name in space.dimensions:
        assert (new[name] != drawn[name]) == (name in names)


def test_a_cost_of_zero_is_a_task_switched_off():
    drawn = parse("--fixed", "pixel_control_cost=0").search_space().sample(np.random.default_rng(0))
    assert drawn["pixel_control_cost"] == 0


def test_least_and_largest_unroll_length():
    for flags, lengths in (
        ([], (1, 50)),
        (["--fixed", "unroll_length=7"], (7, 7)),
        (["--adapt", "learning_rate"], (5, 20)),
    ):
        assert checks.unroll_lengths(parse(*flags).run_config()) == lengths


@pytest.mark.parametrize(
    ("module", "arguments", "words"),
    [
        (gym, ["--env", "CartPole-v1", "--agent", "unreal"], "learns to change pixels"),
        (gym, ["--env", "CartPole-v1", "--agent", "unreal"], "use agent 'a3c'"),
        (atari, ["--fixed", "pixel_control_cost=0.1"], "--agent unreal has the auxiliary costs"),
        (atari, ["--adapt", "value_replay_cost"], "--agent unreal has the auxiliary costs"),
        (atari, ["--agent", "unreal", "--fixed", "value_replay_cost=-1"], "use 0 or more"),
        (atari, ["--agent", "unreal", "--adapt", "value_replay_cost"], "give it a range"),
        (atari, ["--agent", "unreal", "--replay-steps", "0"], "replay_steps 0"),
        (
            atari,
            ["--agent", "unreal", "--replay-steps", "800"],
            "unroll lengths up to 40, fewer environments, or replay_steps of 960",
        ),
        (atari, ["--agent", "dqn"], "dqn"),
    ],
)
def test_refused_in_one_line_before_anything_exists(command, here, module, arguments, words):
    result = command(module, *arguments)
    assert result.code == 2
    assert words in re.sub(r"\s+", " ", result.err)
    assert not list(here.iterdir())


def small(**settings):
    return learner.LearnerConfig(
        "Pong",
        2,
        agent="unreal",
        auxiliary=unreal.UNREALConfig(replay_steps=60),
        clip_rewards=True,
        **settings,
    )


def test_config_round_trips_through_json():
    stored = small(reward_scale=0.5)
    assert learner.LearnerConfig.from_json(json.loads(json.dumps(stored.to_json()))) == stored


def test_it_learns_saves_loads_and_waits_for_its_replay(tmp_path):
    values = {
        "learning_rate": 1e-3,
        "entropy_cost": 0.01,
        "unroll_length": 5,
        "pixel_control_cost": 0.02,
        "reward_prediction_cost": 0.0,
        "value_replay_cost": 0.5,
    }
    learning, donor = (learner.make_task(small().to_json(), m, seed=3 + m) for m in range(2))
    learning.set_hyperparameters(values)
    assert learning.hyperparameters() == values
    progress = list(learning.train(80, 80))
    assert sum(done.agent_steps for done in progress) == 80
    filled = [done.metrics["replay/filled"] for done in progress]
    assert filled == sorted(filled)
    assert filled[-1] == 1
    assert progress[-1].metrics["loss/pixel_control"] > 0
    assert "loss/reward_prediction" not in progress[-1].metrics

    donor.save(tmp_path)
    learning.load(tmp_path)
    assert learning.hyperparameters() == values  # the engine sets what it copies
    after = list(learning.train(80, 80))
    assert after[0].metrics["replay/filled"] < 0.5
    assert "loss/pixel_control" not in after[0].metrics
    assert "loss/pixel_control" in after[-1].metrics
    for task in (learning, donor):
        task.close()


def test_another_agents_checkpoint_is_refused(tmp_path):
    donor = learner.AgentTask(learner.LearnerConfig("Pong", 2), 0, 0)
    donor.save(tmp_path)
    own = learner.AgentTask(small(), 0, 0)
    with pytest.raises(ValueError, match=r"another agent: missing heads"):
        own.load(tmp_path)
    with pytest.raises(ValueError, match=r"unknown hyperparameters .*pixel_control_cost"):
        donor.set_hyperparameters({"pixel_control_cost": 0.1})
    for task in (donor, own):
        task.close()
