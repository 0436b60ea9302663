"""Replay, read back pixel by pixel: each frame shows its environment, episode and step."""

import itertools

import numpy as np
import pytest
import torch

from agents import rollout, sequence_buffer

ACTIONS = 5
SIZE = 6  # pixels; the buffer knows nothing of 84


class Talking:
    """Environments whose frames show (environment, episode, step), with a record of all steps.

    Episodes have 2 to 12 steps; odd ones are truncated; a life is lost now and then.
    """

    def __init__(self, num_envs, stack, channels, seed=0):
        self.rng = np.random.default_rng(seed)
        self.num_envs, self.stack, self.channels = num_envs, stack, channels
        self.episode = np.zeros(num_envs, dtype=int)
        self.t = np.zeros(num_envs, dtype=int)
        self.length = self.rng.integers(2, 13, num_envs)
        self.first = np.ones(num_envs, dtype=bool)
        self.last_action = np.zeros((num_envs, ACTIONS), dtype=np.float32)
        self.last_reward = np.zeros(num_envs, dtype=np.float32)
        self.done = {}  # (env, episode, step) -> (action, reward, discount, terminated, is_last)

    def frame(self, env, episode, t):
        image = np.zeros((self.channels, SIZE, SIZE), dtype=np.uint8)
        if t >= 0:
            image[:, 0, :4] = (env + 1, episode, t, 7)
        return image

    def obs(self, env, t):
        frames = [self.frame(env, self.episode[env], t - k) for k in range(self.stack)][::-1]
        return np.concatenate(frames)

    def begin_again(self, env):
        """Continue the episode as if it began here, as a learner with new weights does."""
        self.first[env] = True
        self.last_action[env] = 0
        self.last_reward[env] = 0

    def unroll(self, length):
        inputs, steps, endings, rewards, discounts = [], [], [], [], []
        for _ in range(length):
            inputs.append(
                rollout.Inputs(
                    torch.from_numpy(np.stack([self.obs(w, t) for w, t in enumerate(self.t)])),
                    torch.from_numpy(self.last_action.copy()),
                    torch.from_numpy(self.last_reward.copy()),
                    torch.from_numpy(self.first.copy()),
                )
            )
            action = self.rng.integers(0, ACTIONS, self.num_envs)
            reward = self.rng.choice([0.0, 0.0, 0.0, 1.0, -1.0], self.num_envs).astype(np.float32)
            discount = np.where(self.rng.random(self.num_envs) < 0.1, 0, 0.99).astype(np.float32)
            ended = []
            for w in range(self.num_envs):
                last = self.t[w] + 1 == self.length[w]
                terminated = bool(last and self.episode[w] % 2 == 0)
                if last:
                    discount[w] = 0 if terminated else 0.99
                key = (w, self.episode[w], self.t[w])
                self.done[key] = (
                    action[w],
                    reward[w],
                    discount[w],
                    terminated,
                    last,
                    self.first[w],
                )
                self.t[w] += 1
                self.first[w] = False
                self.last_action[w] = np.eye(ACTIONS)[action[w]]
                self.last_reward[w] = reward[w]
                if last:
                    ended.append((w, self.obs(w, self.t[w]), terminated))
                    self.episode[w] += 1
                    self.t[w] = 0
                    self.length[w] = self.rng.integers(2, 13)
                    self.begin_again(w)
            endings.append(
                rollout.Ending(
                    torch.tensor([w for w, _, _ in ended]),
                    torch.from_numpy(np.stack([obs for _, obs, _ in ended])),
                    torch.tensor([terminated for _, _, terminated in ended]),
                )
                if ended
                else None
            )
            zeros = torch.zeros(self.num_envs)
            steps.append(rollout.Step(torch.from_numpy(action), zeros, zeros, zeros, ()))
            rewards.append(torch.from_numpy(reward))
            discounts.append(torch.from_numpy(discount))
        nothing = torch.zeros(length, self.num_envs)
        return rollout.Rollout(
            tuple(inputs),
            (),
            tuple(steps),
            torch.stack(rewards),
            torch.stack(discounts),
            nothing.bool(),
            nothing,
            torch.zeros(self.num_envs),
            tuple(endings),
        )


