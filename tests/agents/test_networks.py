import numpy as np
import pytest
import scipy.stats
import torch
from torch.nn import functional

from agents import networks, policies, rollout


def make(core="lstm", obs_shape=(5,), torso="mlp", continuous=False, how="orthogonal"):
    network = networks.ActorCritic(obs_shape, 3, continuous, torso, core, 16)
    networks.initialise(network, how, torch.Generator().manual_seed(0))
    return network


def inputs_of(length, batch, obs_shape=(5,), seed=0):
    rng = np.random.default_rng(seed)
    if len(obs_shape) == 3:
        obs = torch.tensor(rng.integers(0, 256, (length, batch, *obs_shape), dtype=np.uint8))
    else:
        obs = torch.tensor(rng.normal(size=(length, batch, *obs_shape)), dtype=torch.float32)
    return rollout.Inputs(
        obs,
        functional.one_hot(torch.tensor(rng.integers(0, 3, (length, batch))), 3).float(),
        torch.tensor(rng.normal(size=(length, batch)), dtype=torch.float32),
        torch.tensor(rng.random((length, batch)) < 0.3),
    )


def at(inputs, t, batch=slice(None)):
    return inputs.map(lambda field: field[t, batch])


@pytest.mark.parametrize(
    ("obs_shape", "torso"), [((5,), "mlp"), ((4, 84, 84), "a3c"), ((3, 64, 80), "nature")]
)
@pytest.mark.parametrize("core", ["lstm", "feedforward"])
def test_unroll_equals_step_by_step(obs_shape, torso, core):
    network = make(core, obs_shape, torso)
    inputs = inputs_of(6, 4, obs_shape)
    state = network.initial_state(4)
    policies, values = network.unroll(inputs, state)
    for t in range(6):
        policy, value, state = network.step(at(inputs, t), state)
        torch.testing.assert_close(policies[t], policy)
        torch.testing.assert_close(values[t], value)


def test_a_state_never_crosses_an_episode_start():
    network = make()
    inputs = inputs_of(8, 4)
    inputs = inputs._replace(is_first=torch.zeros(8, 4, dtype=torch.bool))
    inputs.is_first[5, 2] = True
    state = network.initial_state(4)
    for t in range(8):
        _, value, state = network.step(at(inputs, t), state)
        if t == 5:
            alone = network.initial_state(1)
        if t >= 5:
            _, expected, alone = network.step(at(inputs, t, slice(2, 3)), alone)
            torch.testing.assert_close(value[2:3], expected)


def test_the_core_sees_action_and_reward_and_the_feedforward_agent_does_not():
    for core, sees in (("lstm", True), ("feedforward", False)):
        network = make(core)
        inputs = at(inputs_of(1, 4), 0)
        plain = network.step(inputs, network.initial_state(4))[1]
        for changed in (
            inputs._replace(last_reward=inputs.last_reward + 1),
            inputs._replace(last_action=inputs.last_action.roll(1, -1)),
        ):
            value = network.step(changed, network.initial_state(4))[1]
            assert torch.allclose(plain, value) is not sees


def test_the_folded_scale_equals_dividing_the_image():
    network = make(obs_shape=(4, 84, 84), torso="a3c", how="fan-in")
    obs = inputs_of(1, 3, (4, 84, 84)).obs[0]
    first, second = network.torso.convolutions
    x = functional.relu(functional.conv2d(obs.float() / 255, first.weight, first.bias, stride=4))
    x = functional.relu(functional.conv2d(x, second.weight, second.bias, stride=2))
    expected = functional.relu(network.torso.dense(x.flatten(1)))
    torch.testing.assert_close(network.torso(obs), expected, rtol=1e-4, atol=1e-5)


def test_a3c_torso_has_the_papers_shapes():
    torso = networks.ConvTorso("a3c", (4, 84, 84))
    assert [tuple(c.weight.shape) for c in torso.convolutions] == [
        (16, 4, 8, 8),
        (32, 16, 4, 4),
    ]
    assert tuple(torso.dense.weight.shape) == (256, 32 * 9 * 9)


def test_categorical_head_against_scipy():
    head = policies.CategoricalHead(4, 3)
    log_probs = head(torch.randn(5, 4))
    p = log_probs.detach().exp().numpy()
    np.testing.assert_allclose(
        head.entropy(log_probs).detach(), scipy.stats.entropy(p, axis=1), rtol=1e-5
    )
    action = torch.tensor([0, 1, 2, 1, 0])
    expected = np.log(p[np.arange(5), action])
    np.testing.assert_allclose(head.log_prob(log_probs, action).detach(), expected, rtol=1e-5)
    draws = head.sample(log_probs[:1].expand(20_000, 3), torch.Generator().manual_seed(0))
    counts = np.bincount(draws.numpy(), minlength=3)
    assert (
        scipy.stats.chisquare(
            counts, p[0].astype(np.float64) / p[0].astype(np.float64).sum() * 20_000
        ).pvalue
        > 1e-3
    )


def test_gaussian_head_against_scipy():
    head = policies.GaussianHead(4, 2).double()  # a log probability near 0 has no float32 digits
    with torch.no_grad():
        head.raw_log_std.copy_(torch.tensor([0.3, -0.7]))
    parameters = head(torch.randn(5, 4, dtype=torch.float64))
    mean, log_std = (x.detach().numpy() for x in parameters.unbind(-2))
    action = torch.randn(5, 2, dtype=torch.float64)
    normal = scipy.stats.norm(mean, np.exp(log_std))
    np.testing.assert_allclose(
        head.log_prob(parameters, action).detach(), normal.logpdf(action).sum(-1), rtol=1e-10
    )
    np.testing.assert_allclose(
        head.entropy(parameters).detach(), normal.entropy().sum(-1), rtol=1e-10
    )
    draws = head.sample(parameters[:1].expand(20_000, 2, 2), torch.Generator().manual_seed(0))
    first_dimension = scipy.stats.norm(mean[0, 0], np.exp(log_std[0, 0]))
    assert scipy.stats.kstest(draws[:, 0].numpy(), first_dimension.cdf).pvalue > 1e-3
    fresh = policies.GaussianHead(4, 2)(torch.zeros(1, 4))
    assert fresh[0, 1].abs().max() < 1e-6  # starts at standard deviation 1
    with torch.no_grad():
        head.raw_log_std.fill_(1e9)
    assert head(torch.zeros(1, 4, dtype=torch.float64))[0, 1].max() <= head.LOG_STD_HIGH


def test_running_statistics_equal_numpys():
    torso = networks.MLPTorso(3, 8)
    data = np.random.default_rng(0).normal(5.0, [1.0, 10.0, 0.1], size=(1_000, 3))
    for part in np.array_split(data, [10, 200, 201, 640]):
        torso.observe(torch.tensor(part))
    np.testing.assert_allclose(torso.mean, data.mean(0), rtol=1e-10)
    np.testing.assert_allclose(torso.variance, data.var(0), rtol=1e-10)


def test_the_mean_image_is_averaged_then_followed_and_subtracted():
    torso = make(obs_shape=(4, 84, 84), torso="a3c", how="fan-in").torso
    rng = np.random.default_rng(0)
    batches = torch.tensor(rng.integers(0, 256, (5, 3, 4, 84, 84), dtype=np.uint8))
    plain = torso(batches[0])
    for batch in batches:
        torso.observe(batch)
    mean = batches.numpy().astype(np.float64).mean((0, 1))
    np.testing.assert_allclose(torso.mean, mean, rtol=1e-4)
    first, second = torso.convolutions
    centred = (batches[0].double() - torch.tensor(mean)).float() / 255
    x = functional.relu(functional.conv2d(centred, first.weight, first.bias, stride=4))
    x = functional.relu(functional.conv2d(x, second.weight, second.bias, stride=2))
    expected = functional.relu(torso.dense(x.flatten(1)))
    torch.testing.assert_close(torso(batches[0]), expected, rtol=1e-3, atol=1e-5)
    assert not torch.allclose(torso(batches[0]), plain)
    torso.count.fill_(1e6)
    before = torso.mean.clone()
    torso.observe(batches[0])
    step = (torso.mean - before) / (batches[0].float().mean(0) - before)
    np.testing.assert_allclose(step[step.isfinite()].median(), torso.MEAN_RATE, rtol=1e-2)


def test_initialisation_is_drawn_from_the_generator_alone():
    for how in ("fan-in", "orthogonal"):
        torch.manual_seed(1)
        first = make(how=how).state_dict()
        torch.manual_seed(2)
        second = make(how=how).state_dict()
        assert all(torch.equal(first[name], second[name]) for name in first)
    policy = make(obs_shape=(4, 84, 84), torso="a3c").policy.linear
    assert torch.linalg.svdvals(policy.weight.detach()).max() == pytest.approx(0.01, rel=1e-3)


def test_observations_that_do_not_fit_are_refused_with_a_way_out():
    with pytest.raises(ValueError, match=r"6 x 84 pixels.*FlattenObservation"):
        networks.ConvTorso("a3c", (3, 6, 84))
    with pytest.raises(ValueError, match="takes vectors"):
        make(obs_shape=(4, 84, 84), torso="mlp")
    with pytest.raises(ValueError, match="takes images"):
        make(obs_shape=(4,), torso="a3c")
