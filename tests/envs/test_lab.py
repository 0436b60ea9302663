"""DeepMind Lab's levels, against a stand-in with its documented interface (see conftest.py)."""

import sys

import numpy as np
import pytest

from envs import lab, make

LEVEL = "Lab/nav_maze_static_01"


def test_a_level_by_its_path(deepmind_lab):
    spec = make.describe(LEVEL)
    assert (spec.name, spec.frames_per_step, spec.frame_channels) == (LEVEL, 4, 3)
    assert spec.single_action_space.n == 6
    assert spec.reward_scale == 1.0
    assert make.protocol(LEVEL).startswith(LEVEL)
    make.describe("Lab/contributed/dmlab30/rooms_watermaze")
    assert deepmind_lab == []  # describing builds none


def test_the_calls(deepmind_lab):
    envs = make.make_vec(LEVEL, 2, renderer="hardware")
    assert [one.config for one in deepmind_lab] == [
        {"width": "84", "height": "84", "fps": "60"}
    ] * 2
    assert [one.renderer for one in deepmind_lab] == ["hardware"] * 2
    envs.reset(seed=0)
    for action in range(6):
        envs.step(np.array([action, 5 - action]))
    forward = deepmind_lab[0].actions
    assert [num_steps for _, num_steps in forward] == [4] * 6
    assert [action for action, _ in forward] == list(lab.ACTIONS.values())
    assert deepmind_lab[1].actions == forward[::-1]
    envs.close()
    assert [one._status for one in deepmind_lab] == ["closed"] * 2


def test_frames_rewards_and_ends(deepmind_lab):
    envs = make.make_vec(LEVEL, 1)
    obs, _ = envs.reset(seed=3)
    (engine,) = deepmind_lab
    forward = np.array([list(lab.ACTIONS).index("forward")])
    taken = 0
    while True:
        assert np.array_equal(obs[0], engine.observations()["RGB_INTERLEAVED"].transpose(2, 0, 1))
        before = obs
        obs, reward, terminated, truncated, info = envs.step(forward)
        taken += 1
        if terminated[0]:
            break
        assert reward[0] == 4.0
    # The last step was cut short, and Lab shows nothing after it.
    _, seed = engine.resets[0]
    length = 30 + seed % 20
    assert taken == -(-length // 4)
    assert reward[0] == length - 4 * (taken - 1)
    assert not truncated[0]
    assert np.array_equal(info["final_obs"], before)
    assert np.array_equal(obs[0], engine.observations()["RGB_INTERLEAVED"].transpose(2, 0, 1))


def test_episodes_are_numbered_from_the_last_seed_on(deepmind_lab):
    envs = make.make_vec(LEVEL, 2)
    envs.reset(seed=[4, 5])
    envs.reset()
    envs.reset(seed=[4, 6])
    first, second = (one.resets for one in deepmind_lab)
    assert [number for number, _ in first] == [0, 1, 0]
    assert first[0] == first[2] != second[0]
    assert second[0] != second[2]


def test_an_error_while_building_closes_what_was_built(deepmind_lab, monkeypatch):
    stand_in = sys.modules["deepmind_lab"].Lab

    def fail_at_third(*arguments, **keywords):
        if len(deepmind_lab) == 2:
            raise RuntimeError("Failed to connect RL API")
        return stand_in(*arguments, **keywords)

    monkeypatch.setattr(sys.modules["deepmind_lab"], "Lab", fail_at_third)
    with pytest.raises(RuntimeError, match="Failed to connect"):
        make.make_vec(LEVEL, 3)
    assert [one._status for one in deepmind_lab] == ["closed"] * 2


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda one: one.step(np.zeros(7, np.intc), num_steps=4), RuntimeError),  # before reset
        (lambda one: one.observations(), RuntimeError),
        (lambda one: (one.reset(seed=1), one.step(np.zeros(7), num_steps=4)), AssertionError),
        (lambda one: (one.reset(seed=1), one.step(np.zeros(6, np.intc))), AssertionError),
        (lambda one: (one.reset(seed=1), one.step([0] * 7)), AssertionError),
        (lambda one: (one.reset(seed=1), one.step(np.full(7, 2, np.intc))), AssertionError),
        (lambda one: one.reset(seed=2**31), AssertionError),
        (lambda one: one.reset(options={}), TypeError),
        (lambda one: one.render(), AttributeError),
    ],
)
def test_the_stand_in_refuses_all_else(deepmind_lab, call, error):
    config = {"width": "84", "height": "84", "fps": "60"}
    one = sys.modules["deepmind_lab"].Lab("nav_maze_static_01", ["RGB_INTERLEAVED"], config=config)
    with pytest.raises(error):
        call(one)
