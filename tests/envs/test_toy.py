"""The toy environments against their formulas, played one slot at a time."""

import itertools

import numpy as np
import pytest

from envs import make, toy


def test_counter_counts():
    envs = make.make_vec("Counter", 7)
    obs, _ = envs.reset(seed=0)
    expected = [[slot, 0, 0] for slot in range(7)]
    rng = np.random.default_rng(0)
    ends = {"terminated": 0, "truncated": 0}
    for _ in range(300):
        assert obs.tolist() == expected
        a_t = rng.integers(4, size=7)
        obs, reward, terminated, truncated, info = envs.step(a_t)
        for slot in range(7):
            i, e, t = expected[slot]
            assert reward[slot] == 1000 * t + 100 * (i % 10) + 10 * (e % 10) + a_t[slot]
            over = t + 1 == 3 + (i + 2 * e) % 5
            odd = (i + e) % 2 == 1
            assert (terminated[slot], truncated[slot]) == (over and not odd, over and odd)
            ends["terminated"] += terminated[slot]
            ends["truncated"] += truncated[slot]
            if over:
                assert info["final_obs"][slot].tolist() == [i, e, t + 1]
            expected[slot] = [i, e + 1, 0] if over else [i, e, t + 1]
    assert min(ends.values()) > 100
    obs, _ = envs.reset()
    assert obs.tolist() == [[slot, 0, 0] for slot in range(7)]


def test_counters_reward_can_be_read_back():
    slots, episodes, steps, actions = np.array(
        list(itertools.product(range(10), range(10), range(7), range(4)))
    ).T
    assert len(set(toy.Counter.reward(slots, episodes, steps, actions))) == len(slots)
    assert set(toy.Counter.episode_length(slots, episodes)) == {3, 4, 5, 6, 7}


def test_catch_board_and_reward():
    envs = make.make_vec("Catch", 4)
    obs, _ = envs.reset(seed=0)
    rng = np.random.default_rng(0)
    columns_seen, rewards = set(), []
    for _ in range(60):
        boards = obs.reshape(4, 10, 5)
        columns = [int(np.flatnonzero(board[0])[0]) for board in boards]
        columns_seen |= set(columns)
        paddles = [2] * 4
        for row in range(9):
            for slot in range(4):
                expected = np.zeros((10, 5))
                expected[row, columns[slot]] = expected[9, paddles[slot]] = 1.0
                assert np.array_equal(obs[slot].reshape(10, 5), expected)
            a_t = rng.integers(3, size=4)
            paddles = [
                min(max(p + a - 1, 0), 4) for p, a in zip(paddles, a_t.tolist(), strict=True)
            ]
            obs, reward, terminated, truncated, info = envs.step(a_t)
            assert terminated.tolist() == [row == 8] * 4
            assert not truncated.any()
            caught = [1.0 if p == c else -1.0 for p, c in zip(paddles, columns, strict=True)]
            assert reward.tolist() == (caught if row == 8 else [0.0] * 4)
        rewards += reward.tolist()
        for slot in range(4):
            last = info["final_obs"][slot].reshape(10, 5)
            assert set(np.flatnonzero(last[9])) == {columns[slot], paddles[slot]}
    assert columns_seen == {0, 1, 2, 3, 4}
    assert -0.85 < np.mean(rewards) < -0.35


def test_catch_is_won_by_following_the_ball():
    envs = make.make_vec("Catch", 3)
    obs, _ = envs.reset(seed=1)
    total = np.zeros(3)
    for _ in range(9 * 10):
        board = obs.reshape(3, 10, 5)
        ball = board[:, :9].sum(axis=1).argmax(axis=1)
        obs, reward, *_ = envs.step(1 + np.sign(ball - board[:, 9].argmax(axis=1)))
        total += reward
    assert total.tolist() == [10.0] * 3


@pytest.mark.parametrize("length", [1, 5])
def test_memory_chain_needs_memory(length):
    envs = make.make_vec("MemoryChain", 8, length=length)
    obs, _ = envs.reset(seed=0)
    observed_at_answer, cues, remembered, forgetful = set(), [], [], {0: [], 1: []}
    for _ in range(100):
        cue = obs.argmax(axis=1)
        assert obs.tolist() == [[float(c == 0), float(c == 1), 0.0] for c in cue]
        cues += cue.tolist()
        for t in range(length + 1):
            if t == length:
                observed_at_answer |= {tuple(row) for row in obs.tolist()}
            elif t > 0:
                assert not obs.any()
            # Half of the slots remember, the others answer always 0 or always 1.
            a_t = np.where(np.arange(8) < 4, cue, np.arange(8) % 2)
            obs, reward, terminated, truncated, _ = envs.step(a_t)
            assert terminated.tolist() == [t == length] * 8
            assert not truncated.any()
            if t < length:
                assert not reward.any()
        remembered += reward[:4].tolist()
        for slot in range(4, 8):
            forgetful[slot % 2].append(reward[slot])
            assert reward[slot] == (1.0 if cue[slot] == slot % 2 else -1.0)
    assert set(remembered) == {1.0}
    assert observed_at_answer == {(0.0, 0.0, 1.0)}, "so no memoryless player can tell the cues"
    assert abs(np.mean(cues) - 0.5) < 4 * 0.5 / np.sqrt(len(cues))
    for rewards in forgetful.values():
        assert abs(np.mean(rewards)) < 4 / np.sqrt(len(rewards))


