"""Losses against slow numpy versions in the papers' notation."""

import numpy as np
import pytest
import torch

from agents import losses


def slow_return(t, b, r, terminated, truncated, v_final, v_boot, gamma):
    """R_t = sum_i gamma^i r_{t+i} + gamma^k V(s_{t+k}), forward until something ends it."""
    total, factor = 0.0, 1.0
    for i in range(t, len(r)):
        total += factor * r[i, b]
        factor *= gamma
        if truncated[i, b]:
            return total + factor * v_final[i, b]
        if terminated[i, b]:
            return total
    return total + factor * v_boot[b]


@pytest.mark.parametrize("seed", range(5))
def test_n_step_returns_equal_the_forward_sum(seed):
    rng = np.random.default_rng(seed)
    length, batch, gamma = 12, 6, 0.9
    reward = rng.normal(size=(length, batch))
    terminated = rng.random((length, batch)) < 0.15
    truncated = (rng.random((length, batch)) < 0.15) & ~terminated
    final, boot = rng.normal(size=(length, batch)), rng.normal(size=batch)
    got = losses.n_step_returns(
        torch.tensor(reward),
        torch.tensor(gamma * ~terminated),
        torch.tensor(truncated),
        torch.tensor(final * truncated),
        torch.tensor(boot),
        gamma,
    )
    for t in range(length):
        for b in range(batch):
            expected = slow_return(t, b, reward, terminated, truncated, final, boot, gamma)
            assert got[t, b].item() == pytest.approx(expected)


def test_a_life_loss_together_with_a_truncation_bootstraps():
    returns = losses.n_step_returns(
        torch.tensor([[1.0]]),
        torch.tensor([[0.0]]),
        torch.tensor([[True]]),
        torch.tensor([[10.0]]),
        torch.tensor([5.0]),
        0.5,
    )
    assert returns.item() == 6.0


def test_wrong_shapes_are_named():
    ones = torch.ones(3, 2)
    with pytest.raises(ValueError, match=r"reward \(3, 2\).*truncated \(2,\)"):
        losses.n_step_returns(ones, ones, torch.ones(2) > 0, ones, torch.ones(2), 0.9)
    with pytest.raises(ValueError, match=r"bootstrap_value \(3,\) must be \[B\] = \(2,\)"):
        losses.n_step_returns(ones, ones, ones > 0, ones, torch.ones(3), 0.9)


def test_gradients_stop_at_advantage_and_returns():
    log_prob = torch.zeros(3, 2, requires_grad=True)
    advantage = torch.full((3, 2), 2.0, requires_grad=True)
    losses.policy_gradient_loss(log_prob, advantage).sum().backward()
    assert advantage.grad is None
    assert (log_prob.grad == -2.0).all()

    value = torch.ones(3, 2, requires_grad=True)
    returns = torch.full((3, 2), 4.0, requires_grad=True)
    losses.value_loss(value, returns).sum().backward()
    assert returns.grad is None
    assert (value.grad == -6.0).all()  # -2 (R - V)
