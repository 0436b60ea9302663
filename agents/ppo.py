"""PPO over stored sequences: several epochs of clipped updates on each rollout.

"Proximal Policy Optimization Algorithms", Schulman et al. 2017 (https://arxiv.org/abs/1707.06347),
algorithm 1, with the network of `agents.a3c`. Each rollout is cut into sequences. A sequence starts
from the core's state that was met while acting. That state is a little stale after the first
update, as in R2D2's stored states (Kapturowski et al. 2019, section 3).
"""

import math
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch

from agents import actor_critic, losses, memory, optimiser, rollout


@dataclass(frozen=True)
class PPOConfig:
    """Settings of PPO that stay fixed during training.

    Raises:
        ValueError: A value is out of its range.
    """

    rollout_steps: int = 128
    """Steps of each environment between two updates, to the nearest multiple of the unroll
    length."""
    minibatch_steps: int = 128
    """Agent steps per gradient, to the nearest multiple of the unroll length."""
    trace: float = 0.95
    """Lambda of the generalised advantage estimates."""
    normalise_advantages: bool = True
    """Whether the advantages of a rollout are shifted to mean 0 and scaled to variance 1."""
    adam_epsilon: float = 1e-5
    """Constant outside Adam's root."""

    def __post_init__(self) -> None:
        if self.rollout_steps < 1:
            raise ValueError(f"rollout_steps {self.rollout_steps} must be at least 1")
        if self.minibatch_steps < 1:
            raise ValueError(f"minibatch_steps {self.minibatch_steps} must be at least 1")
        if not 0 <= self.trace <= 1:
            raise ValueError(f"trace {self.trace} must be in [0, 1]")
        if not 0 < self.adam_epsilon < math.inf:
            raise ValueError(f"adam_epsilon {self.adam_epsilon} must be above 0, and finite")


def _stack(inputs: Sequence[rollout.Inputs]) -> rollout.Inputs:
    """Return inputs [T, B, ...], with images as [T, B, H, W, C], the layout of convolutions.

    Channels last, each image is copied as it lies, and converted once however often it is used.
    """
    return rollout.stack(
        [one.map(lambda x: x.permute(0, 2, 3, 1) if x.dim() == 4 else x) for one in inputs]
    )


def _sequences(inputs: rollout.Inputs, at: torch.Tensor, env: torch.Tensor) -> rollout.Inputs:
    """Return sequences [unroll, n, ...] of what `_stack` returned.

    Args:
        inputs: All steps of a rollout.
        at: Steps of the sequences, [unroll, n].
        env: Environments of the sequences, [n].
    """
    chosen = inputs.map(operator.itemgetter((at, env)))
    return chosen.map(lambda x: x.permute(0, 1, 4, 2, 3) if x.dim() == 5 else x)


def check_package(package: str) -> None:
    """Refuse a package of which PPO cannot take its scale of losses and clipping.

    Raises:
        ValueError: It is made for sums over an unroll.
    """
    if optimiser.PACKAGES[package].time_reduction != "mean":
        raise ValueError(f"package {package!r} is A3C's: use package 'batched' with PPO")