@pytest.mark.parametrize(("symbols", "delay", "answers"), [(3, 2, 12), (2, 1, 3)])
def test_repeat_previous_against_a_list_of_what_was_shown(symbols, delay, answers):
    keywords = {"symbols": symbols, "delay": delay, "answers": answers}
    envs = make.make_vec("RepeatPrevious", 4, **keywords)
    obs, _ = envs.reset(seed=0)
    rng = np.random.default_rng(0)
    guesses, symbols_seen = [], []
    for _ in range(40):
        shown = []  # in this episode, [t][slot]
        for t in range(delay + answers):
            assert obs.sum(axis=1).tolist() == [1.0] * 4
            shown.append(obs.argmax(axis=1))
            # The first two slots remember, the others guess.
            a_t = rng.integers(symbols, size=4)
            if t >= delay:
                a_t[:2] = shown[t - delay][:2]
            obs, reward, terminated, truncated, info = envs.step(a_t)
            asked = t >= delay
            right = shown[t - delay] == a_t if asked else [False] * 4
            assert reward.tolist() == [asked * (1.0 if yes else -1.0) for yes in right]
            assert terminated.tolist() == [t == delay + answers - 1] * 4
            assert not truncated.any()
            if asked:
                assert reward[:2].tolist() == [1.0, 1.0]
                guesses += reward[2:].tolist()
        assert info["final_obs"].sum(axis=1).tolist() == [1.0] * 4
        symbols_seen += np.ravel(shown).tolist()
    assert np.mean(guesses) == pytest.approx(2 / symbols - 1, abs=4 / np.sqrt(len(guesses)))
    counts = np.bincount(symbols_seen)
    assert counts == pytest.approx(np.mean(counts), rel=0.2)


def test_later_episodes_continue_with_the_slots_own_generator():
    envs = make.make_vec("MemoryChain", 2, length=1)
    obs, _ = envs.reset(seed=[4, 4])
    cues = []
    for step in range(80):
        if step % 2 == 0:
            assert np.array_equal(obs[0], obs[1]), "equal seeds, equal streams"
            cues.append(int(obs[0].argmax()))
        obs, *_ = envs.step(np.zeros(2, dtype=np.int64))
    assert set(cues) == {0, 1}, "not the same episode over and over"
    carried_on, _ = envs.reset()
    assert np.array_equal(carried_on[0], carried_on[1]), "so does a reset without a seed"


@pytest.mark.parametrize(("corridor", "arms", "limit"), [(8, 12, 60), (2, 3, 9)])
def test_cued_t_maze_against_a_walk_on_a_map(corridor, arms, limit):
    keywords = {"corridor": corridor, "arms": arms, "limit": limit}
    envs = make.make_vec("CuedTMaze", 4, **keywords)
    obs, _ = envs.reset(seed=0)
    rng = np.random.default_rng(0)
    # Cells by their place in the observation, and what the actions forward, left and right do.
    left, right = corridor + 1, corridor + 1 + arms
    ways = {cell: (cell + 1, cell, cell) for cell in range(corridor)}
    ways[corridor] = (corridor, left, right)
    for i in range(arms):
        inwards = [corridor if i == 0 else first + i - 1 for first in (left, right)]
        ways[left + i] = (left + i, left + i + 1, inwards[0])
        ways[right + i] = (right + i, inwards[1], right + i + 1)
    ends = {left + arms - 1: 0, right + arms - 1: 1}
    cells, steps, cues = [0] * 4, [0] * 4, obs[:, -2:].argmax(axis=1)
    seen = {"right": 0, "wrong": 0, "late": 0}
    for _ in range(2_000):
        for slot in range(4):
            expected = np.zeros(corridor + 2 * arms + 3)
            expected[cells[slot]] = 1
            if steps[slot] == 0:
                expected[cues[slot] - 2] = 1
            assert np.array_equal(obs[slot], expected)
        # Mostly forward and to one side, so that ends are reached; the last slot dawdles.
        to_side = [1 + int(slot % 2 == 0) for slot in range(4)]
        a_t = np.where(np.array(cells) < corridor, 0, to_side)
        a_t = np.where(rng.random(4) < [0.1, 0.1, 0.1, 0.9], rng.integers(3, size=4), a_t)
        obs, reward, terminated, truncated, _ = envs.step(a_t)
        for slot in range(4):
            cells[slot] = ways[cells[slot]][a_t[slot]]
            steps[slot] += 1
            end = ends.get(cells[slot])
            assert terminated[slot] == (end is not None)
            assert truncated[slot] == (end is None and steps[slot] == limit)
            assert reward[slot] == float(end == cues[slot])
            if terminated[slot] or truncated[slot]:
                kind = "late" if end is None else "right" if end == cues[slot] else "wrong"
                seen[kind] += 1
                cells[slot], steps[slot] = 0, 0
                cues[slot] = obs[slot, -2:].argmax()
    assert min(seen.values()) > 5


@pytest.mark.parametrize("keywords", [{"corridor": 0}, {"arms": 0}, {"limit": 19}])
def test_a_maze_that_cannot_be_walked_is_refused(keywords):
    with pytest.raises(ValueError, match="give a corridor and arms of at least 1 cell"):
        make.make_vec("CuedTMaze", 1, **keywords)
