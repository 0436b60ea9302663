"""A3C in its batched form: B worlds stepped together, one update per unroll.

"Asynchronous Methods for Deep Reinforcement Learning", Mnih et al. 2016
(https://arxiv.org/abs/1602.01783), algorithm S3, with the LSTM inputs of Jaderberg et al. 2016.
The asynchronous actors of the paper became a batch: PBT's population is what runs in parallel.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch

from agents import losses, networks, optimiser, rollout


@dataclass(frozen=True)
class A3CConfig:
    """Everything about the agent that does not change while it trains."""

    core: Literal["lstm", "feedforward"] = "lstm"
    """"lstm" sees the last action and reward and remembers; "feedforward" sees the observation."""
    torso: Literal["a3c", "nature", "mlp", "auto"] = "auto"
    """"auto": "a3c" for images, "mlp" for vectors."""
    width: int | None = None
    """Units of the LSTM and the MLP torso; default 256 for images (the paper's), 64 for vectors."""
    package: Literal["paper", "batched"] = "batched"
    """Optimiser, loss scale, clipping and initialisation: see `agents.optimiser.PACKAGES`."""
    gamma: float = 0.99
    """Discount per agent step."""
    value_cost: float | None = None
    """Weight of (R - V)^2 in the loss; default: the package's."""
    graph_steps: int = 2_000
    """Up to this many agent steps per update (unroll length x worlds) the autograd graph of the
    acting pass is kept and differentiated, which saves the second forward pass and costs about
    0.2 MB per step on Atari; above it, acting keeps no graph and learning runs forward again, in
    parts of the batch of at most this many steps."""

    def __post_init__(self) -> None:
        if self.package not in optimiser.PACKAGES:
            raise ValueError(f"package {self.package!r}: choose from {sorted(optimiser.PACKAGES)}")
        if self.core not in ("lstm", "feedforward"):
            raise ValueError(f"core {self.core!r}: choose 'lstm' or 'feedforward'")
        if not 0 <= self.gamma <= 1:
            raise ValueError(f"gamma {self.gamma} must be in [0, 1]")
        if self.width is not None and self.width < 1:
            raise ValueError(f"width {self.width} must be at least 1")
        if self.graph_steps < 1:
            raise ValueError(f"graph_steps {self.graph_steps} must be at least 1")


class A3C:
    """An actor-critic agent. The loop that calls it, and in which order:

        state = agent.initial_state(num_envs)
        while training:
            keep_graph = agent.keeps_graph(unroll_length, num_envs)
            for t in range(unroll_length):
                step = agent.act(inputs, state, keep_graph)
                ... world.step(step.action) ...
            agent.update(rollout, entropy_cost)

    Args:
        obs_shape: (C, H, W) of uint8 images, or (D,) of vectors.
        action_size: Number of discrete actions, or dimensions of a continuous one.
        continuous: Whether actions are continuous.
        config: See `A3CConfig`.
        learning_rate: Initial learning rate; change it with `set_learning_rate`.
        seed: Of the initial weights and of the sampled actions.
        device: Where the network lives.
    """  # noqa: D415 - the first line introduces the loop

    def __init__(
        self,
        obs_shape: tuple[int, ...],
        action_size: int,
        continuous: bool,
        config: A3CConfig,
        learning_rate: float,
        seed: int,
        device: str = "cpu",
    ) -> None:
        is_image = len(obs_shape) == 3
        torso = config.torso
        if torso == "auto":
            torso = "a3c" if is_image else "mlp"
        width = config.width or (256 if is_image else 64)
        self.config = config
        self.device = torch.device(device)
        self.package = optimiser.PACKAGES[config.package]
        self.value_cost = (
            self.package.value_cost if config.value_cost is None else config.value_cost
        )
        self.network = networks.ActorCritic(
            obs_shape, action_size, continuous, torso, config.core, width
        )
        networks.initialise(
            self.network, self.package.initialisation, torch.Generator().manual_seed(seed)
        )
        self.network.to(self.device)
        self.parameters = list(self.network.parameters())
        self.optimiser = optimiser.RMSProp(
            self.parameters, learning_rate, self.package.decay, self.package.epsilon
        )
        self.generator = torch.Generator(self.device).manual_seed(seed + 1)

    def initial_state(self, batch: int) -> rollout.CoreState:
        """The core's zero state for `batch` worlds."""
        return self.network.initial_state(batch)

    def keeps_graph(self, unroll_length: int, num_envs: int) -> bool:
        """Whether an unroll of this size is differentiated through its acting pass."""
        return unroll_length * num_envs <= self.config.graph_steps

    def act(
        self, inputs: rollout.Inputs, state: rollout.CoreState, keep_graph: bool = False
    ) -> rollout.Step:
        """Sample one action per world.

        Args:
            inputs: What the worlds show, [B, ...].
            state: The core's state before this step.
            keep_graph: Whether the answer may be differentiated by `update`.
        """
        with torch.set_grad_enabled(keep_graph):
            parameters, value, state = self.network.step(inputs, state)
            policy = self.network.policy
            action = policy.sample(parameters, self.generator)
            return rollout.Step(
                action,
                policy.log_prob(parameters, action),
                policy.entropy(parameters),
                value,
                state,
            )

    @torch.no_grad()
    def value(self, inputs: rollout.Inputs, state: rollout.CoreState) -> torch.Tensor:
        """V(inputs, state) [B], without graph: for bootstrapping."""
        value: torch.Tensor = self.network.step(inputs, state)[1]
        return value

    def update(self, batch: rollout.Rollout, entropy_cost: float) -> dict[str, float]:
        """One step of the optimiser on one unroll.

        loss = -log pi * A + value_cost * (R - V)^2 - entropy_cost * H, with A = R - V.

        Args:
            batch: T steps of B worlds, made with this agent's current weights.
            entropy_cost: Weight of the policy's entropy, per step.

        Returns:
            Metrics: means over T and B, whatever the package reduces by.

        Raises:
            FloatingPointError: loss or gradient is not finite; nothing was applied.
        """
        self.optimiser.zero_grad()
        return self.apply(batch, self.backward(batch, entropy_cost))

    def backward(self, batch: rollout.Rollout, entropy_cost: float) -> torch.Tensor:
        """Add the loss's gradient to the parameters' own, and change nothing else.

        Args:
            batch: As in `update`.
            entropy_cost: As in `update`.

        Returns:
            Means over T and B of policy loss, value loss, entropy and value [4].
        """
        acted_value = torch.stack([step.value for step in batch.steps])  # [T, B]
        returns = losses.n_step_returns(
            batch.reward,
            batch.discount,
            batch.truncated,
            batch.truncation_value,
            batch.bootstrap_value,
            self.config.gamma,
        )
        advantage = returns - acted_value.detach()
        if acted_value.requires_grad:
            log_prob = torch.stack([step.log_prob for step in batch.steps])
            entropy = torch.stack([step.entropy for step in batch.steps])
            metrics = self._backward(
                log_prob, entropy, acted_value, advantage, returns, entropy_cost, share=1.0
            )
        else:
            metrics = self._backward_in_parts(batch, advantage, returns, entropy_cost)
        return torch.cat((metrics, acted_value.detach().mean().reshape(1)))

    def apply(self, batch: rollout.Rollout, means: torch.Tensor) -> dict[str, float]:
        """Clip all that the optimiser optimises by one norm, and take its step.

        Args:
            batch: What the gradient was made from: the normaliser learns from it.
            means: From `backward`.

        Returns:
            As in `update`.

        Raises:
            FloatingPointError: as in `update`.
        """
        gradient_norm = torch.nn.utils.clip_grad_norm_(
            [p for group in self.optimiser.param_groups for p in group["params"]],
            self.package.max_gradient_norm,
        )
        metrics = torch.cat((means, gradient_norm.reshape(1)))
        policy_loss, value_loss, mean_entropy, value, norm = metrics.tolist()  # one transfer
        if not torch.isfinite(metrics).all():
            self.optimiser.zero_grad()
            raise FloatingPointError(
                f"non-finite update: policy loss {policy_loss}, value loss {value_loss}, "
                f"entropy {mean_entropy}, gradient norm {norm}"
            )
        self.optimiser.step()
        # After the step: all T answers above were made under the same statistics.
        if isinstance(self.network.torso, networks.MLPTorso):
            self.network.torso.observe(torch.cat([inputs.obs for inputs in batch.inputs]))
        elif self.package.centre_images:
            self.network.torso.observe(batch.inputs[0].obs)  # one step tells enough of a mean
        return {
            "loss/policy": policy_loss,
            "loss/value": value_loss,
            "entropy": mean_entropy,
            "gradient_norm": norm,
            "value/mean": value,
        }

    def _backward(
        self,
        log_prob: torch.Tensor,
        entropy: torch.Tensor,
        value: torch.Tensor,
        advantage: torch.Tensor,
        returns: torch.Tensor,
        entropy_cost: float,
        share: float,
    ) -> torch.Tensor:
        """Add `share` of the loss's gradient, from [T, b]. Returns (policy, value, entropy)."""
        length = log_prob.shape[0]
        policy_loss = losses.policy_gradient_loss(log_prob, advantage).mean()
        value_loss = losses.value_loss(value, returns).mean()
        mean_entropy = entropy.mean()
        loss = policy_loss + self.value_cost * value_loss - entropy_cost * mean_entropy
        scale = length if self.package.time_reduction == "sum" else 1
        (loss * (scale * share)).backward()  # type: ignore[no-untyped-call]
        return torch.stack((policy_loss, value_loss, mean_entropy)).detach() * share

    def _backward_in_parts(
        self,
        batch: rollout.Rollout,
        advantage: torch.Tensor,
        returns: torch.Tensor,
        entropy_cost: float,
    ) -> torch.Tensor:
        """Run forward again over parts of the batch, so that memory stays bounded."""
        length, num_envs = returns.shape
        inputs = rollout.Inputs(*(torch.stack(field) for field in zip(*batch.inputs, strict=True)))
        action = torch.stack([step.action for step in batch.steps])
        metrics = returns.new_zeros(3)
        width = max(1, self.config.graph_steps // length)
        for begin in range(0, num_envs, width):
            part = slice(begin, min(begin + width, num_envs))
            state = tuple(tensor[part] for tensor in batch.initial_state)
            parameters, value = self.network.unroll(
                rollout.Inputs(*(field[:, part] for field in inputs)), state
            )
            policy = self.network.policy
            metrics += self._backward(
                policy.log_prob(parameters, action[:, part]),
                policy.entropy(parameters),
                value,
                advantage[:, part],
                returns[:, part],
                entropy_cost,
                share=(part.stop - part.start) / num_envs,
            )
        return metrics

    def set_learning_rate(self, learning_rate: float) -> None:
        """Apply from the next update on."""
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate

    def learning_rate(self) -> float:
        """The learning rate in force, read from the optimiser."""
        return float(self.optimiser.param_groups[0]["lr"])

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Weights, normalisers, optimiser statistics and generator state, as a flat mapping.

        The learning rate is not in it: it is a hyperparameter, set after loading.
        """
        state = {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}
        for (name, _), parameter in zip(
            self.network.named_parameters(), self.parameters, strict=True
        ):
            state[f"mean_square.{name}"] = self.optimiser.state[parameter]["mean_square"]
        state["generator"] = self.generator.get_state()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over `state_dict` of an agent of the same shape, wholly or not at all.

        Raises:
            ValueError: names differ, or shapes do: the message lists them.
        """
        load(self.state_dict(), state)
        self.generator.set_state(state["generator"].cpu())


@torch.no_grad()
def load(own: Mapping[str, torch.Tensor], state: Mapping[str, Any]) -> None:
    """Copy `state` into the tensors of `own`, but for "generator"; all or nothing.

    Raises:
        ValueError: names differ, or shapes do: the message lists them.
    """
    problems = [f"missing {name}" for name in sorted(own.keys() - state.keys())]
    problems += [f"unexpected {name}" for name in sorted(state.keys() - own.keys())]
    problems += [
        f"{name} is {tuple(state[name].shape)}, not {tuple(own[name].shape)}"
        for name in sorted(own.keys() & state.keys())
        if state[name].shape != own[name].shape or state[name].dtype != own[name].dtype
    ]
    if problems:
        raise ValueError("the checkpoint is of another agent: " + "; ".join(problems))
    for name, tensor in own.items():
        if name != "generator":
            tensor.copy_(state[name])