def told(obs, stack):
    """Return (environment, episode, step) of the newest frame; check the older frames."""
    frames = obs.reshape(stack, -1, SIZE, SIZE)
    assert (frames == frames[:, :1]).all(), "all channels of a frame say the same"
    env, episode, t, mark = frames[-1, 0, 0, :4].tolist()
    assert mark == 7
    for age in range(stack):
        said = frames[-1 - age, 0, 0, :4].tolist()
        assert said == ([env, episode, t - age, 7] if t >= age else [0, 0, 0, 0])
    return env - 1, episode, t


STACKS = [(4, 1), (1, 3), (2, 3)]


def filled(stack, channels, slots=40, num_envs=3, unrolls=20, forget=()):
    envs = Talking(num_envs, stack, channels)
    buffer = sequence_buffer.SequenceBuffer(
        slots * num_envs,
        num_envs,
        (stack * channels, SIZE, SIZE),
        channels,
        ACTIONS,
        torch.device("cpu"),
    )
    for index in range(unrolls):
        if index in forget:
            envs.begin_again(0)
        buffer.append(envs.unroll(7))
    return envs, buffer


@pytest.mark.parametrize(("stack", "channels"), STACKS)
def test_sequences_are_what_happened(stack, channels):
    envs, buffer = filled(stack, channels, forget=(17, 18, 19))
    generator = torch.Generator().manual_seed(0)
    seen, ends, cut = set(), 0, 0
    for _ in range(60):
        drawn = buffer.sample(9, 8, generator)
        assert drawn.inputs.obs.shape == (10, 8, stack * channels, SIZE, SIZE)
        assert drawn.inputs.is_first[0].all()
        assert not drawn.inputs.is_first[1:].any()
        for n in range(8):
            length = int(drawn.length[n])
            assert 1 <= length <= 9
            start = told(drawn.inputs.obs[0, n], stack)
            seen.add(start)
            env, episode, begin = start
            for t in range(length):
                here = (env, episode, begin + t)
                assert told(drawn.inputs.obs[t, n], stack) == here
                action, reward, discount, terminated, last, _ = envs.done[here]
                assert drawn.action[t, n] == action
                assert drawn.reward[t, n] == reward
                assert drawn.discount[t, n] == discount
                assert bool(drawn.terminated[t, n]) == terminated
                assert not (last and t < length - 1), "continues beyond an episode's end"
            after = (env, episode, begin + length)
            assert told(drawn.inputs.obs[length, n], stack) == after
            last = envs.done[env, episode, begin + length - 1][4]
            ends += last
            if length < 9 and not last:
                following = envs.done[env, episode, begin + length + 1]
                assert following[5], "stops only at an end or where the learner forgot"
                cut += 1
            # The last action and reward, which are zero where the learner saw a beginning.
            for t in range(length + 1):
                before = envs.done.get((env, episode, begin + t - 1))
                first = envs.done.get((env, episode, begin + t), (0,) * 6)[5]
                if before is None or first:
                    assert drawn.inputs.last_reward[t, n] == 0
                    assert not drawn.inputs.last_action[t, n].any()
                else:
                    assert drawn.inputs.last_reward[t, n] == before[1]
                    assert drawn.inputs.last_action[t, n].tolist() == list(
                        np.eye(ACTIONS)[before[0]]
                    )
    assert ends > 20
    assert cut > 0
    assert {t for _, _, t in seen} >= set(range(8)), "sequences begin anywhere in an episode"
    assert {env for env, _, _ in seen} == {0, 1, 2}


@pytest.mark.parametrize(("stack", "channels"), STACKS)
def test_every_step_kept_is_as_likely(stack, channels):
    """Compare with all possible starts, counted by hand."""
    envs, buffer = filled(stack, channels)
    slots = []
    for env in range(3):
        rows = []
        for (w, episode, t), row in sorted(envs.done.items()):
            if w == env:
                if t == 0:
                    rows += [None] * (stack - 1)
                rows.append((w, episode, t))
                if row[4]:
                    rows.append(None)  # the last frame
        slots.append(rows[-40:])
    expected = {
        slot for rows in slots for slot in rows[max(stack - 1, 1) : 40 - 5] if slot is not None
    }
    generator = torch.Generator().manual_seed(1)
    drawn = buffer.sample(5, 30_000, generator)
    counts = {}
    for obs in drawn.inputs.obs[0]:
        key = told(obs, stack)
        counts[key] = counts.get(key, 0) + 1
    assert counts.keys() == expected
    share = np.array(list(counts.values())) * len(expected) / 30_000
    assert abs(share - 1).max() < 6 * np.sqrt(len(expected) / 30_000)


