"""Losses against slow NumPy versions in the papers' notation, and the checks of their shapes."""

import numpy as np
import pytest
import torch

from agents import losses


def slow_return(t, b, r, terminated, truncated, v_final, v_boot, gamma):
    """Sum R_t = sum_i gamma^i r_{t+i} + gamma^k V(s_{t+k}) forward, to the end of the episode."""
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


FLAG = torch.zeros(3, 2, dtype=torch.bool)
ONES = torch.ones(3, 2)
ARGUMENTS = {
    losses.n_step_returns: {
        "reward": ONES,
        "discount": ONES,
        "truncated": FLAG,
        "truncation_value": ONES,
        "bootstrap_value": ONES[0],
        "gamma": 0.9,
    },
    losses.policy_gradient_loss: {"log_prob": ONES, "advantage": ONES},
    losses.value_loss: {"value": ONES, "returns": ONES},
    losses.sequence_returns: {
        "reward": torch.ones(3, 2, 20, 20),
        "discount": ONES,
        "bootstrap": torch.ones(2, 20, 20),
        "length": torch.tensor([3, 1]),
    },
    losses.pixel_change: {"frames": torch.zeros(3, 2, 1, 84, 84, dtype=torch.uint8)},
}
SPOILERS = {
    "row": lambda tensor: tensor[0],
    "more axes": lambda tensor: tensor.unsqueeze(0),
    "trailing axis": lambda tensor: tensor.unsqueeze(-1),
    "broadcast": lambda tensor: tensor[..., :1],
    "longer": lambda tensor: torch.cat((tensor, tensor)),
    "integers": lambda tensor: tensor.to(torch.int16),
    "complex": lambda tensor: tensor.to(torch.complex64),
    "double": lambda tensor: tensor.to(torch.float64),
}
CASES = [
    (function, name, spoiler)
    for function, arguments in ARGUMENTS.items()
    for name, value in arguments.items()
    for spoiler in SPOILERS
    if isinstance(value, torch.Tensor) and (name, spoiler) != ("frames", "longer")  # any T is fine
]


@pytest.mark.parametrize(("function", "name", "spoiler"), CASES)
def test_a_wrong_shape_or_dtype_of_any_tensor_is_refused(function, name, spoiler):
    arguments = ARGUMENTS[function]
    function(**arguments)
    wrong = SPOILERS[spoiler](arguments[name])
    with pytest.raises(ValueError, match=r" is torch\.\w+ \([\d, ]*\), but must be ") as caught:
        function(**{**arguments, name: wrong})
    # The first tensor sets the sizes of the others, so the message may name one of those.
    assert name in (str(caught.value).split()[0], next(iter(arguments)))


def test_the_message_has_the_shape_given_and_the_shape_wanted():
    with pytest.raises(ValueError, match=r"^bootstrap_value is torch.float32 \(3,\), but must be "):
        losses.n_step_returns(ONES, ONES, FLAG, ONES, torch.ones(3), 0.9)
    with pytest.raises(ValueError, match=r"must be torch.float32 \[B\] = \(2,\)$"):
        losses.n_step_returns(ONES, ONES, FLAG, ONES, torch.ones(3), 0.9)
    with pytest.raises(ValueError, match=r"must be a floating-point tensor \[T, B\]$"):
        losses.value_loss(torch.ones(3), torch.ones(3))


def test_a_value_per_environment_is_not_broadcast_over_time():
    with pytest.raises(ValueError, match=r"returns is torch.float32 \(2,\)"):
        losses.value_loss(ONES, ONES[0])


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
