"""Policies over actions of several parts: against enumeration, and against slow sums in numpy."""

import itertools
import math

import numpy as np
import pytest
import torch

import parts_play
from agents import a3c, actor_critic, policies, rollout

SIZES = (3, 2, 4)
USED = ((True, False), (False, False), (True, True))
INDEPENDENT = rollout.ActionParts(SIZES)
CONDITIONAL = rollout.ActionParts(SIZES, USED)
BOTH = pytest.mark.parametrize("parts", [INDEPENDENT, CONDITIONAL], ids=["independent", "table"])
# Of the values of all parts side by side; each part has a legal one.
MASK = np.array([True, False, True, True, True, False, True, True, False])


def softmax(logits, mask):
    """Return probabilities, computed without what is masked."""
    probs = np.zeros(len(logits))
    probs[mask] = np.exp(logits[mask]) / np.exp(logits[mask]).sum()
    return probs


def joint(parts, logits, mask):
    """Return the probability of each action, enumerated; parts that do not count are None."""
    split = np.cumsum(parts.sizes)[:-1]
    of_parts = [softmax(*p) for p in zip(np.split(logits, split), np.split(mask, split))]  # noqa: B905
    found = {}
    for function in range(parts.sizes[0]):
        uses = parts.used[function] if parts.used else (True,) * (len(parts.sizes) - 1)
        values = [
            range(n) if used else [None] for n, used in zip(parts.sizes[1:], uses, strict=True)
        ]
        for arguments in itertools.product(*values):
            action = (function, *arguments)
            chances = [p[v] for p, v in zip(of_parts, action, strict=True) if v is not None]
            found[action] = math.prod(chances)
    return found


@BOTH
@pytest.mark.parametrize("mask", [None, MASK], ids=["free", "masked"])
def test_probabilities_and_entropy_are_those_of_the_enumerated_actions(parts, mask):
    logits = np.random.default_rng(3).normal(size=sum(SIZES))
    policy = policies.MultiCategorical(parts)
    legal = np.ones(len(logits), bool) if mask is None else mask
    log_probs = policy.log_probs(torch.tensor(logits), None if mask is None else torch.tensor(mask))
    expected = joint(parts, logits, legal)
    assert sum(expected.values()) == pytest.approx(1)
    entropy = -sum(p * math.log(p) for p in expected.values() if p > 0)
    assert float(policy.entropy(log_probs)) == pytest.approx(entropy)
    for action, chance in expected.items():
        for unused in (0, 1):  # whatever stands in the parts that do not count
            row = torch.tensor([unused if value is None else value for value in action])
            assert math.exp(policy.log_prob(log_probs, row)) == pytest.approx(chance)


@BOTH
def test_samples_have_these_probabilities_and_no_illegal_one_is_drawn(parts):
    logits = np.random.default_rng(4).normal(size=sum(SIZES))
    policy = policies.MultiCategorical(parts)
    log_probs = policy.log_probs(torch.tensor(logits), torch.tensor(MASK))
    count = 20_000
    drawn = policy.sample(log_probs.expand(count, -1), torch.Generator().manual_seed(0))
    assert (drawn.shape, drawn.dtype) == ((count, 3), torch.int64)
    rows, counts = np.unique(drawn.numpy(), axis=0, return_counts=True)
    expected = {
        tuple(0 if value is None else value for value in action): chance
        for action, chance in joint(parts, logits, MASK).items()
        if chance > 0
    }
    found = dict(zip(map(tuple, rows.tolist()), counts / count, strict=True))
    assert found.keys() == expected.keys()
    for action, chance in expected.items():
        assert found[action] == pytest.approx(chance, abs=5 * math.sqrt(chance / count))


@BOTH
def test_the_mode_is_the_most_likely_function_with_its_most_likely_arguments(parts):
    rng = np.random.default_rng(5)
    policy = policies.MultiCategorical(parts)
    rows = rng.normal(size=(50, sum(SIZES)))
    found = policy.mode(policy.log_probs(torch.tensor(rows), torch.tensor(MASK)))
    assert (found.shape, found.dtype) == ((50, 3), torch.int64)
    for logits, action in zip(rows, found.tolist(), strict=True):
        chances = joint(parts, logits, MASK)
        function = softmax(logits[:3], MASK[:3]).argmax()
        best = max((a for a in chances if a[0] == function), key=chances.get)
        assert action == [0 if value is None else value for value in best]