@pytest.mark.parametrize(("stack", "channels"), STACKS)
def test_half_of_the_predicted_rewards_are_rewards(stack, channels):
    envs, buffer = filled(stack, channels)
    rare = [key for key, row in envs.done.items() if row[1] != 0]
    assert len(rare) < 0.45 * len(envs.done)
    drawn = buffer.sample_rewards(4_000, 0.5, torch.Generator().manual_seed(2))
    obs, reward = drawn
    assert obs.shape == (4_000, 3, stack * channels, SIZE, SIZE)
    assert abs((reward != 0).float().mean() - 0.5) < 4 * 0.5 / np.sqrt(4_000)
    for n in range(400):
        keys = [told(obs[n, k], stack) for k in range(3)]
        env, episode, t = keys[-1]
        assert keys == [(env, episode, t - 2), (env, episode, t - 1), (env, episode, t)]
        assert envs.done[keys[-1]][1] == reward[n]


def test_one_kind_of_reward_is_enough():
    _, buffer = filled(1, 3)
    for least, expected in ((2.0, {-1.0, 0.0, 1.0}), (0.0, {-1.0, 0.0, 1.0})):
        _, reward = buffer.sample_rewards(300, least, torch.Generator().manual_seed(0))
        assert set(reward.tolist()) == expected


@pytest.mark.parametrize(("stack", "channels"), STACKS)
def test_little_experience_gives_nothing_or_what_there_is(stack, channels):
    envs = Talking(2, stack, channels)
    buffer = sequence_buffer.SequenceBuffer(
        100, 2, (stack * channels, SIZE, SIZE), channels, ACTIONS, torch.device("cpu")
    )
    generator = torch.Generator().manual_seed(0)
    assert buffer.filled() == 0
    assert buffer.sample(5, 3, generator) is None
    assert buffer.sample_rewards(3, 0.5, generator) is None
    fractions = []
    for _ in range(12):
        buffer.append(envs.unroll(7))
        fractions.append(buffer.filled())
        if (drawn := buffer.sample(5, 50, generator)) is not None:
            for n in range(50):
                assert told(drawn.inputs.obs[0, n], stack) in envs.done
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1
    buffer.clear()
    assert buffer.filled() == 0
    assert buffer.sample(5, 3, generator) is None
    envs.begin_again(0)
    envs.begin_again(1)
    old = set(envs.done)
    for _ in range(3):
        buffer.append(envs.unroll(7))
    drawn = buffer.sample(5, 50, generator)
    assert not {told(obs, stack) for obs in drawn.inputs.obs[0]} & old


def test_each_frame_is_kept_once():
    buffer = sequence_buffer.SequenceBuffer(2_000, 16, (4, 84, 84), 1, ACTIONS, torch.device("cpu"))
    kept = [value for value in vars(buffer).values() if isinstance(value, torch.Tensor)]
    megabytes = sum(tensor.numel() * tensor.element_size() for tensor in kept) / 1e6
    assert 14 < megabytes < 14.2


def test_refuses_observations_that_are_not_stacks():
    with pytest.raises(ValueError, match=r"\(4, 6, 6\) are not stacks of frames of 3 channels"):
        sequence_buffer.SequenceBuffer(100, 2, (4, 6, 6), 3, ACTIONS, torch.device("cpu"))


def test_the_generator_decides_the_draw():
    _, buffer = filled(4, 1)
    one, same, other = (
        buffer.sample(5, 20, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)
    )
    assert all(
        torch.equal(a, b)
        for a, b in itertools.chain(
            zip(one.inputs[:4], same.inputs[:4], strict=True), [(one[1], same[1])]
        )
    )
    assert not torch.equal(one.inputs.obs, other.inputs.obs)
