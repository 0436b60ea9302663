"""RMSProp as the papers use it, and the two packages of optimiser, loss scale and clipping."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch


@dataclass(frozen=True)
class Package:
    """Settings that only make sense together; do not mix the fields of two packages.

    The scale of the loss sets the scale of the gradient, and with it the meaning of RMSProp's
    epsilon and of the clipping norm. With a mean over T and B, gradients are so small that epsilon
    0.1 would turn RMSProp into slow SGD. With a sum over T, the unroll length changes the step
    size.
    """

    time_reduction: Literal["sum", "mean"]
    """Reduction of the loss over the T steps of an unroll; over the batch it is always a mean."""
    value_cost: float
    """Weight of (R - V)^2 in the loss."""
    decay: float
    """Decay of RMSProp's running mean of squared gradients."""
    epsilon: float
    """Constant added *inside* RMSProp's square root."""
    max_gradient_norm: float
    """Global norm to which gradients are clipped."""
    centre_images: bool
    """Whether a running mean image is subtracted from images. Vectors are always normalised."""
    initialisation: Literal["fan-in", "orthogonal"]
    """"fan-in" is uniform in +-1/sqrt(fan_in), the default of torch and of the original code.
    "orthogonal" has gain sqrt(2), policy head 0.01, value head 1, biases 0."""


PAPER = Package(
    time_reduction="sum",
    value_cost=0.5,
    decay=0.99,
    epsilon=0.1,
    max_gradient_norm=40.0,
    centre_images=False,
    initialisation="fan-in",
)
"""Mnih et al. 2016 (A3C), section 8 of the supplement, and Jaderberg et al. 2016 (UNREAL)."""

BATCHED = Package(
    time_reduction="mean",
    value_cost=0.25,
    decay=0.99,
    epsilon=1e-5,
    max_gradient_norm=0.5,
    centre_images=True,
    initialisation="orthogonal",
)
"""The synchronous form (A2C) of OpenAI Baselines (https://github.com/openai/baselines), with two
changes of ours: half its value cost, and centred images."""

PACKAGES: dict[str, Package] = {"paper": PAPER, "batched": BATCHED}


class RMSProp(torch.optim.Optimizer):
    """RMSProp with epsilon inside the square root, without momentum.

    Mnih et al. 2016, equation S2, with dtheta the gradient:

        g <- decay * g + (1 - decay) * dtheta^2
        theta <- theta - lr * dtheta / sqrt(g + epsilon)

    `torch.optim.RMSprop` adds epsilon outside the root, where 0.1 acts as 0.01 does here.

    Args:
        params: Parameters to optimise.
        lr: Learning rate; change it in `param_groups`, as with any torch optimiser.
        decay: Decay of the running mean of squared gradients.
        epsilon: Constant inside the root.
    """

    def __init__(
        self, params: Iterable[torch.nn.Parameter], lr: float, decay: float, epsilon: float
    ) -> None:
        super().__init__(params, {"lr": lr, "decay": decay, "epsilon": epsilon})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters, with the same settings unless the group has its own."""
        super().add_param_group(param_group)
        for parameter in self.param_groups[-1]["params"]:
            # Made here and not at the first step, so that every checkpoint has them.
            self.state[parameter]["mean_square"] = torch.zeros_like(parameter)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update the parameters in place from their gradients; takes no closure."""
        if closure is not None:
            raise ValueError("this RMSProp takes no closure: call backward() first, then step()")
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if not parameters:
                continue
            gradients: list[Any] = [p.grad for p in parameters]
            mean_squares: list[Any] = [self.state[p]["mean_square"] for p in parameters]
            torch._foreach_mul_(mean_squares, group["decay"])
            torch._foreach_addcmul_(mean_squares, gradients, gradients, 1 - group["decay"])
            denominators = torch._foreach_add(mean_squares, group["epsilon"])
            torch._foreach_sqrt_(denominators)
            torch._foreach_addcdiv_(parameters, gradients, denominators, -group["lr"])


class Adam(torch.optim.Adam):
    """PyTorch's Adam, whose statistics exist from the start, so that every checkpoint has them.

    Args:
        params: Parameters to optimise.
        lr: Learning rate; change it in `param_groups`.
        eps: Constant added outside the root.
        betas: Decays of the running means of gradients and of their squares.
    """

    def __init__(
        self,
        params: Iterable[torch.nn.Parameter],
        lr: float,
        eps: float,
        betas: tuple[float, float] = (0.9, 0.999),
    ) -> None:
        super().__init__(params, lr, betas, eps, fused=True)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters, with the same settings unless the group has its own."""
        super().add_param_group(param_group)
        for parameter in self.param_groups[-1]["params"]:
            self.state[parameter] = {
                "step": torch.zeros((), device=parameter.device),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }
