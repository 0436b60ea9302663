"""One suite that every environment of `make_vec` must pass."""

import dataclasses
import importlib.util
from typing import Any, NamedTuple

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import iterate

import starcraft_stand_in
from envs import atari, make, starcraft, starcraft_import, starcraft_interface


class Case(NamedTuple):
    """An environment, set up so that episodes end within `steps`."""

    env_id: str
    steps: int
    keywords: dict[str, Any]
    truncated_after: int | None = None  # agent steps, with the keywords above
    seeded: bool = True  # whether the seed changes anything


ALWAYS_LEGAL = ("no_op", "move_camera", "select_point", "select_rect", "select_control_group")
"""Functions of StarCraft II that are legal in every state."""
SHORT = dataclasses.replace(atari.A3C2016, max_frames=48)
CASES = [
    Case("Pong", 14, {"preset": SHORT}, truncated_after=12),
    Case("Breakout", 14, {"preset": SHORT}, truncated_after=12),
    Case("CartPole-v1", 60, {}),
    Case("CartPole-v1", 10, {"max_episode_steps": 6}, truncated_after=6),
    Case("Pendulum-v1", 205, {}, truncated_after=200),
    Case("FrozenLake-v1", 40, {}),
    Case("Doom/MyWayHome", 10, {"max_tics": 32}, truncated_after=8),
    Case("Doom/PredictPosition", 36, {}),
    Case("Lab/nav_maze_static_01", 30, {}),
    Case("StarCraft/MoveToBeacon-16", 10, {}, truncated_after=8),
    Case("Blackjack-v1", 20, {}),
    Case("Catch", 20, {}),
    Case("MemoryChain", 20, {}),
    Case("MemoryChain", 20, {"length": 2}),
    Case("RepeatPrevious", 30, {}),
    Case("CuedTMaze", 20, {"corridor": 1, "arms": 2, "limit": 5}),
    Case("CuedTMaze", 20, {"corridor": 6, "arms": 1, "limit": 7}),
    Case("Counter", 20, {}, seeded=False),
]


@pytest.fixture(scope="session")
def starcraft_game(tmp_path_factory):
    """The stand-in for StarCraft II, with maps whose episodes last for 64 game loops."""
    game = tmp_path_factory.mktemp("starcraft") / "game"
    starcraft_stand_in.install(game, seconds=4)
    return game


@pytest.fixture(params=CASES, ids=lambda case: "-".join([case.env_id, *case.keywords]))
def case(request, monkeypatch):
    if request.param.env_id.startswith("Doom/") and not importlib.util.find_spec("vizdoom"):
        pytest.skip("the extra vizdoom is not installed")
    if request.param.env_id.startswith("Lab/"):
        request.getfixturevalue("deepmind_lab")
    if request.param.env_id.startswith("StarCraft/"):
        if starcraft_import.missing():
            pytest.skip("the extra starcraft is not installed")
        monkeypatch.setenv("SC2PATH", str(request.getfixturevalue("starcraft_game")))
    return request.param


def build(case, num_envs=2):
    return make.make_vec(case.env_id, num_envs, **case.keywords)


def actions_for(envs, steps, seed=0):
    """Return actions [T, B, ...] from a generator of their own."""
    envs.action_space.seed(seed)
    actions = np.array([envs.action_space.sample() for _ in range(steps)])
    if isinstance(envs, starcraft.StarCraftVectorEnv):
        functions = [list(starcraft_interface.FUNCTIONS).index(name) for name in ALWAYS_LEGAL]
        actions[..., 0] = np.random.default_rng(seed).choice(functions, actions.shape[:-1])
    return actions


def parts_of(obs):
    """Return the arrays that an observation consists of; it is one itself, a dict or a tuple."""
    if isinstance(obs, dict):
        return [part for value in obs.values() for part in parts_of(value)]
    if isinstance(obs, tuple):
        return [part for value in obs for part in parts_of(value)]
    return [obs]


def copies_of(obs):
    return [part.copy() for part in parts_of(obs)]


def equal(one, other):
    return all(np.array_equal(a, b) for a, b in zip(parts_of(one), parts_of(other), strict=True))


def play(envs, actions, seed):
    """Return all results as copies, which later writes into the originals cannot change."""
    obs, _ = envs.reset(seed=seed)
    stream = [tuple(copies_of(obs))]
    for a_t in actions:
        obs, reward, terminated, truncated, info = envs.step(a_t)
        final = info["final_obs"]
        done = terminated | truncated
        stream.append(
            (
                *(array.copy() for array in (reward, terminated, truncated, info["life_lost"])),
                *copies_of(obs),
                *([] if final is None else [part[done].copy() for part in parts_of(final)]),
            )
        )
    return stream


def same(one, other):
    return all(
        np.array_equal(a, b)
        for left, right in zip(one, other, strict=True)
        for a, b in zip(left, right, strict=True)
    )


def test_spaces_and_types(case):
    spec = make.describe(case.env_id, **case.keywords)
    envs = build(case)
    assert envs.num_envs == 2
    assert envs.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP
    assert spec.single_observation_space == envs.single_observation_space
    assert spec.single_action_space == envs.single_action_space
    action_space = envs.single_action_space
    assert not isinstance(action_space, spaces.Discrete) or action_space.start == 0
    if isinstance(spec.single_observation_space, spaces.Box):
        assert envs.observation_space.shape == (2, *spec.single_observation_space.shape)
    obs, _ = envs.reset(seed=0)
    assert obs in envs.observation_space
    obs, reward, terminated, truncated, info = envs.step(actions_for(envs, 1)[0])
    assert obs in envs.observation_space
    assert (reward.shape, reward.dtype) == ((2,), np.float64)
    for flags in (terminated, truncated, info["life_lost"]):
        assert (flags.shape, flags.dtype) == ((2,), np.bool_)
    envs.close()


def test_seed_decides_the_stream(case):
    envs = build(case)
    actions = actions_for(envs, case.steps)
    first = play(envs, actions, seed=7)
    assert any((step[1] | step[2]).any() for step in first[1:]), "the test needs an episode's end"
    assert same(first, play(envs, actions, seed=7)), "the same instance, seeded again"
    envs.close()
    twin = build(case)
    assert same(first, play(twin, actions, seed=[7, 8])), "an int counts up from slot 0"
    assert same(first, play(twin, actions, seed=np.array([7, 8])))
    if case.seeded:
        others = [play(twin, actions, seed=seed) for seed in (123, 77, 2**40 + 5)]
        assert not all(same(first, other) for other in others)
    twin.close()


def test_a_slot_does_not_depend_on_its_neighbours(case):
    if not case.seeded:
        pytest.skip("the slot's number is part of the observation")
    envs, alone = build(case), build(case, num_envs=1)
    actions = actions_for(envs, case.steps)
    both = play(envs, actions, seed=[3, 50])
    one = play(alone, actions[:, 1:], seed=[50])
    for t, (in_two, in_one) in enumerate(zip(both, one, strict=True)):
        # Rows of what ended follow, of both slots in one and of a single one in the other.
        count = min(len(in_one), len(both[0]) + 4 * (t > 0))
        for a, b in zip(in_two[:count], in_one[:count], strict=True):
            assert np.array_equal(a[1], b[0])
    envs.close()
    alone.close()


def test_final_observation_where_and_only_where_an_episode_ended(case):
    envs = build(case)
    obs, _ = envs.reset(seed=1)
    ends = 0
    for a_t in actions_for(envs, case.steps):
        obs, _, terminated, truncated, info = envs.step(a_t)
        done = terminated | truncated
        assert not (info["life_lost"] & done).any()
        if not done.any():
            assert info["final_obs"] is None
            continue
        ends += done.sum()
        for final, now in zip(parts_of(info["final_obs"]), parts_of(obs), strict=True):
            assert (final.shape, final.dtype) == (now.shape, now.dtype)
        finals = list(iterate(envs.observation_space, info["final_obs"]))
        starts = list(iterate(envs.observation_space, obs))
        for slot in np.flatnonzero(done):
            assert finals[slot] in envs.single_observation_space
            # The first may time out on its first field, the second show the same symbol again.
            if case.env_id not in ("FrozenLake-v1", "RepeatPrevious", "Blackjack-v1"):
                assert not equal(finals[slot], starts[slot])
    assert ends
    envs.close()


def test_truncation_is_not_termination(case):
    if case.truncated_after is None:
        pytest.skip("ends by termination")
    envs = build(case)
    envs.reset(seed=0)
    for t, a_t in enumerate(actions_for(envs, case.truncated_after), start=1):
        _, _, terminated, truncated, _ = envs.step(a_t)
        assert not terminated.any()
        assert truncated.tolist() == [t == case.truncated_after] * 2
    envs.close()


def test_returned_arrays_belong_to_the_caller(case):
    envs, vandalised = build(case), build(case)
    actions = actions_for(envs, case.steps)
    kept, copies = [], []
    expected = play(envs, actions, seed=5)
    obs, _ = vandalised.reset(seed=5)
    for t, a_t in enumerate(actions, start=1):
        kept.append(obs)
        copies.append(copies_of(obs))
        obs, reward, terminated, truncated, info = vandalised.step(a_t)
        expected_obs = expected[t][4 : 4 + len(parts_of(obs))]
        assert equal(obs, expected_obs)
        assert np.array_equal(info["life_lost"], expected[t][3])
        final = [] if info["final_obs"] is None else parts_of(info["final_obs"])
        for array in (reward, terminated, truncated, *info.values(), *final):
            if isinstance(array, np.ndarray) and array.dtype != object:
                array[:] = 0
    assert all(equal(a, tuple(b)) for a, b in zip(kept, copies, strict=True))
    for array in (part for obs in kept for part in parts_of(obs)):
        array[:] = 0
    again, _ = vandalised.reset(seed=5)
    assert equal(again, tuple(copies[0]))
    envs.close()
    vandalised.close()


def test_refuses_wrong_actions_and_wrong_order(case):
    envs = build(case)
    good = actions_for(envs, 1)[0]
    with pytest.raises(RuntimeError, match="reset"):
        envs.step(good)
    with pytest.raises(ValueError, match="seeds"):
        envs.reset(seed=[1, 2, 3])
    with pytest.raises(ValueError, match="negative"):
        envs.reset(seed=-5)
    envs.reset(seed=0)
    with pytest.raises(ValueError, match="action"):
        envs.step(good[:1])
    if isinstance(envs.single_action_space, spaces.Discrete):
        for wrong in (-1, int(envs.single_action_space.n)):
            with pytest.raises(ValueError, match="action"):
                envs.step(np.array([0, wrong]))
        with pytest.raises(ValueError, match="integers"):
            envs.step(np.array([0.0, 0.0]))
    envs.step(good)
    envs.close()
    envs.close()
    with pytest.raises(RuntimeError, match="closed"):
        envs.step(good)
