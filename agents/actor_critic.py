"""What all actor-critic agents share: settings, network, acting, checkpoint.

`agents.a3c` and `agents.ppo` add an optimiser and `update`, `agents.feudal` also its network.
"""

import abc
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from agents import networks, optimiser, policies, rollout, spatial

AddGradients = Callable[[int, int], None]
"""Adds gradients of further losses to those of the parameters. It is given the length and the
number of the sequences of the agent's own loss, so that both learn from as many steps."""


@dataclass(frozen=True)
class AgentConfig:
    """Settings of the agent that stay fixed during training.

    Raises:
        ValueError: A value is out of its range.
    """

    core: Literal["lstm", "feedforward"] = "lstm"
    """"lstm" has a memory and sees the last action and reward. "feedforward" sees only the
    observation."""
    torso: Literal["a3c", "nature", "mlp", "fullyconv", "auto"] = "auto"
    """Layers before the core. "auto" is "a3c" for images and "mlp" for vectors. It is "fullyconv"
    where a part of the action is a place on the images, as in StarCraft II; see
    `agents.spatial`."""
    width: int | None = None
    """Units of the LSTM and of the MLP torso; default: 256 for images (the paper's), 64 for
    vectors."""
    package: Literal["paper", "batched"] = "batched"
    """Optimiser, loss scale, clipping and initialisation: see `agents.optimiser.PACKAGES`."""
    gamma: float = 0.99
    """Discount per agent step."""
    value_cost: float | None = None
    """Weight of (R - V)^2 in the loss; default: the package's."""
    precision: Literal["float32", "bfloat16", "auto"] = "float32"
    """Number format of the products in a torso for images. "auto" is bfloat16 where the device has
    instructions for it."""
    graph_steps: int = 2_000
    """A3C's memory limit in agent steps per update (unroll length x environments). Up to it, the
    update differentiates the graph that acting left, about 0.2 MB per step on Atari. Above it,
    acting keeps no graph, and the update runs forward again in parts of the batch, each of at most
    this many steps or one environment."""

    def __post_init__(self) -> None:
        if self.package not in optimiser.PACKAGES:
            raise ValueError(f"package {self.package!r}: choose from {sorted(optimiser.PACKAGES)}")
        if self.core not in ("lstm", "feedforward"):
            raise ValueError(f"core {self.core!r}: choose 'lstm' or 'feedforward'")
        if self.torso not in ("a3c", "nature", "mlp", "fullyconv", "auto"):
            raise ValueError(
                f"torso {self.torso!r}: choose 'auto', or one of 'a3c', 'nature', 'mlp' and "
                "'fullyconv'"
            )
        if self.value_cost is not None and not 0 <= self.value_cost < math.inf:
            raise ValueError(f"value_cost {self.value_cost} must be 0 or more, and finite")
        if not 0 <= self.gamma <= 1:
            raise ValueError(f"gamma {self.gamma} must be in [0, 1]")
        if self.width is not None and self.width < 1:
            raise ValueError(f"width {self.width} must be at least 1")
        if self.precision not in ("float32", "bfloat16", "auto"):
            raise ValueError(
                f"precision {self.precision!r}: choose 'auto', 'float32' or 'bfloat16'"
            )
        if self.graph_steps < 1:
            raise ValueError(f"graph_steps {self.graph_steps} must be at least 1")


