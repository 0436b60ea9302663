"""FullyConv-LSTM: against the paper's description in numpy, and that it learns to point."""

import numpy as np
import pytest
import scipy.signal
import torch

import parts_play
from agents import a3c, actor_critic, feudal, ppo, rollout, spatial

SHAPES = ((3, 7, 9), (2, 7, 9), (5,))
PARTS = rollout.ActionParts((4, 63, 3, 63), ((True, False, False),) * 3 + ((False, True, True),))
FREE = rollout.ActionParts((63, 3))  # a place and a number, which always count


def network(shapes=SHAPES, parts=PARTS, core="lstm"):
    """Return a network of large random weights, so that a wrong one shows."""
    made = spatial.SpatialActorCritic(shapes, parts, core, 16)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(0, parameter[0].numel() ** -0.5, generator=generator)
    return made


def inputs_of(shapes=SHAPES, parts=PARTS, seed=0, masked=True):
    return parts_play.inputs_of(shapes, parts, np.random.default_rng(seed), masked=masked)


# The paper's description.


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def convolution(x, layer):
    """Return the padded convolution of planes [C, H, W]."""
    weight, bias = layer.weight.detach().double().numpy(), layer.bias.detach().double().numpy()
    return np.array(
        [
            sum(scipy.signal.correlate2d(p, k, "same") for p, k in zip(x, kernels, strict=True)) + b
            for kernels, b in zip(weight, bias, strict=True)
        ]
    )


def dense(x, layer):
    return layer.weight.detach().double().numpy() @ x + layer.bias.detach().double().numpy()


def as_planes(x, height, width):
    return np.broadcast_to(x[:, None, None], (len(x), height, width))


def logits_and_value(net, inputs, env, h, c):
    """Return logits, value, h and c of one environment's step, without any batch."""
    *images, vector = (part[env].double().numpy() for part in inputs.obs)
    torso, policy = net.torso, net.policy
    planes = []
    for image, (first, second) in zip(images, torso.images, strict=True):
        x = np.maximum(convolution(image / 255, first), 0)
        planes.append(np.maximum(convolution(x, second), 0))
    one, two = torso.embedding.dense[0], torso.embedding.dense[2]
    size = planes[0].shape[1:]
    planes.append(as_planes(np.tanh(dense(np.tanh(dense(vector, one)), two)), *size))
    state = np.concatenate(planes)  # [C, H, W]
    features = np.maximum(dense(state.transpose(1, 2, 0).flatten(), torso.dense), 0)
    place = np.array([False, True, False, True])
    action = np.split(inputs.last_action[env].double().numpy(), np.cumsum(PARTS.sizes)[:-1])
    seen = [part for part, is_place in zip(action, place, strict=True) if not is_place]
    x = np.concatenate([features, *seen, [inputs.last_reward[env]]])
    if inputs.is_first[env]:
        h, c = 0 * h, 0 * c
    weights = [part.detach().double().numpy() for part in net.core.parameters()]
    gates = weights[0] @ x + weights[1] @ h + weights[2] + weights[3]
    i, f, g, o = np.split(gates, 4)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    h = sigmoid(o) * np.tanh(c)
    seen = np.concatenate([state, as_planes(h, *size)])
    places = convolution(np.maximum(convolution(seen, policy.hidden), 0), policy.places)
    function, number = np.split(dense(h, policy.linear), [4])
    logits = np.concatenate([function, places[0].flatten(), number, places[1].flatten()])
    return logits, dense(h, net.value)[0], h, c


def test_it_is_the_papers_description():
    net = network()
    state = tuple(torch.randn(parts_play.ENVS, 16) for _ in range(2))
    inputs = inputs_of()
    inputs.is_first[:2] = torch.tensor([True, False])
    found, values, after = net.step(inputs, state)
    for env in range(parts_play.ENVS):
        before = [part[env].double().numpy() for part in state]
        logits, value, *expected = logits_and_value(net, inputs, env, *before)
        logits[~inputs.action_mask[env].numpy()] = -np.inf
        probs = [np.exp(p - p.max()) for p in np.split(logits, np.cumsum(PARTS.sizes)[:-1])]
        probs = np.concatenate([part / part.sum() for part in probs])
        np.testing.assert_allclose(found[env].detach().exp(), probs, rtol=1e-3, atol=1e-6)
        np.testing.assert_allclose(values[env].item(), value, rtol=1e-4, atol=1e-5)
        for part, own in zip(after, expected, strict=True):
            np.testing.assert_allclose(part[env].detach(), own, rtol=1e-3, atol=1e-5)


def test_shapes():
    net = network()
    planes = net.torso.planes(inputs_of().obs)
    assert planes.shape == (4, 2 * 32 + spatial.EMBEDDING, 7, 9)
    assert net.torso.features(planes).shape == (4, 256)
    assert net.core.input_size == 256 + (4 + 3) + 1, "places are not among the last action"
    assert net.policy.places.weight.shape == (2, spatial.HIDDEN, 1, 1)
    assert net.step(inputs_of(), net.initial_state(4))[0].shape == (4, PARTS.width)


def test_pointing_moves_with_what_is_seen():
    """Away from the edges, where a kernel sees its padding."""
    shapes = ((3, 24, 24), (1, 24, 24))
    parts = rollout.ActionParts((2, 576))
    net = network(shapes, parts)
    x = torch.randn(1, 16)
    screen = torch.zeros(1, 3, 24, 24, dtype=torch.uint8)
    screen[..., 8:14, 9:15] = torch.randint(0, 256, (6, 6), dtype=torch.uint8)
    logits = []
    for shift in ((0, 0), (3, -2)):
        moved = (screen.roll(shift, (-2, -1)), torch.zeros(1, 1, 24, 24, dtype=torch.uint8))
        log_probs = net.policy(x, net.torso.planes(moved))[:, 2:].view(24, 24)
        logits.append(log_probs - log_probs[12, 20])  # a pixel that sees nothing in either
    inner = slice(4, 18)
    first = logits[0].roll((3, -2), (-2, -1))[inner, inner]
    torch.testing.assert_close(logits[1][inner, inner], first, rtol=1e-4, atol=1e-4)
    assert (first - logits[0][inner, inner]).abs().max() > 0.1, "something has moved"


@pytest.mark.parametrize("core", ["lstm", "feedforward"])
def test_what_the_core_knows_moves_the_places(core):
    net = network(core=core)
    inputs, state = inputs_of(masked=False), net.initial_state(4)
    before = net.step(inputs, state)[0]
    changed = inputs._replace(last_reward=inputs.last_reward + 3)
    difference = (net.step(changed, state)[0] - before).abs().amax(0)
    of_parts = [float(part.max()) for part in difference.detach().split(PARTS.sizes)]
    assert all(part > 1e-3 for part in of_parts) if core == "lstm" else not any(of_parts)