def test_the_mode_of_one_part_and_of_a_gaussian():
    log_probs = torch.tensor([[0.2, 0.5, 0.3], [0.6, 0.3, 0.1]]).log()
    assert policies.Categorical().mode(log_probs).tolist() == [1, 0]
    head = policies.GaussianHead(4, 2)
    parameters = head(torch.randn(6, 4, generator=torch.Generator().manual_seed(0)))
    mode = head.mode(parameters)
    highest = head.log_prob(parameters, mode)
    for seed in range(20):
        sample = head.sample(parameters, torch.Generator().manual_seed(seed))
        assert (head.log_prob(parameters, sample) < highest).all()


@BOTH
def test_gradients_are_finite_and_leave_masked_logits_alone(parts):
    logits = torch.randn(5, sum(SIZES), generator=torch.Generator().manual_seed(0))
    logits.requires_grad_()
    policy = policies.MultiCategorical(parts)
    log_probs = policy.log_probs(logits, torch.tensor(MASK).expand(5, -1))
    action = policy.sample(log_probs, torch.Generator().manual_seed(1))
    (policy.log_prob(log_probs, action) - policy.entropy(log_probs)).sum().backward()
    assert logits.grad.isfinite().all()
    assert (logits.grad[:, ~MASK] == 0).all()
    assert logits.grad[:, MASK].any(0).all() or parts.used


def test_the_entropys_gradient_is_that_of_finite_differences():
    policy = policies.MultiCategorical(CONDITIONAL)
    logits = torch.randn(2, sum(SIZES), dtype=torch.float64).requires_grad_()
    mask = torch.tensor(MASK)
    assert torch.autograd.gradcheck(lambda x: policy.entropy(policy.log_probs(x, mask)), logits)


def test_a_mask_of_one_part_acts_as_the_smaller_softmax():
    head = policies.CategoricalHead(4, 5)
    x = torch.randn(6, 4)
    mask = torch.tensor([True, False, True, True, False])
    log_probs = head(x, mask)
    smaller = torch.log_softmax(head.linear(x)[:, mask], -1)
    torch.testing.assert_close(log_probs[:, mask], smaller)
    assert (log_probs.exp()[:, ~mask] == 0).all()
    torch.testing.assert_close(head.entropy(log_probs), -(smaller.exp() * smaller).sum(-1))


@pytest.mark.parametrize(
    ("sizes", "used", "message"),
    [
        ((), (), "at least 1"),
        ((2, 0), (), "at least 1"),
        ((2, 3), ((True,),), "2 rows of 1"),
        ((2, 3), ((True,), (True, True)), "2 rows of 1"),
    ],
)
def test_parts_are_checked(sizes, used, message):
    with pytest.raises(ValueError, match=message):
        rollout.ActionParts(sizes, used)


# Agents on observations and actions of several parts.

SHAPES = ((3, 24, 20), (1, 7, 7), (4,))


def make(kind, parts, core="lstm", **settings):
    return parts_play.make(kind, SHAPES, parts, core=core, width=16, **settings)


def play(agent, keep_graph, masked=True):
    return parts_play.play(agent, SHAPES, INDEPENDENT, keep_graph, masked)


@BOTH
@pytest.mark.parametrize("core", ["lstm", "feedforward"])
def test_a_second_pass_and_ppos_first_epoch_have_the_kept_graphs_gradient(parts, core):
    """Acting and learning see the same parts and masks in three ways of learning."""
    parts_play.check_gradients(SHAPES, parts, core=core, width=16)


def test_a_mask_changes_what_is_learned():
    agent = make("a3c", INDEPENDENT)
    agent.backward(play(agent, True, masked=False), 0.01)
    free = parts_play.gradients(agent)
    agent = make("a3c", INDEPENDENT)
    agent.backward(play(agent, True, masked=True), 0.01)
    masked = parts_play.gradients(agent)
    assert not all(torch.allclose(a, b) for a, b in zip(free, masked, strict=True))


def test_each_part_has_the_torso_that_fits_it():
    agent = make("a3c", INDEPENDENT)
    torso = agent.network.torso
    assert [t.convolved_size for t in torso.images] == [32 * 1 * 1]
    assert torso.rest.mean.shape == (1 * 7 * 7 + 4,), "images that are too small are a vector"
    agent.update(play(agent, True), 0.01)
    assert torso.images[0].mean.any()
    assert torso.rest.count == 24
    reloaded = make("a3c", INDEPENDENT)
    reloaded.load_state_dict(agent.state_dict())
    torch.testing.assert_close(reloaded.state_dict(), agent.state_dict())


def test_without_images_there_are_no_convolutions():
    config = actor_critic.AgentConfig(torso="a3c")
    with pytest.raises(ValueError, match="use torso 'mlp'"):
        a3c.A3C(((1, 7, 7), (4,)), 3, False, config, 1e-2, 0)
    agent = a3c.A3C(((1, 7, 7), (4,)), 3, False, actor_critic.AgentConfig(), 1e-2, 0)
    assert len(agent.network.torso.images) == 0
