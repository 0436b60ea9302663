"""PPO against slow loops in the papers' notation, and against A3C where the two must agree."""

import numpy as np
import pytest
import torch

from agents import a3c, actor_critic, losses, ppo, rollout

ACTIONS = 3


def make(agent="ppo", obs_shape=(5,), continuous=False, seed=0, lr=1e-2, ppo_settings=None, **own):
    settings = actor_critic.AgentConfig(**own)
    if agent == "a3c":
        return a3c.A3C(obs_shape, ACTIONS, continuous, settings, lr, seed)
    reuse = ppo.PPOConfig(**(ppo_settings or {}))
    return ppo.PPO(obs_shape, ACTIONS, continuous, settings, reuse, lr, seed)


def play(agent, length=12, batch=4, obs_shape=(5,), seed=0, keep_graph=False, resets=0.2):
    """Return a rollout of an agent with random observations, rewards, ends and truncations."""
    rng = np.random.default_rng(seed)
    # Not the zero state, so that a sequence that starts from the wrong one is seen.
    state = initial = tuple(torch.full_like(part, 0.3) for part in agent.initial_state(batch))
    inputs, steps = [], []
    for _ in range(length):
        if len(obs_shape) == 3:
            obs = torch.tensor(rng.integers(0, 256, (batch, *obs_shape), dtype=np.uint8))
        else:
            obs = torch.tensor(rng.normal(size=(batch, *obs_shape)), dtype=torch.float32)
        inputs.append(
            rollout.Inputs(
                obs,
                torch.eye(ACTIONS)[rng.integers(0, ACTIONS, batch)],
                torch.tensor(rng.normal(size=batch), dtype=torch.float32),
                torch.tensor(rng.random(batch) < resets),
            )
        )
        steps.append(agent.act(inputs[-1], state, keep_graph))
        state = steps[-1].state
    shape = (length, batch)
    truncated = torch.tensor(rng.random(shape) < 0.1)
    return rollout.Rollout(
        tuple(inputs),
        initial,
        tuple(steps),
        torch.tensor(rng.normal(size=shape), dtype=torch.float32),
        torch.tensor(0.99 * (rng.random(shape) > 0.1), dtype=torch.float32),
        truncated,
        torch.tensor(rng.normal(size=shape), dtype=torch.float32) * truncated,
        torch.tensor(rng.normal(size=batch), dtype=torch.float32),
    )


def gradients(agent):
    return [parameter.grad.clone() for parameter in agent.network.parameters()]


@pytest.mark.parametrize("obs_shape", [(5,), (4, 84, 84)])
@pytest.mark.parametrize("continuous", [False, True])
@pytest.mark.parametrize("core", ["lstm", "feedforward"])
def test_one_epoch_without_clip_and_trace_has_the_gradient_of_a3c(obs_shape, continuous, core):
    """One minibatch of whole unrolls, lambda 1, ratio 1: equation 7 is then the policy gradient."""
    same = {"obs_shape": obs_shape, "continuous": continuous, "core": core}
    whole = {
        "rollout_steps": 12,
        "minibatch_steps": 48,
        "trace": 1.0,
        "normalise_advantages": False,
    }
    reused, once = make(ppo_settings=whole, **same), make("a3c", **same)
    batch = play(reused, obs_shape=obs_shape)
    repeated = play(once, obs_shape=obs_shape, keep_graph=True)
    for a, b in zip(batch.steps, repeated.steps, strict=True):
        assert torch.equal(a.action, b.action)
    ours = reused.update(batch, 0.02, unroll_length=12, clip_range=1e6, epochs=1)
    theirs = once.update(repeated, 0.02)
    for a, b in zip(gradients(reused), gradients(once), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)
    for name in ("loss/value", "entropy", "gradient_norm", "value/mean"):
        assert ours[name] == pytest.approx(theirs[name], rel=1e-3, abs=1e-5), name


