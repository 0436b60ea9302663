"""RMSProp against a numpy loop of the paper's equation."""

import numpy as np
import pytest
import torch

from agents import optimiser


@pytest.mark.parametrize("epsilon", [0.1, 1e-5])
def test_rmsprop_follows_equation_s2(epsilon):
    rng = np.random.default_rng(0)
    gradients = rng.normal(size=(50, 3, 2))
    parameter = torch.nn.Parameter(torch.zeros(3, 2, dtype=torch.float64))
    rms = optimiser.RMSProp([parameter], lr=0.01, decay=0.99, epsilon=epsilon)
    theta, g = np.zeros((3, 2)), np.zeros((3, 2))
    for k, gradient in enumerate(gradients):
        learning_rate = 0.01 if k < 25 else 0.003
        rms.param_groups[0]["lr"] = learning_rate
        parameter.grad = torch.tensor(gradient)
        rms.step()
        g = 0.99 * g + 0.01 * gradient**2
        theta = theta - learning_rate * gradient / np.sqrt(g + epsilon)
    np.testing.assert_allclose(parameter.detach().numpy(), theta, rtol=1e-12)


def test_epsilon_is_not_where_torch_puts_it():
    def first_step(optimiser_class, **settings):
        parameter = torch.nn.Parameter(torch.zeros(1))
        parameter.grad = torch.full((1,), 0.01)
        optimiser_class([parameter], lr=1.0, **settings).step()
        return -parameter.item()

    ours = first_step(optimiser.RMSProp, decay=0.99, epsilon=0.1)
    theirs = first_step(torch.optim.RMSprop, alpha=0.99, eps=0.1)
    assert ours == pytest.approx(0.01 / np.sqrt(0.01 * 1e-4 + 0.1))
    assert theirs / ours > 3


def test_a_parameter_without_gradient_is_left_alone():
    first, second = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2))
    rms = optimiser.RMSProp([first, second], lr=0.1, decay=0.99, epsilon=0.1)
    first.grad = torch.ones(2)
    rms.step()
    assert (first < 1).all()
    assert (second == 1).all()
    with pytest.raises(ValueError, match="no closure"):
        rms.step(lambda: 0.0)