class PPO(actor_critic.FlatAgent):
    """An actor-critic agent that learns from each rollout several times.

    Args:
        obs_shape: As in `Agent`.
        action_size: As in `Agent`.
        continuous: As in `Agent`.
        config: As in `Agent`.
        ppo: Settings of PPO.
        learning_rate: Initial learning rate; change it with `set_learning_rate`.
        seed: As in `Agent`; also the seed of the minibatches.
        device: As in `Agent`.

    Raises:
        ValueError: The package is made for sums over an unroll.
    """

    hyperparameters = MappingProxyType(
        {"entropy_cost": 0.01, "unroll_length": 16, "clip_range": 0.1, "epochs": 2}
    )

    def __init__(
        self,
        obs_shape: rollout.ObsShape,
        action_size: rollout.ActionSize,
        continuous: bool,
        config: actor_critic.AgentConfig,
        ppo: PPOConfig,
        learning_rate: float,
        seed: int,
        device: str = "cpu",
    ) -> None:
        check_package(config.package)
        super().__init__(obs_shape, action_size, continuous, config, seed, device)
        self.ppo = ppo
        self.optimiser = optimiser.Adam(self.network.parameters(), learning_rate, ppo.adam_epsilon)

    def rollout_length(self, unroll_length: int, most: int) -> int:
        """Return the multiple of the unroll length next to `rollout_steps`.

        If that exceeds `most`, return the largest multiple that does not; or `most`, for one
        short sequence per environment, if there is none.
        """
        sequences = max(1, round(self.ppo.rollout_steps / unroll_length))
        return min(sequences, most // unroll_length) * unroll_length or most

    def keeps_graph(self, length: int, num_envs: int) -> bool:
        """Return false: every epoch runs forward anew."""
        return False

    def update(
        self,
        batch: rollout.Rollout,
        entropy_cost: float,
        unroll_length: float,
        clip_range: float,
        epochs: float,
        *,
        add_gradients: actor_critic.AddGradients | None = None,
    ) -> dict[str, float]:
        """Learn from one rollout: `epochs` times, one step of Adam per minibatch of sequences.

        loss = surrogate + value_cost * (R - V)^2 - entropy_cost * H(pi), averaged over the
        minibatch. The advantage A and R = A + V are those of acting, for all epochs alike.

        Args:
            batch: T steps of B environments, made with this agent's current weights.
            entropy_cost: Weight of the policy's entropy in the loss.
            unroll_length: Steps of a sequence, a divisor of T or more than T.
            clip_range: The paper's epsilon.
            epochs: Number of times that each step is learned from.
            add_gradients: Called once per minibatch, after its loss has left its gradients.

        Returns:
            Metrics. Losses, entropy, value and norm are means over all minibatches. `kl` estimates
            the divergence of the acting policy from the new one over the last epoch, and
            `clip_fraction` is the share of its steps whose ratio was out of the clip range.

        Raises:
            FloatingPointError: A loss or gradient is not finite. Minibatches before it were
                applied, this one was not.
        """
        memory.keep_freed()
        length, num_envs = batch.reward.shape
        unroll = min(int(unroll_length), length)
        value = torch.stack([step.value for step in batch.steps]).detach()  # [T, B]
        log_prob = torch.stack([step.log_prob for step in batch.steps]).detach()  # [T, B]
        action = torch.stack([step.action for step in batch.steps])  # [T, B, ...]
        advantage = losses.generalised_advantages(
            batch.reward,
            batch.discount,
            batch.truncated,
            batch.truncation_value,
            value,
            batch.bootstrap_value,
            self.config.gamma,
            self.ppo.trace,
        )
        returns = advantage + value
        if self.ppo.normalise_advantages:
            advantage = (advantage - advantage.mean()) / (advantage.std(correction=0) + 1e-8)
        inputs = _stack(batch.inputs)
        states = [batch.initial_state, *(step.state for step in batch.steps[unroll - 1 :: unroll])]
        # [T / unroll, B, width] each
        states = states[: length // unroll]
        begin = tuple(torch.stack(part).detach() for part in zip(*states, strict=True))
        policy = self.network.policy
        sums: dict[str, float] = {}
        updates, last = 0, torch.zeros(2)
        for _ in range(int(epochs)):
            last_epoch: list[torch.Tensor] = []
            for start, env in self._minibatches(length // unroll, num_envs, unroll):
                at = start * unroll + torch.arange(unroll, device=start.device).unsqueeze(-1)
                parameters, new_value = self.network.unroll(  # at is [unroll, n], env is [n]
                    _sequences(inputs, at, env),
                    tuple(part[start, env] for part in begin),
                )
                new_log_prob = policy.log_prob(parameters, action[at, env])  # [unroll, n]
                policy_loss = losses.clipped_surrogate_loss(
                    new_log_prob, log_prob[at, env], advantage[at, env], clip_range
                ).mean()
                value_loss = losses.value_loss(new_value, returns[at, env]).mean()
                entropy = policy.entropy(parameters).mean()
                loss = policy_loss + self.value_cost * value_loss - entropy_cost * entropy
                self.optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                if add_gradients is not None:
                    add_gradients(unroll, len(env))
                with torch.no_grad():
                    means = torch.stack((policy_loss, value_loss, entropy, new_value.mean()))
                    log_ratio = new_log_prob - log_prob[at, env]
                    ratio = log_ratio.exp()
                    outside = ((ratio - 1).abs() > clip_range).float()
                    last_epoch.append(torch.stack(((ratio - 1 - log_ratio).mean(), outside.mean())))
                for name, metric in self.apply(means).items():
                    sums[name] = sums.get(name, 0.0) + metric
                updates += 1
            last = torch.stack(last_epoch).mean(0)
        # Only now, so that all epochs see what acting saw. An eighth is enough for a mean image.
        self.observe(batch.inputs[:: 8 if self.is_image else 1])
        kl, clip_fraction = last.tolist()
        metrics = {name: total / updates for name, total in sums.items()}
        return metrics | {"kl": kl, "clip_fraction": clip_fraction}

    def _minibatches(
        self, starts: int, num_envs: int, unroll: int
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield start and environment, each [n], of all sequences in a random order."""
        order = torch.randperm(starts * num_envs, generator=self.generator, device=self.device)
        for part in torch.split(order, max(1, round(self.ppo.minibatch_steps / unroll))):
            yield part // num_envs, part % num_envs
