"""One suite that every world behind `make_vec` must pass."""

import dataclasses
import importlib.util
from typing import Any, NamedTuple

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode

from envs import atari, make


class World(NamedTuple):
    """A world set up so that episodes end within `steps`."""

    env_id: str
    steps: int
    keywords: dict[str, Any]
    truncated_after: int | None = None  # agent steps, with the keywords above
    seeded: bool = True  # whether the seed changes anything


SHORT = dataclasses.replace(atari.A3C2016, max_frames=48)
WORLDS = [
    World("Pong", 14, {"preset": SHORT}, truncated_after=12),
    World("Breakout", 14, {"preset": SHORT}, truncated_after=12),
    World("CartPole-v1", 60, {}),
    World("CartPole-v1", 10, {"max_episode_steps": 6}, truncated_after=6),
    World("Pendulum-v1", 205, {}, truncated_after=200),
    World("FrozenLake-v1", 40, {}),
    World("Doom/MyWayHome", 10, {"max_tics": 32}, truncated_after=8),
    World("Doom/PredictPosition", 36, {}),
    World("Lab/nav_maze_static_01", 30, {}),
    World("Catch", 20, {}),
    World("MemoryChain", 20, {}),
    World("MemoryChain", 20, {"length": 2}),
    World("RepeatPrevious", 30, {}),
    World("Counter", 20, {}, seeded=False),
]


@pytest.fixture(params=WORLDS, ids=lambda world: "-".join([world.env_id, *world.keywords]))
def world(request):
    if request.param.env_id.startswith("Doom/") and not importlib.util.find_spec("vizdoom"):
        pytest.skip("the extra vizdoom is not installed")
    if request.param.env_id.startswith("Lab/"):
        request.getfixturevalue("deepmind_lab")
    return request.param


def build(world, num_envs=2):
    return make.make_vec(world.env_id, num_envs, **world.keywords)


def actions_for(worlds, steps, seed=0):
    """[T, B, ...] actions from a generator of their own."""
    worlds.action_space.seed(seed)
    return np.array([worlds.action_space.sample() for _ in range(steps)])


def play(worlds, actions, seed):
    """The whole stream as lists of copies, so that later writes into the originals do not show."""
    obs, _ = worlds.reset(seed=seed)
    stream = [(obs.copy(),)]
    for a_t in actions:
        obs, reward, terminated, truncated, info = worlds.step(a_t)
        final = info["final_obs"]
        done = terminated | truncated
        stream.append(
            (
                obs.copy(),
                reward.copy(),
                terminated.copy(),
                truncated.copy(),
                info["life_lost"].copy(),
                np.zeros(0) if final is None else final[done].copy(),
            )
        )
    return stream


def same(one, other):
    return all(
        np.array_equal(a, b)
        for left, right in zip(one, other, strict=True)
        for a, b in zip(left, right, strict=True)
    )


def test_spaces_and_types(world):
    spec = make.describe(world.env_id, **world.keywords)
    worlds = build(world)
    assert worlds.num_envs == 2
    assert worlds.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP
    assert spec.single_observation_space == worlds.single_observation_space
    assert spec.single_action_space == worlds.single_action_space
    action_space = worlds.single_action_space
    assert not isinstance(action_space, spaces.Discrete) or action_space.start == 0
    assert worlds.observation_space.shape == (2, *spec.single_observation_space.shape)
    obs, _ = worlds.reset(seed=0)
    assert obs in worlds.observation_space
    obs, reward, terminated, truncated, info = worlds.step(actions_for(worlds, 1)[0])
    assert obs in worlds.observation_space
    assert (reward.shape, reward.dtype) == ((2,), np.float64)
    for flags in (terminated, truncated, info["life_lost"]):
        assert (flags.shape, flags.dtype) == ((2,), np.bool_)
    worlds.close()


def test_seed_decides_the_stream(world):
    worlds = build(world)
    actions = actions_for(worlds, world.steps)
    first = play(worlds, actions, seed=7)
    assert any((step[2] | step[3]).any() for step in first[1:]), "the test needs an episode's end"
    assert same(first, play(worlds, actions, seed=7)), "the same instance, seeded again"
    worlds.close()
    twin = build(world)
    assert same(first, play(twin, actions, seed=[7, 8])), "an int counts up from slot 0"
    assert same(first, play(twin, actions, seed=np.array([7, 8])))
    if world.seeded:
        others = [play(twin, actions, seed=seed) for seed in (123, 77, 2**40 + 5)]
        assert not all(same(first, other) for other in others)
    twin.close()


