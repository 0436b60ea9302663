import numpy as np
import pytest
import torch

from agents import a3c, actor_critic, losses, optimiser, rollout


def make(seed=0, obs_shape=(5,), continuous=False, **settings):
    return a3c.A3C(obs_shape, 3, continuous, actor_critic.AgentConfig(**settings), 1e-2, seed)


def unroll(agent, length=7, batch=4, obs_shape=(5,), keep_graph=True, seed=0, continuous=False):
    rng = np.random.default_rng(seed)
    state = initial = agent.initial_state(batch)
    inputs, steps = [], []
    for _ in range(length):
        if len(obs_shape) == 3:
            obs = torch.tensor(rng.integers(0, 256, (batch, *obs_shape), dtype=np.uint8))
        else:
            obs = torch.tensor(rng.normal(size=(batch, *obs_shape)), dtype=torch.float32)
        inputs.append(
            rollout.Inputs(
                obs,
                torch.eye(3)[rng.integers(0, 3, batch)],
                torch.tensor(rng.normal(size=batch), dtype=torch.float32),
                torch.tensor(rng.random(batch) < 0.2),
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


def gradients_after(agent, batch):
    agent.update(batch, entropy_cost=0.01)
    return [parameter.grad.clone() for parameter in agent.network.parameters()]


@pytest.mark.parametrize("core", ["lstm", "feedforward"])
@pytest.mark.parametrize("package", ["paper", "batched"])
@pytest.mark.parametrize("obs_shape", [(5,), (4, 84, 84)])
@pytest.mark.parametrize("continuous", [False, True])
def test_the_second_pass_in_parts_gives_the_kept_graphs_gradient(
    core, package, obs_shape, continuous
):
    settings = {
        "core": core,
        "package": package,
        "obs_shape": obs_shape,
        "continuous": continuous,
    }
    kept, parts = (
        make(**settings),
        make(graph_steps=20, **settings),
    )  # 2 of 4 environments at a time
    assert kept.keeps_graph(7, 4)
    assert not parts.keeps_graph(7, 4)
    batch = unroll(kept, obs_shape=obs_shape)
    repeated = unroll(parts, obs_shape=obs_shape, keep_graph=False)
    assert all(
        torch.equal(a.action, b.action) for a, b in zip(batch.steps, repeated.steps, strict=True)
    )
    for a, b in zip(gradients_after(kept, batch), gradients_after(parts, repeated), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)
    for a, b in zip(kept.network.parameters(), parts.network.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(("package", "time_scale"), [("paper", 7), ("batched", 1)])
def test_update_is_the_written_loss(package, time_scale):
    agent = make(package=package, value_cost=0.3)
    batch = unroll(agent)
    log_prob, entropy, value = (
        torch.stack([getattr(step, name) for step in batch.steps])
        for name in ("log_prob", "entropy", "value")
    )
    returns = losses.n_step_returns(*batch[3:8], 0.99)
    advantage = (returns - value).detach()
    loss = time_scale * (
        -(log_prob * advantage).mean()
        + 0.3 * ((returns - value) ** 2).mean()
        - 0.01 * entropy.mean()
    )
    expected = torch.autograd.grad(loss, list(agent.network.parameters()), retain_graph=True)
    norm = torch.sqrt(sum((gradient**2).sum() for gradient in expected))
    metrics = agent.update(batch, entropy_cost=0.01)
    assert metrics["gradient_norm"] == pytest.approx(norm.item(), rel=1e-4)
    scale = min(1.0, optimiser.PACKAGES[package].max_gradient_norm / norm.item())
    for parameter, gradient in zip(agent.network.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient * scale, rtol=1e-3, atol=1e-7)


def test_a_non_finite_update_is_refused_and_changes_nothing():
    agent = make()
    batch = unroll(agent)
    before = {name: tensor.clone() for name, tensor in agent.state_dict().items()}
    broken = batch._replace(reward=torch.full_like(batch.reward, torch.nan))
    with pytest.raises(FloatingPointError, match="policy loss nan"):
        agent.update(broken, 0.01)
    after = agent.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_state_round_trip_continues_the_same_way():
    first, second = make(0), make(1)
    first.update(unroll(first), 0.01)
    second.load_state_dict({name: t.clone() for name, t in first.state_dict().items()})
    for agent in (first, second):
        agent.set_learning_rate(5e-3)
        agent.update(unroll(agent, seed=2), 0.01)
    one, two = first.state_dict(), second.state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert second.learning_rate() == 5e-3


def test_a_checkpoint_does_not_carry_the_learning_rate():
    donor, child = make(0), make(1)
    child.set_learning_rate(1e-5)
    child.load_state_dict(donor.state_dict())
    assert child.learning_rate() == 1e-5


@pytest.mark.parametrize(("package", "centres"), [("batched", True), ("paper", False)])
def test_only_the_batched_package_centres_images_and_the_mean_is_state(package, centres):
    agent = make(obs_shape=(4, 84, 84), package=package)
    batch = unroll(agent, obs_shape=(4, 84, 84))
    agent.update(batch, 0.01)
    assert (agent.network.torso.mean.abs().max() > 0) == centres
    child = make(1, obs_shape=(4, 84, 84), package=package)
    child.load_state_dict(agent.state_dict())
    assert torch.equal(child.network.torso.mean, agent.network.torso.mean)


def test_another_agents_state_is_refused_whole():
    agent = make(width=16)
    before = {name: tensor.clone() for name, tensor in agent.state_dict().items()}
    with pytest.raises(ValueError, match=r"network.value.weight is \(1, 32\), not \(1, 16\)"):
        agent.load_state_dict(make(width=32).state_dict())
    with pytest.raises(ValueError, match=r"missing network.core.weight_ih"):
        agent.load_state_dict(make(width=16, core="feedforward").state_dict())
    after = agent.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_the_same_seed_acts_the_same():
    for seed, same in ((0, True), (1, False)):
        one, two = unroll(make(0)), unroll(make(seed))
        equal = [torch.equal(a.action, b.action) for a, b in zip(one.steps, two.steps, strict=True)]
        assert all(equal) is same


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"package": "mixed"}, r"package 'mixed'.*\['batched', 'paper'\]"),
        ({"core": "gru"}, "core 'gru'"),
        ({"torso": "resnet"}, "torso 'resnet'"),
        ({"value_cost": -0.1}, "value_cost -0.1"),
        ({"value_cost": float("nan")}, "value_cost nan"),
        ({"gamma": 1.5}, r"gamma 1.5 must be in \[0, 1\]"),
        ({"width": 0}, "width 0"),
        ({"graph_steps": 0}, "graph_steps 0"),
    ],
)
def test_bad_settings_are_refused_at_construction(settings, message):
    with pytest.raises(ValueError, match=message):
        actor_critic.AgentConfig(**settings)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"package": "paper"},
        {"core": "feedforward"},
        {"gamma": 0.0},
        {"gamma": 1.0},
        {"width": 1},
        {"graph_steps": 1},
    ],
)
def test_settings_at_their_ends_are_allowed(settings):
    batch = unroll(agent := make(**settings), keep_graph=False)
    before = agent.network.value.weight.clone()
    agent.update(batch, 0.01)
    assert not torch.equal(agent.network.value.weight, before)