def slow_surrogate(log_prob, acted, advantage, clip_range):
    """Equation 7 of Schulman et al. 2017, negated, one step at a time."""
    total = []
    for new, old, gain in zip(log_prob.ravel(), acted.ravel(), advantage.ravel(), strict=True):
        ratio = np.exp(new - old)
        total.append(-min(ratio * gain, min(max(ratio, 1 - clip_range), 1 + clip_range) * gain))
    return np.reshape(total, log_prob.shape)


def test_surrogate_is_equation_7():
    rng = np.random.default_rng(0)
    log_prob, acted, advantage = rng.normal(size=(3, 7, 4))
    found = losses.clipped_surrogate_loss(
        *(torch.tensor(one) for one in (log_prob, acted, advantage)), 0.1
    )
    np.testing.assert_allclose(found, slow_surrogate(log_prob, acted, advantage, 0.1))
    with pytest.raises(ValueError, match="acted_log_prob"):
        losses.clipped_surrogate_loss(torch.zeros(3, 2), torch.zeros(2, 3), torch.zeros(3, 2), 0.1)


def slow_advantages(reward, discount, truncated, truncation_value, value, last, gamma, trace):
    """Equation 16 of Schulman et al. 2015: the sum over all later steps, written out."""
    steps, batch = reward.shape
    following = np.concatenate((value[1:], last[None]))
    delta = reward + np.where(truncated, gamma * truncation_value, discount * following) - value
    advantages = np.zeros_like(reward)
    for b in range(batch):
        for t in range(steps):
            weight = 1.0
            for later in range(t, steps):
                advantages[t, b] += weight * delta[later, b]
                weight *= 0.0 if truncated[later, b] else discount[later, b] * trace
    return advantages


@pytest.mark.parametrize("trace", [0.0, 0.5, 0.95, 1.0])
def test_advantages_are_equation_16(trace):
    rng = np.random.default_rng(1)
    reward, truncation_value, value = rng.normal(size=(3, 9, 5))
    discount = 0.9 * (rng.random((9, 5)) > 0.2)
    truncated, last = rng.random((9, 5)) < 0.2, rng.normal(size=5)
    found = losses.generalised_advantages(
        torch.tensor(reward),
        torch.tensor(discount),
        torch.tensor(truncated),
        torch.tensor(truncation_value),
        torch.tensor(value),
        torch.tensor(last),
        0.9,
        trace,
    )
    wanted = slow_advantages(reward, discount, truncated, truncation_value, value, last, 0.9, trace)
    np.testing.assert_allclose(found, wanted)


def test_with_trace_1_advantages_are_n_step_returns_minus_values():
    batch = play(make())
    arrays = batch.reward, batch.discount, batch.truncated, batch.truncation_value
    value = torch.stack([step.value for step in batch.steps])
    found = losses.generalised_advantages(*arrays, value, batch.bootstrap_value, 0.99, 1.0)
    wanted = losses.n_step_returns(*arrays, batch.bootstrap_value, 0.99) - value
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("unroll", [1, 3, 4, 12, 50])
@pytest.mark.parametrize("core", ["lstm", "feedforward"])
def test_the_first_minibatch_meets_the_policy_that_acted(unroll, core):
    """With the stored states every ratio is 1; with any other state it would not be."""
    agent = make(core=core, lr=1e-9, ppo_settings={"minibatch_steps": 8})
    metrics = agent.update(play(agent), 0.01, unroll, clip_range=1e-4, epochs=2)
    assert metrics["clip_fraction"] == 0
    assert metrics["kl"] == pytest.approx(0, abs=1e-7)


def test_every_step_is_learned_from_once_per_epoch():
    agent = make(ppo_settings={"minibatch_steps": 6})
    seen = []
    whole = agent.network.unroll

    def spy(inputs, state):
        seen.append(inputs.last_reward)
        return whole(inputs, state)

    agent.network.unroll = spy
    batch = play(agent, length=12, batch=4)
    agent.update(batch, 0.01, unroll_length=3, clip_range=0.1, epochs=2)
    assert [tuple(one.shape) for one in seen] == [(3, 2)] * 16  # 2 sequences of 3, 8 times, twice
    rewards = torch.stack([inputs.last_reward for inputs in batch.inputs]).flatten().sort().values
    for epoch in (seen[:8], seen[8:]):
        assert torch.equal(torch.cat([one.flatten() for one in epoch]).sort().values, rewards)
    order = [[float(one[0, 0]) for one in epoch] for epoch in (seen[:8], seen[8:])]
    assert order[0] != order[1]