def test_a_slot_does_not_depend_on_its_neighbours(world):
    if not world.seeded:
        pytest.skip("the slot's number is part of the observation")
    worlds, alone = build(world), build(world, num_envs=1)
    actions = actions_for(worlds, world.steps)
    both = play(worlds, actions, seed=[3, 50])
    one = play(alone, actions[:, 1:], seed=[50])
    assert all(np.array_equal(a[0][1], b[0][0]) for a, b in zip(both, one, strict=True))
    worlds.close()
    alone.close()


def test_final_observation_where_and_only_where_an_episode_ended(world):
    worlds = build(world)
    obs, _ = worlds.reset(seed=1)
    ends = 0
    for a_t in actions_for(worlds, world.steps):
        obs, _, terminated, truncated, info = worlds.step(a_t)
        done = terminated | truncated
        assert not (info["life_lost"] & done).any()
        if not done.any():
            assert info["final_obs"] is None
            continue
        ends += done.sum()
        assert info["final_obs"].shape == obs.shape
        assert info["final_obs"].dtype == obs.dtype
        for slot in np.flatnonzero(done):
            assert info["final_obs"][slot] in worlds.single_observation_space
            # The first may time out on its first field, the second show the same symbol again.
            if world.env_id not in ("FrozenLake-v1", "RepeatPrevious"):
                assert not np.array_equal(info["final_obs"][slot], obs[slot])
    assert ends
    worlds.close()


def test_truncation_is_not_termination(world):
    if world.truncated_after is None:
        pytest.skip("ends by termination")
    worlds = build(world)
    worlds.reset(seed=0)
    for t, a_t in enumerate(actions_for(worlds, world.truncated_after), start=1):
        _, _, terminated, truncated, _ = worlds.step(a_t)
        assert not terminated.any()
        assert truncated.tolist() == [t == world.truncated_after] * 2
    worlds.close()


def test_returned_arrays_belong_to_the_caller(world):
    worlds, vandalised = build(world), build(world)
    actions = actions_for(worlds, world.steps)
    kept, copies = [], []
    expected = play(worlds, actions, seed=5)
    obs, _ = vandalised.reset(seed=5)
    for t, a_t in enumerate(actions, start=1):
        kept.append(obs)
        copies.append(obs.copy())
        obs, reward, terminated, truncated, info = vandalised.step(a_t)
        assert np.array_equal(obs, expected[t][0])
        assert np.array_equal(info["life_lost"], expected[t][4])
        for array in (reward, terminated, truncated, *info.values()):
            if isinstance(array, np.ndarray) and array.dtype != object:
                array[:] = 0
    assert all(np.array_equal(a, b) for a, b in zip(kept, copies, strict=True))
    for array in kept:
        array[:] = 0
    again, _ = vandalised.reset(seed=5)
    assert np.array_equal(again, copies[0])
    worlds.close()
    vandalised.close()


def test_refuses_wrong_actions_and_wrong_order(world):
    worlds = build(world)
    good = actions_for(worlds, 1)[0]
    with pytest.raises(RuntimeError, match="reset"):
        worlds.step(good)
    with pytest.raises(ValueError, match="seeds"):
        worlds.reset(seed=[1, 2, 3])
    with pytest.raises(ValueError, match="negative"):
        worlds.reset(seed=-5)
    worlds.reset(seed=0)
    with pytest.raises(ValueError, match="action"):
        worlds.step(good[:1])
    if isinstance(worlds.single_action_space, spaces.Discrete):
        for wrong in (-1, int(worlds.single_action_space.n)):
            with pytest.raises(ValueError, match="action"):
                worlds.step(np.array([0, wrong]))
        with pytest.raises(ValueError, match="integers"):
            worlds.step(np.array([0.0, 0.0]))
    worlds.step(good)
    worlds.close()
    worlds.close()
    with pytest.raises(RuntimeError, match="closed"):
        worlds.step(good)
