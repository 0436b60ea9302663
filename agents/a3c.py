"""A3C in its batched form: B environments stepped together, one update per unroll.

"Asynchronous Methods for Deep Reinforcement Learning", Mnih et al. 2016
(https://arxiv.org/abs/1602.01783), algorithm S3, with the LSTM inputs of Jaderberg et al. 2016.
A batch of environments decorrelates the data as the paper's asynchronous actors do. The other
members of the population keep the cores busy.
"""

import operator
from collections.abc import Iterator
from types import MappingProxyType

import torch

from agents import actor_critic, losses, optimiser, rollout


class A3C(actor_critic.FlatAgent):
    """An actor-critic agent that learns from each unroll once.

    Args:
        obs_shape: As in `Agent`.
        action_size: As in `Agent`.
        continuous: As in `Agent`.
        config: As in `Agent`.
        learning_rate: Initial learning rate; change it with `set_learning_rate`.
        seed: As in `Agent`.
        device: As in `Agent`.
    """

    hyperparameters = MappingProxyType({"entropy_cost": 0.01})

    def __init__(
        self,
        obs_shape: rollout.ObsShape,
        action_size: rollout.ActionSize,
        continuous: bool,
        config: actor_critic.AgentConfig,
        learning_rate: float,
        seed: int,
        device: str = "cpu",
    ) -> None:
        super().__init__(obs_shape, action_size, continuous, config, seed, device)
        self.optimiser = optimiser.RMSProp(
            self.network.parameters(), learning_rate, self.package.decay, self.package.epsilon
        )

    def update(
        self,
        batch: rollout.Rollout,
        entropy_cost: float,
        *,
        add_gradients: actor_critic.AddGradients | None = None,
    ) -> dict[str, float]:
        """Learn from one unroll: the gradient of the loss, then one clipped step of RMSProp.

        Args:
            batch: T steps of B environments, made with this agent's current weights.
            entropy_cost: Weight of the policy's entropy in the loss.
            add_gradients: Called once, after this loss has left its gradients.

        Returns:
            Metrics. Losses, entropy and value are means over T and B, also where the loss itself
            is a sum over T.

        Raises:
            FloatingPointError: Loss or gradient is not finite; nothing was applied.
        """
        self.optimiser.zero_grad()
        means = self.backward(batch, entropy_cost)
        if add_gradients is not None:
            add_gradients(*batch.reward.shape)
        metrics = self.apply(means)
        # Only now, so that all T steps of an unroll are normalised alike.
        self.observe(batch.inputs[:1] if self.is_image else batch.inputs)  # one step is enough
        return metrics

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
        inputs = rollout.stack(batch.inputs)
        action = torch.stack([step.action for step in batch.steps])  # [T, B, ...]
        width = max(1, self.config.graph_steps // length)
        for begin in range(0, num_envs, width):
            part = slice(begin, begin + width)
            parameters, value = self.network.unroll(
                inputs.map(operator.itemgetter((slice(None), part))),
                tuple(tensor[part] for tensor in batch.initial_state),
            )
            yield (
                part,
                policy.log_prob(parameters, action[:, part]),
                policy.entropy(parameters),
                value,
            )