@pytest.mark.parametrize(
    ("unroll", "most", "length"),
    [
        *((16, 10**9, 128), (20, 10**9, 120), (50, 10**9, 150), (200, 10**9, 200), (1, 10**9, 128)),
        *((16, 127, 112), (16, 16, 16), (16, 15, 15), (16, 1, 1)),
    ],
)
def test_rollouts_are_whole_sequences(unroll, most, length):
    assert make().rollout_length(unroll, most) == length
    assert length % unroll == 0 or length == most < unroll


def test_a_short_last_rollout_is_one_sequence():
    agent = make()
    metrics = agent.update(play(agent, length=5), 0.01, 16, clip_range=0.1, epochs=1)
    assert np.isfinite(list(metrics.values())).all()


def test_updates_repeat_and_a_checkpoint_goes_on_exactly():
    agent = make()
    agent.update(play(agent), 0.01, 4, 0.1, 3)
    twin = make(seed=7)
    twin.load_state_dict({name: tensor.clone() for name, tensor in agent.state_dict().items()})
    assert {"exp_avg.value.bias", "exp_avg_sq.value.bias", "step.value.bias"} <= set(
        twin.state_dict()
    )
    for one in (agent, twin):
        one.update(play(one, seed=3), 0.01, 4, 0.1, 3)
    for (name, a), b in zip(agent.state_dict().items(), twin.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_checkpoints_of_a3c_and_ppo_are_told_apart():
    one, other = make(), make("a3c")
    assert set(one.state_dict()) == set(make(seed=1).state_dict())  # before any update
    with pytest.raises(ValueError, match=r"missing exp_avg.*unexpected mean_square"):
        one.load_state_dict(other.state_dict())


def test_a_non_finite_minibatch_is_told_and_not_applied():
    agent = make(ppo_settings={"minibatch_steps": 48})
    batch = play(agent)
    before = {name: tensor.clone() for name, tensor in agent.state_dict().items()}
    broken = batch._replace(reward=batch.reward * float("nan"))
    with pytest.raises(FloatingPointError, match="non-finite update"):
        agent.update(broken, 0.01, 4, 0.1, 2)
    for name, tensor in agent.state_dict().items():
        assert name == "generator" or torch.equal(tensor, before[name]), name


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        *(("rollout_steps", 0), ("minibatch_steps", 0), ("trace", 1.5), ("trace", -0.1)),
        *(("adam_epsilon", 0.0), ("adam_epsilon", float("inf"))),
    ],
)
def test_refuses_bad_settings(setting, value):
    with pytest.raises(ValueError, match=f"{setting} {value}"):
        ppo.PPOConfig(**{setting: value})


def test_refuses_the_package_of_sums():
    with pytest.raises(ValueError, match="package 'paper' is A3C's: use package 'batched'"):
        make(package="paper")


def test_bfloat16_gives_nearly_the_gradient_of_float32():
    """Rounded to 8 bits, the gradients of the torso still point the same way."""
    found = {}
    for precision in ("float32", "bfloat16"):
        agent = make(obs_shape=(4, 84, 84), precision=precision, ppo_settings={"rollout_steps": 4})
        exact = make(obs_shape=(4, 84, 84))
        batch = play(exact, length=4, obs_shape=(4, 84, 84))
        agent.update(batch, 0.01, 4, 0.1, 1)
        found[precision] = torch.cat([gradient.flatten() for gradient in gradients(agent)])
        assert all(p.dtype == torch.float32 for p in agent.network.parameters())
    assert torch.cosine_similarity(*found.values(), dim=0) > 0.99
    assert not torch.equal(*found.values())