class Agent(abc.ABC):
    """A network that acts, is trained by an optimiser, and is saved and loaded with it.

    A training loop calls an agent in this order:

        state = agent.initial_state(num_envs)
        while training:
            length = agent.rollout_length(unroll_length, most)
            keep_graph = agent.keeps_graph(length, num_envs)
            state = tuple(part.detach() for part in state)    # gradients end at the rollout
            for t in range(length):
                step = agent.act(inputs, state, keep_graph)
                state = step.state
                ... envs.step(step.action) ...                # makes the next inputs
            agent.update(rollout, **hyperparameters)

    Args:
        obs_shape: (C, H, W) of uint8 images, (D,) of vectors, or the shapes of several such parts.
        action_size: Number of discrete actions, dimensions of a continuous one, or the parts of one
            of several.
        continuous: Whether actions are continuous.
        config: Settings that stay fixed.
        seed: Seed of the initial weights and of the sampled actions.
        device: Torch device of the network.
    """

    hyperparameters: Mapping[str, float]
    """Names of the keyword arguments of `update`, and a value to begin with."""
    optimiser: torch.optim.Optimizer
    """Made by the subclass. Its state exists from the start."""
    network: networks.Network
    """Torso, cores and heads; see `build`."""
    deterministic = False
    """Whether `act` takes the most likely action and not a sample. Never while training."""

    def __init__(
        self,
        obs_shape: rollout.ObsShape,
        action_size: rollout.ActionSize,
        continuous: bool,
        config: AgentConfig,
        seed: int,
        device: str = "cpu",
    ) -> None:
        self.is_image = len(networks.split_shape(obs_shape)[1]) == 3
        torso = config.torso
        if torso == "auto" and spatial.unsupported(obs_shape, action_size) is None:
            torso = "fullyconv"
        sees_images = torso == "fullyconv" or networks.sees_images(obs_shape)
        if torso == "auto":
            torso = "a3c" if sees_images else "mlp"
        width = config.width or (256 if sees_images else 64)
        self.config = config
        self.device = torch.device(device)
        self.package = optimiser.PACKAGES[config.package]
        self.value_cost = (
            self.package.value_cost if config.value_cost is None else config.value_cost
        )
        dtype = (
            networks.fastest_dtype(self.device)
            if config.precision == "auto"
            else getattr(torch, config.precision)
        )
        self.network = self.build(obs_shape, action_size, continuous, torso, width, dtype)
        networks.initialise(
            self.network,
            self.package.initialisation,
            torch.Generator().manual_seed(seed),
            self.network.gains,
        )
        self.network.to(self.device)
        self.generator = torch.Generator(self.device).manual_seed(seed + 1)

    @abc.abstractmethod
    def build(
        self,
        obs_shape: rollout.ObsShape,
        action_size: rollout.ActionSize,
        continuous: bool,
        torso: networks.Torso,
        width: int,
        dtype: torch.dtype,
    ) -> networks.Network:
        """Return the network, whose weights are drawn later; see `networks.ActorCritic`."""

    def initial_state(self, batch: int) -> rollout.CoreState:
        """Return the core's zero state for `batch` environments."""
        return self.network.initial_state(batch)

    def rollout_length(self, unroll_length: int, most: int) -> int:
        """Return the steps of each environment to the next update: one unroll, or what is left.

        Args:
            unroll_length: Steps through which gradients flow.
            most: Steps that must not be exceeded, at least 1.
        """
        return min(unroll_length, most)

    def keeps_graph(self, length: int, num_envs: int) -> bool:
        """Return whether acting keeps the graph in a rollout of this size."""
        return length * num_envs <= self.config.graph_steps

    @abc.abstractmethod
    def act(
        self, inputs: rollout.Inputs, state: rollout.CoreState, keep_graph: bool = False
    ) -> rollout.Step:
        """Choose one action per environment, see `choose`.

        Args:
            inputs: What the agent sees, [B, ...].
            state: The core's state before this step.
            keep_graph: Whether `update` may differentiate the answer.

        Returns:
            The action, its log-probability, the policy's entropy and the value, each [B], and the
            core's next state.
        """

    def choose(self, policy: policies.Policy, parameters: torch.Tensor) -> torch.Tensor:
        """Return a sample of a policy; or its most likely actions, if `deterministic`."""
        if self.deterministic:
            return policy.mode(parameters)
        return policy.sample(parameters, self.generator)

    @abc.abstractmethod
    def value(self, inputs: rollout.Inputs, state: rollout.CoreState) -> torch.Tensor:
        """Return V(inputs, state), [B] or [B, N], without graph. Nothing advances."""

    @abc.abstractmethod
    def update(self, batch: rollout.Rollout, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Learn from a rollout, and return metrics by name.

        Args:
            batch: T steps of B environments, made with this agent's current weights.
            *args: Hyperparameters; see `hyperparameters`.
            **kwargs: The same by name, and `add_gradients`, an `AddGradients` that is called before
                each step of the optimiser.

        Raises:
            FloatingPointError: A loss or the gradient is not finite and was not applied.
        """

    def apply(self, means: torch.Tensor) -> dict[str, float]:
        """Clip the gradient by its global norm, and take one step of the optimiser.

        Args:
            means: Mean policy loss, value loss, entropy and value, [4].

        Returns:
            The means and the gradient's norm, by name.

        Raises:
            FloatingPointError: A loss or the gradient is not finite; nothing was applied.
        """
        # Of the optimiser, since UNREAL adds its heads there.
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
        return {
            "loss/policy": policy_loss,
            "loss/value": value_loss,
            "entropy": entropy,
            "gradient_norm": norm,
            "value/mean": value,
        }

    def observe(self, inputs: Sequence[rollout.Inputs]) -> None:
        """Update the normaliser of observations, where there is one, by steps of [B, ...]."""
        obs: Any = rollout.cat_obs([step.obs for step in inputs])
        self.network.torso.observe(obs, self.package.centre_images)

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
        state |= self.statistics(self.network)
        state["generator"] = self.generator.get_state()
        return state

    def statistics(self, module: torch.nn.Module, prefix: str = "") -> dict[str, torch.Tensor]:
        """Return the optimiser's statistics of a module's parameters, by flat names.

        Args:
            module: A module whose parameters the optimiser has.
            prefix: Put before the name of each parameter.
        """
        return {
            f"{statistic}.{prefix}{name}": tensor
            for name, parameter in module.named_parameters()
            for statistic, tensor in self.optimiser.state[parameter].items()
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load the `state_dict` of an agent of the same shape, wholly or not at all.

        Raises:
            ValueError: Names, shapes or dtypes differ; the message lists them.
        """
        load(self.state_dict(), state)
        self.generator.set_state(state["generator"].cpu())


class FlatAgent(Agent):
    """An agent with one policy and one value function."""

    network: networks.CoreNetwork

    def build(
        self,
        obs_shape: rollout.ObsShape,
        action_size: rollout.ActionSize,
        continuous: bool,
        torso: networks.Torso,
        width: int,
        dtype: torch.dtype,
    ) -> networks.CoreNetwork:
        """See `Agent.build`."""
        if torso == "fullyconv":
            return spatial.SpatialActorCritic(
                obs_shape, action_size, self.config.core, width, dtype
            )
        return networks.ActorCritic(
            obs_shape, action_size, continuous, torso, self.config.core, width, dtype
        )

    def act(
        self, inputs: rollout.Inputs, state: rollout.CoreState, keep_graph: bool = False
    ) -> rollout.Step:
        """See `Agent.act`."""
        with torch.set_grad_enabled(keep_graph):
            parameters, value, state = self.network.step(inputs, state)
            policy = self.network.policy
            action = self.choose(policy, parameters)
            return rollout.Step(
                action,
                policy.log_prob(parameters, action),
                policy.entropy(parameters),
                value,
                state,
            )

    @torch.no_grad()
    def value(self, inputs: rollout.Inputs, state: rollout.CoreState) -> torch.Tensor:
        """See `Agent.value`."""
        value: torch.Tensor = self.network.step(inputs, state)[1]
        return value


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
