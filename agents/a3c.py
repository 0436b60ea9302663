"""A3C in its batched form: B environments stepped together, one update per unroll.

"Asynchronous Methods for Deep Reinforcement Learning", Mnih et al. 2016
(https://arxiv.org/abs/1602.01783), algorithm S3, with the LSTM inputs of Jaderberg et al. 2016.
A batch of environments decorrelates the data as the paper's asynchronous actors do. The other
members of the population keep the cores busy.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch

from agents import losses, networks, optimiser, rollout


@dataclass(frozen=True)
class A3CConfig:
    """Settings of the agent that stay fixed during training.

    Raises:
        ValueError: A value is out of its range.
    """

    core: Literal["lstm", "feedforward"] = "lstm"
    """"lstm" has a memory and sees the last action and reward. "feedforward" sees only the
    observation."""
    torso: Literal["a3c", "nature", "mlp", "auto"] = "auto"
    """Layers before the core. "auto" is "a3c" for images and "mlp" for vectors."""
    width: int | None = None
    """Units of the LSTM and of the MLP torso; default: 256 for images (the paper's), 64 for
    vectors."""
    package: Literal["paper", "batched"] = "batched"
    """Optimiser, loss scale, clipping and initialisation: see `agents.optimiser.PACKAGES`."""
    gamma: float = 0.99
    """Discount per agent step."""
    value_cost: float | None = None
    """Weight of (R - V)^2 in the loss; default: the package's."""
    graph_steps: int = 2_000
    """Memory limit in agent steps per update (unroll length x environments). Up to it, the update
    differentiates the graph that acting left, about 0.2 MB per step on Atari. Above it, acting
    keeps no graph, and the update runs forward again in parts of the batch, each of at most this
    many steps or one environment."""

    def __post_init__(self) -> None:
        if self.package not in optimiser.PACKAGES:
            raise ValueError(f"package {self.package!r}: choose from {sorted(optimiser.PACKAGES)}")
        if self.core not in ("lstm", "feedforward"):
            raise ValueError(f"core {self.core!r}: choose 'lstm' or 'feedforward'")
        if self.torso not in ("a3c", "nature", "mlp", "auto"):
            raise ValueError(
                f"torso {self.torso!r}: choose 'auto', or one of 'a3c', 'nature' and 'mlp'"
            )
        if self.value_cost is not None and not 0 <= self.value_cost < math.inf:
            raise ValueError(f"value_cost {self.value_cost} must be 0 or more, and finite")
        if not 0 <= self.gamma <= 1:
            raise ValueError(f"gamma {self.gamma} must be in [0, 1]")
        if self.width is not None and self.width < 1:
            raise ValueError(f"width {self.width} must be at least 1")
        if self.graph_steps < 1:
            raise ValueError(f"graph_steps {self.graph_steps} must be at least 1")


class A3C:
    """An actor-critic agent.

    A training loop calls it in this order:

        state = agent.initial_state(num_envs)
        while training:
            keep_graph = agent.keeps_graph(unroll_length, num_envs)
            state = tuple(part.detach() for part in state)    # gradients end at the unroll
            for t in range(unroll_length):
                step = agent.act(inputs, state, keep_graph)
                state = step.state
                ... envs.step(step.action) ...                # makes the next inputs
            agent.update(rollout, entropy_cost)

    Args:
        obs_shape: (C, H, W) of uint8 images, or (D,) of vectors.
        action_size: Number of discrete actions, or dimensions of a continuous one.
        continuous: Whether actions are continuous.
        config: Settings that stay fixed.
        learning_rate: Initial learning rate; change it with `set_learning_rate`.
        seed: Seed of the initial weights and of the sampled actions.
        device: Torch device of the network.
    """

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
        """Return the core's zero state for `batch` environments."""
        return self.network.initial_state(batch)

    def keeps_graph(self, unroll_length: int, num_envs: int) -> bool:
        """Return whether acting keeps the graph in an unroll of this size."""
        return unroll_length * num_envs <= self.config.graph_steps

    def act(
        self, inputs: rollout.Inputs, state: rollout.CoreState, keep_graph: bool = False
    ) -> rollout.Step:
        """Sample one action per environment.

        Args:
            inputs: What the agent sees, [B, ...].
            state: The core's state before this step.
            keep_graph: Whether `update` may differentiate the answer.

        Returns:
            The action, its log-probability, the policy's entropy and the value, each [B], and the
            core's next state.
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
        """Return V(inputs, state), [B], without graph."""
        value: torch.Tensor = self.network.step(inputs, state)[1]
        return value

    def update(self, batch: rollout.Rollout, entropy_cost: float) -> dict[str, float]:
        """Learn from one unroll: the gradient of the loss, then one clipped step of RMSProp.

        Args:
            batch: T steps of B environments, made with this agent's current weights.
            entropy_cost: Weight of the policy's entropy in the loss.

        Returns:
            Metrics. Losses, entropy and value are means over T and B, also where the loss itself
            is a sum over T.

        Raises:
            FloatingPointError: Loss or gradient is not finite; nothing was applied.
        """
        self.optimiser.zero_grad()
        means = self.backward(batch, entropy_cost)
        return self.apply(batch, means)

    def backward(self, batch: rollout.Rollout, entropy_cost: float) -> torch.Tensor:
        """Add the gradient of the loss to that of the parameters, and change nothing else.

        loss = -log pi(a|s) * (R - V) + value_cost * (R - V)^2 - entropy_cost * H(pi),
        averaged over B, and averaged or summed over T as the package says. R is the n-step return.
        No gradient flows through R or through the V of the first term.

        Args:
            batch: As in `update`.
            entropy_cost: As in `update`.

        Returns:
            Means over T and B of policy loss, value loss, entropy and value, [4].
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
        length, num_envs = returns.shape
        scale = length if self.package.time_reduction == "sum" else 1
        means = returns.new_zeros(3)
        for part, log_prob, entropy, value in self._evaluate(batch):  # part of B; [T, b] each
            share = log_prob.shape[1] / num_envs
            policy_loss = losses.policy_gradient_loss(log_prob, advantage[:, part]).mean()
            value_loss = losses.value_loss(value, returns[:, part]).mean()
            mean_entropy = entropy.mean()
            loss = policy_loss + self.value_cost * value_loss - entropy_cost * mean_entropy
            (loss * (scale * share)).backward()  # type: ignore[no-untyped-call]
            means += torch.stack((policy_loss, value_loss, mean_entropy)).detach() * share
        return torch.cat((means, acted_value.detach().mean().reshape(1)))

    def apply(self, batch: rollout.Rollout, means: torch.Tensor) -> dict[str, float]:
        """Clip the gradient by its global norm, step the optimiser, update the normaliser.

        Args:
            batch: The unroll that was given to `backward`.
            means: What `backward` returned.

        Returns:
            As `update`.

        Raises:
            FloatingPointError: As `update`.
        """
        # Not `self.parameters`: UNREAL adds its heads to the optimiser's groups.
        gradient_norm = torch.nn.utils.clip_grad_norm_(
            [p for group in self.optimiser.param_groups for p in group["params"]],
            self.package.max_gradient_norm,
        )
        metrics = torch.cat((means, gradient_norm.reshape(1))).tolist()  # one transfer
        policy_loss, value_loss, entropy, value, norm = metrics
        if not all(math.isfinite(metric) for metric in metrics):
            self.optimiser.zero_grad()
            raise FloatingPointError(
                f"non-finite update: policy loss {policy_loss}, value loss {value_loss}, "
                f"entropy {entropy}, gradient norm {norm}"
            )
        self.optimiser.step()
        # Only now, so that all T steps of an unroll are normalised alike.
        if isinstance(self.network.torso, networks.MLPTorso):
            self.network.torso.observe(torch.cat([inputs.obs for inputs in batch.inputs]))
        elif self.package.centre_images:
            self.network.torso.observe(batch.inputs[0].obs)  # one step is enough for a mean image
        return {
            "loss/policy": policy_loss,
            "loss/value": value_loss,
            "entropy": entropy,
            "gradient_norm": norm,
            "value/mean": value,
        }

    def _evaluate(
        self, batch: rollout.Rollout
    ) -> Iterator[tuple[slice, torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Yield log-probability, entropy and value [T, b] with graph, for parts of the batch.

        If acting kept its graph, the whole batch is one part. Else each part is run forward only
        when it is asked for, so that one part's graph is in memory at a time.
        """
        policy = self.network.policy
        length, num_envs = batch.reward.shape
        if batch.steps[0].value.requires_grad:
            yield (
                slice(0, num_envs),
                torch.stack([step.log_prob for step in batch.steps]),
                torch.stack([step.entropy for step in batch.steps]),
                torch.stack([step.value for step in batch.steps]),
            )
            return
        inputs = rollout.Inputs(*(torch.stack(field) for field in zip(*batch.inputs, strict=True)))
        action = torch.stack([step.action for step in batch.steps])  # [T, B, ...]
        width = max(1, self.config.graph_steps // length)
        for begin in range(0, num_envs, width):
            part = slice(begin, begin + width)
            parameters, value = self.network.unroll(
                rollout.Inputs(*(field[:, part] for field in inputs)),
                tuple(tensor[part] for tensor in batch.initial_state),
            )
            yield (
                part,
                policy.log_prob(parameters, action[:, part]),
                policy.entropy(parameters),
                value,
            )

    def set_learning_rate(self, learning_rate: float) -> None:
        """Set the learning rate of all later updates."""
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate

    def learning_rate(self) -> float:
        """Return the optimiser's learning rate."""
        return float(self.optimiser.param_groups[0]["lr"])

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return weights, normalisers, optimiser statistics and generator state, by flat names.

        The learning rate is not among them: it is a hyperparameter, set after loading.
        """
        state = {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}
        for (name, _), parameter in zip(
            self.network.named_parameters(), self.parameters, strict=True
        ):
            state[f"mean_square.{name}"] = self.optimiser.state[parameter]["mean_square"]
        state["generator"] = self.generator.get_state()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load the `state_dict` of an agent of the same shape, wholly or not at all.

        Raises:
            ValueError: Names, shapes or dtypes differ; the message lists them.
        """
        load(self.state_dict(), state)
        self.generator.set_state(state["generator"].cpu())


@torch.no_grad()
def load(own: Mapping[str, torch.Tensor], state: Mapping[str, Any]) -> None:
    """Copy all tensors of `state` but "generator" into those of `own`, or none.

    Raises:
        ValueError: Names, shapes or dtypes differ; the message lists them.
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