@pytest.mark.parametrize("core", ["lstm", "feedforward"])
@pytest.mark.parametrize("parts", [PARTS, FREE], ids=["table", "independent"])
def test_acting_unrolling_and_three_ways_of_learning_agree(parts, core):
    net = network(parts=parts, core=core)
    steps = [inputs_of(parts=parts, seed=t) for t in range(5)]
    state = net.initial_state(4)
    log_probs, values = net.unroll(rollout.stack(steps), state)
    for t in range(5):
        found, value, state = net.step(steps[t], state)
        torch.testing.assert_close(log_probs[t], found, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(values[t], value, rtol=1e-4, atol=1e-5)
    parts_play.check_gradients(SHAPES, parts, core=core, width=16)


def test_rounded_products_are_close():
    net = network()
    rounded = spatial.SpatialActorCritic(SHAPES, PARTS, "lstm", 16, torch.bfloat16)
    rounded.load_state_dict(net.state_dict())
    inputs, state = inputs_of(masked=False), net.initial_state(4)
    for one, two in zip(net.step(inputs, state)[:2], rounded.step(inputs, state)[:2], strict=True):
        assert two.dtype == torch.float32
        torch.testing.assert_close(one, two, rtol=0.1, atol=0.1)
        assert not torch.equal(one, two)


# As a setting of agents.


def agent(shapes, parts, kind="a3c", **settings):
    return parts_play.make(kind, shapes, parts, **settings)


@pytest.mark.parametrize(
    ("shapes", "parts"), [(SHAPES, PARTS), (((3, 7, 9),), FREE), ((3, 7, 9), FREE)]
)
def test_auto_takes_it_where_an_action_has_a_place(shapes, parts):
    made = agent(shapes, parts)
    assert isinstance(made.network, spatial.SpatialActorCritic)
    assert made.network.width == 256


@pytest.mark.parametrize(
    ("shapes", "parts", "words"),
    [
        (((3, 7, 9), (2, 8, 9)), PARTS, r"images of 2 sizes, \[\(7, 9\), \(8, 9\)\]: use"),
        (((5,), (3,)), PARTS, "no image: use torso 'auto'"),
        (SHAPES, rollout.ActionParts((4, 62)), r"7 x 9 = 63 values, and this action has \(4, 62\)"),
        (SHAPES, 63, "actions of several parts.*has 63"),
        (SHAPES, rollout.ActionParts((63, 3), ((True,),) * 63), "a place"),  # 63 functions
    ],
)
def test_what_does_not_fit_is_refused_and_auto_takes_another(shapes, parts, words):
    with pytest.raises(ValueError, match=words):
        agent(shapes, parts, torso="fullyconv")
    assert not isinstance(agent(shapes, parts).network, spatial.SpatialActorCritic)


def test_agents_without_it_refuse_it():
    config = actor_critic.AgentConfig(torso="fullyconv")
    with pytest.raises(ValueError, match=r"only A3C and PPO.*use agent 'a3c' or 'ppo'"):
        feudal.Feudal(SHAPES, 3, False, config, feudal.FeudalConfig(), 1e-3, 0)
    with pytest.raises(ValueError, match="use torso 'auto'"):
        a3c.A3C((3, 84, 84), 3, False, config, 1e-3, 0)  # as in UNREAL, which has such images
    with pytest.raises(ValueError, match="one of 'a3c', 'nature', 'mlp' and 'fullyconv'"):
        actor_critic.AgentConfig(torso="atari-net")


def test_a_checkpoint_has_all_of_it():
    first, other = agent(SHAPES, PARTS), agent(SHAPES, PARTS, torso="fullyconv")
    first.update(parts_play.play(first, SHAPES, PARTS, True), 0.01)
    assert first.network.torso.embedding.count == parts_play.STEPS * parts_play.ENVS
    other.load_state_dict(first.state_dict())
    torch.testing.assert_close(other.state_dict(), first.state_dict())


def test_the_first_policy_is_nearly_uniform():
    made = agent(SHAPES, PARTS)
    log_probs = made.network.step(inputs_of(masked=False), made.initial_state(4))[0]
    for part, size in zip(log_probs.split(PARTS.sizes, dim=-1), PARTS.sizes, strict=True):
        torch.testing.assert_close(part.exp() * size, torch.ones_like(part), rtol=0.2, atol=0)


# Learning.


def hits(made, shapes, parts, num_envs, updates, length=4):
    """Train on clicking the one lit pixel of a screen; return the share of hits of each update."""
    rng, state, found = np.random.default_rng(0), made.initial_state(num_envs), []
    no_action, none = torch.zeros(num_envs, parts.width), torch.zeros(num_envs)
    for _ in range(updates):
        inputs, steps, rewards = [], [], []
        for _ in range(length):
            lit = torch.tensor(rng.integers(0, 64, num_envs))
            screen = torch.zeros(num_envs, 64, dtype=torch.uint8)
            screen[torch.arange(num_envs), lit] = 255
            obs = (screen.view(num_envs, *shapes[0]),)
            inputs.append(rollout.Inputs(obs, no_action, none, none == 0))
            steps.append(made.act(inputs[-1], state, made.keeps_graph(length, num_envs)))
            click, place = steps[-1].action.T
            rewards.append(((click == 1) & (place == lit)).float())
        reward = torch.stack(rewards)
        no = torch.zeros_like(reward)
        batch = rollout.Rollout(inputs, state, tuple(steps), reward, no, no.bool(), no, no[0])
        made.update(batch, **made.hyperparameters)
        found.append(float(reward.mean()))
    return found


@pytest.mark.parametrize(
    ("kind", "learning_rate", "num_envs", "updates"),
    [pytest.param("a3c", 1e-2, 128, 70, marks=pytest.mark.slow), ("ppo", 5e-3, 64, 20)],
)
def test_it_learns_to_click_the_lit_pixel(kind, learning_rate, num_envs, updates):
    shapes, parts = ((1, 8, 8),), rollout.ActionParts((2, 64), ((False,), (True,)))
    config = actor_critic.AgentConfig(width=32, gamma=0.0)
    if kind == "a3c":
        made = a3c.A3C(shapes, parts, False, config, learning_rate, 0)
    else:
        settings = ppo.PPOConfig(rollout_steps=4, minibatch_steps=64)
        made = ppo.PPO(shapes, parts, False, config, settings, learning_rate, 0)
    found = hits(made, shapes, parts, num_envs, updates)
    assert np.mean(found[-5:]) > 0.9 > 0.1 > np.mean(found[:3])
