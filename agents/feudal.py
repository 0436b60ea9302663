"""FeUdal Networks: a Manager sets goals, and a Worker is rewarded for reaching them.

"FeUdal Networks for Hierarchical Reinforcement Learning", Vezhnevets et al. 2017
(https://arxiv.org/abs/1703.01161, whose numbers of equations and sections these are), in the
batched form of A3C (`agents.a3c`). The loss of a step is

    - A^M cos(s[t + c] - s[t], g[t])                              Manager, equation 7
    - (A + intrinsic_cost * A^I) log pi(a | s)                    Worker, equation 9
    - entropy_cost * H(pi)
    + value_cost * ((R^M - V^M)^2 + (R - V)^2 + (R^I - V^I)^2)

R^M and R are n-step returns of the environment's rewards with the Manager's and with the Worker's
discount, R^I those of intrinsic rewards with the Worker's. Each has its own value function and
A = R - V. The paper's A^D = R + alpha R^I - V^D is the same with V^D = V + alpha V^I, since its
critic estimates the values of both rewards (section 3.2). An intrinsic cost of 0 switches that
stream off, its value function included.

The Worker's losses do not reach the goals, and the Manager's do not reach s[t + c] - s[t]. A step
has no part in the Manager's loss if its goal was drawn at random, or if step t + c is beyond the
unroll or the episode. So unrolls must be longer than c.

PPO's reuse of samples is left out. After its first epoch the latent states are others, and with
them the intrinsic rewards and the directions that goals were set in.
"""

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, NamedTuple

import torch

from agents import (
    actor_critic,
    feudal_network,
    frames,
    goals,
    losses,
    networks,
    optimiser,
    rollout,
)

TORSO_STEPS = 32
"""Agent steps whose torso is run anew at a time, where acting kept no graph."""


@dataclass(frozen=True)
class FeudalConfig:
    """Settings of the two levels that stay fixed during training.

    Raises:
        ValueError: A value is out of its range.
    """

    horizon: int = 10
    """The paper's c: steps in which a goal should be reached, and over which goals are summed. Also
    its r, the number of cores of the Manager's dilated LSTM. Both are 10 there (section 4.1)."""
    embedding_size: int = 16
    """The paper's k: dimensions in which goals meet actions; 16 there (section 4)."""
    worker_gamma: float = 0.95
    """The Worker's discount per agent step, as in the paper's Atari games (section 5.2). The
    Manager's is `gamma`, 0.99 or 0.95 there. Montezuma's Revenge has 0.99 and 0.999 (section
    5.1)."""
    random_goals: float = 0.01
    """Probability of a random goal at a step, which the paper calls small (section 4). It is drawn
    from a Gaussian and scaled to length 1, as all goals are."""
    latent: Literal["relu", "linear"] = "relu"
    """Whether the Manager's latent state is rectified, as in the paper (section 4)."""
    goals: feudal_network.Goals = "learned"
    """"zero" and "fixed" are controls without a Manager. With zero goals every policy is uniform.
    With the same fixed goal at all steps the Worker is an ordinary agent."""

    def __post_init__(self) -> None:
        if self.horizon < 1:
            raise ValueError(f"horizon {self.horizon} must be at least 1")
        if self.embedding_size < 1:
            raise ValueError(f"embedding_size {self.embedding_size} must be at least 1")
        if not 0 <= self.worker_gamma <= 1:
            raise ValueError(f"worker_gamma {self.worker_gamma} must be in [0, 1]")
        if not 0 <= self.random_goals <= 1:
            raise ValueError(f"random_goals {self.random_goals} must be in [0, 1]")
        if self.latent not in ("relu", "linear"):
            raise ValueError(f"latent {self.latent!r}: choose 'relu' or 'linear'")
        if self.goals not in ("learned", "fixed", "zero"):
            raise ValueError(f"goals {self.goals!r}: choose 'learned', 'fixed' or 'zero'")


def check_unroll(config: FeudalConfig, shortest: int) -> None:
    """Refuse unrolls from which the Manager learns nothing.

    Args:
        config: Settings of the two levels.
        shortest: Least unroll length.

    Raises:
        ValueError: No step has its step t + c in the unroll; the message names the way out.
    """
    if config.goals == "learned" and shortest < config.horizon:
        raise ValueError(
            f"unroll lengths from {shortest} on: the Manager looks {config.horizon} steps ahead "
            f"and learns nothing from shorter unrolls, so use lengths from {config.horizon} on, or "
            f"a horizon of at most {shortest}"
        )


class Targets(NamedTuple):
    """What the losses of an unroll need besides the network's outputs; without graph."""

    age: torch.Tensor
    """Ages of the T steps and of the one after them, int64 [T + 1, B]."""
    latent: torch.Tensor
    """Latent states of the same steps, [T + 1, B, d]."""
    pooled: torch.Tensor
    """Pooled goals that the Worker saw, [T, B, d]."""
    intrinsic: torch.Tensor
    """Intrinsic rewards that followed the actions, [T, B]."""
    returns: torch.Tensor
    """Returns of the Manager, of the Worker and of intrinsic rewards, [T, B, 3]."""
    advantage: torch.Tensor
    """These returns less the values met while acting, [T, B, 3]."""
    was_random: torch.Tensor
    """Whether a goal was drawn at random, bool [T, B]."""


class Feudal(actor_critic.Agent):
    """A FeUdal Network that learns from each unroll once.

    Acting runs the cores without graph. The update runs them anew over the torso's features, and
    hands the gradient of the features to the torso, by the graph that acting kept or by a second
    pass in small parts. Both give the same gradient, and a long unroll needs little memory.

    Args:
        obs_shape: As in `Agent`.
        action_size: Number of discrete actions.
        continuous: Must be false.
        config: As in `Agent`. `core` is the Worker's, `gamma` the Manager's.
        feudal: Settings of the two levels.
        learning_rate: Initial learning rate; change it with `set_learning_rate`.
        seed: As in `Agent`.
        device: As in `Agent`.

    Raises:
        ValueError: Actions are continuous or have several parts, or `gamma` is 0.
    """

    hyperparameters = MappingProxyType({"entropy_cost": 0.01, "intrinsic_cost": 0.5})
    network: feudal_network.FeudalNetwork

    def __init__(
        self,
        obs_shape: rollout.ObsShape,
        action_size: rollout.ActionSize,
        continuous: bool,
        config: actor_critic.AgentConfig,
        feudal: FeudalConfig,
        learning_rate: float,
        seed: int,
        device: str = "cpu",
    ) -> None:
        if continuous:
            raise ValueError(
                "FeUdal Networks choose among discrete actions by a softmax: use agent 'a3c' or "
                "'ppo' where actions are continuous"
            )
        if isinstance(action_size, rollout.ActionParts):
            raise ValueError(
                "FeUdal Networks choose among discrete actions by a softmax: use agent 'a3c' or "
                f"'ppo' where actions have several parts, here of {action_size.sizes} values"
            )
        if config.gamma == 0:
            raise ValueError("gamma 0: a Manager that sees no future sets no goals, use more")
        self.feudal = feudal
        self.steer: feudal_network.Steer | None = None
        """Changes the pooled goals that the Worker sees while acting, for evaluations."""
        super().__init__(obs_shape, action_size, continuous, config, seed, device)
        self.optimiser = optimiser.RMSProp(
            self.network.parameters(), learning_rate, self.package.decay, self.package.epsilon
        )

    def build(
        self,
        obs_shape: rollout.ObsShape,
        action_size: rollout.ActionSize,
        continuous: bool,
        torso: networks.Torso,
        width: int,
        dtype: torch.dtype,
    ) -> feudal_network.FeudalNetwork:
        """See `Agent.build`."""
        assert isinstance(action_size, int)
        return feudal_network.FeudalNetwork(
            obs_shape,
            action_size,
            torso,
            self.config.core,
            width,
            self.feudal.horizon,
            self.feudal.embedding_size,
            self.feudal.latent,
            self.feudal.goals,
            dtype,
        )

    def act(
        self, inputs: rollout.Inputs, state: rollout.CoreState, keep_graph: bool = False
    ) -> rollout.Step:
        """See `Agent.act`. Only the features have a graph; `value` is [B, 3]."""
        with torch.set_grad_enabled(keep_graph):
            z = self.network.torso(inputs.obs)  # [B, features]
        with torch.no_grad():
            log_probs, value, state = self.network.step(
                z.detach(), inputs, state, self._random_goal(len(z)), self.steer
            )
            worker = self.network.worker
            action = self.choose(worker, log_probs)
            return rollout.Step(
                action,
                worker.log_prob(log_probs, action),
                worker.entropy(log_probs),
                value,
                state,
                z,
            )

    def _random_goal(self, batch: int) -> torch.Tensor | None:
        """Return random unit vectors [B, d], zero where none is drawn; None if all are zero."""
        probability = self.feudal.random_goals
        if probability == 0 or self.feudal.goals != "learned":
            return None
        generator, device = self.generator, self.device
        draws = torch.rand(batch, generator=generator, device=device) < probability  # [B]
        if not draws.any():
            return None
        noise = torch.randn(batch, self.network.width, generator=generator, device=device)
        return goals.unit(noise) * draws.unsqueeze(-1)

    @torch.no_grad()
    def value(self, inputs: rollout.Inputs, state: rollout.CoreState) -> torch.Tensor:
        """See `Agent.value`: V^M, and the Worker's values of both rewards, [B, 3]."""
        z = self.network.torso(inputs.obs)
        value: torch.Tensor = self.network.step(z, inputs, state)[1]
        return value

    def update(
        self, batch: rollout.Rollout, entropy_cost: float, intrinsic_cost: float
    ) -> dict[str, float]:
        """Learn from one unroll: the gradient of the loss, then one clipped step of RMSProp.

        Args:
            batch: T steps of B environments, made with this agent's current weights.
            entropy_cost: Weight of the policy's entropy in the loss.
            intrinsic_cost: The paper's alpha: weight of the intrinsic advantage.

        Returns:
            Metrics, as means over T and B. `goal_cosine` is the mean of cos(s[t + c] - s[t], g[t])
            where it is defined. `gradient_share/manager` is the Manager's part of the norms of the
            two levels' gradients at the torso's features, `gradient_share/intrinsic` the intrinsic
            stream's part of the norms of the two streams' gradients at the policy's logits.

        Raises:
            FloatingPointError: Loss or gradient is not finite; nothing was applied.
            ValueError: The batch lacks the inputs that follow it.
        """
        self.optimiser.zero_grad()
        means, extra = self.backward(batch, entropy_cost, intrinsic_cost)
        metrics = self.apply(means)
        # Only now, so that all T steps of an unroll are normalised alike.
        self.observe(batch.inputs[:1] if self.is_image else batch.inputs)  # one step is enough
        return metrics | dict(zip(_EXTRA, extra.tolist(), strict=True))

    @torch.no_grad()
    def targets(self, batch: rollout.Rollout) -> Targets:
        """Return what the losses of an unroll need besides the network's outputs."""
        if batch.following is None:
            raise ValueError("the batch lacks `following`: give the inputs after its last step")
        horizon = self.feudal.horizon
        begin = feudal_network.State.unpack(batch.initial_state, horizon)
        states = [feudal_network.State.unpack(step.state, horizon) for step in batch.steps]
        following = self.network.manager.latent(self.network.torso(batch.following.obs))  # [B, d]
        acted = [state.latents[0] for state in states]
        latent = torch.stack((*begin.latents[::-1], *acted, following))  # [c + T + 1, B, d]
        goal = torch.stack((*begin.goals[::-1], *(state.goals[0] for state in states)))
        is_first = frames.without_obs(batch.inputs).is_first  # [T, B]
        is_first = torch.cat((is_first, batch.following.is_first.unsqueeze(0)))
        age = goals.ages(begin.age, is_first)  # [T + 1, B]
        intrinsic = goals.intrinsic_reward(latent, goal, age, horizon)[1:]  # [T, B]
        if self.feudal.goals != "learned":
            intrinsic = torch.zeros_like(intrinsic)
        returns = torch.stack(
            [
                losses.n_step_returns(
                    reward,
                    batch.discount * (gamma / self.config.gamma),
                    batch.truncated,
                    batch.truncation_value[..., i],
                    batch.bootstrap_value[..., i],
                    gamma,
                )
                for i, (reward, gamma) in enumerate(
                    (
                        (batch.reward, self.config.gamma),
                        (batch.reward, self.feudal.worker_gamma),
                        (intrinsic, self.feudal.worker_gamma),
                    )
                )
            ],
            dim=-1,
        )
        return Targets(
            age,
            latent[horizon:],
            goals.pool(goal, age[:-1], horizon + 1),
            intrinsic,
            returns,
            returns - torch.stack([step.value for step in batch.steps]),
            torch.stack([state.was_random for state in states]),
        )

    def backward(
        self, batch: rollout.Rollout, entropy_cost: float, intrinsic_cost: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add the gradient of the loss to that of the parameters, and change nothing else.

        Args:
            batch: As in `update`.
            entropy_cost: As in `update`.
            intrinsic_cost: As in `update`.

        Returns:
            Means over T and B of policy loss, value loss, entropy and the Worker's value, [4]; and
            the further metrics of `update`.
        """
        features = [step.features for step in batch.steps if step.features is not None]
        z = torch.stack(features)  # [T, B, features]
        gradient, metrics = self._cores_backward(z.detach(), batch, entropy_cost, intrinsic_cost)
        self._torso_backward(z, gradient, batch.inputs)
        return metrics

    def _cores_backward(
        self, z: torch.Tensor, batch: rollout.Rollout, entropy_cost: float, intrinsic_cost: float
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
        """Differentiate all but the torso, in parts of the batch.

        Args:
            z: Features, [T, B, features], without graph.
            batch: As in `update`.
            entropy_cost: As in `update`.
            intrinsic_cost: As in `update`.

        Returns:
            The gradient of the loss by the features, [T, B, features], and what `backward` returns.
        """
        targets = self.targets(batch)
        length, num_envs = batch.reward.shape
        gradient = torch.empty_like(z)
        action = torch.stack([step.action for step in batch.steps])  # [T, B]
        inputs = frames.without_obs(batch.inputs)
        scale = length if self.package.time_reduction == "sum" else 1
        sums = z.new_zeros(len(_SUMS))
        width = max(1, self.config.graph_steps // length)
        for begin in range(0, num_envs, width):
            part = slice(begin, begin + width)
            leaves = tuple(z[:, part].clone().requires_grad_() for _ in range(2))
            unrolled = self.network.unroll(
                leaves[0],
                leaves[1],
                inputs.map(operator.itemgetter((slice(None), part))),
                tuple(tensor[part] for tensor in batch.initial_state),
                targets.pooled[:, part],
                targets.age[:-1, part],
            )
            loss, parts = self._loss(
                unrolled,
                Targets(*(field[:, part] for field in targets)),
                action[:, part],
                entropy_cost,
                intrinsic_cost,
            )
            (loss * (scale / (length * num_envs))).backward()  # type: ignore[no-untyped-call]
            of_manager, of_worker = (
                torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves
            )
            gradient[:, part] = of_manager + of_worker
            squares = torch.stack((of_manager.square().sum(), of_worker.square().sum()))
            sums += torch.cat((parts, squares))
        return gradient, _means(sums, targets, batch, length * num_envs)

    def _loss(
        self,
        unrolled: feudal_network.Unrolled,
        targets: Targets,
        action: torch.Tensor,
        entropy_cost: float,
        intrinsic_cost: float,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the loss of a part of the batch, summed over its steps, and sums for metrics.

        Returns:
            The loss, a scalar with graph; and the sums named in `_SUMS` but the last two.
        """
        worker = self.network.worker
        of_manager, of_worker, of_intrinsic = targets.advantage.unbind(-1)  # [T, b] each
        streams = torch.stack((of_worker, intrinsic_cost * of_intrinsic), dim=-1)  # [T, b, 2]
        log_prob = worker.log_prob(unrolled.log_probs, action)
        policy_loss = losses.policy_gradient_loss(log_prob, streams.sum(-1)).sum()
        entropy = worker.entropy(unrolled.log_probs).sum()
        value = unrolled.worker_value
        value_loss = losses.value_loss(value[..., 0], targets.returns[..., 1]).sum()
        if intrinsic_cost > 0:
            value_loss = (
                value_loss + losses.value_loss(value[..., 1], targets.returns[..., 2]).sum()
            )
        cosine, inside = goals.transition_cosine(
            targets.latent, unrolled.goal, targets.age, self.feudal.horizon
        )
        inside = inside & ~targets.was_random
        cosine = cosine * inside
        manager_loss = goals.transition_policy_gradient_loss(cosine, of_manager).sum()
        loss = policy_loss - entropy_cost * entropy
        if self.feudal.goals == "learned":
            value_loss = (
                value_loss
                + losses.value_loss(unrolled.manager_value, targets.returns[..., 0]).sum()
            )
            loss = loss + manager_loss
        loss = loss + self.value_cost * value_loss
        with torch.no_grad():
            # The gradient of log pi(a) at the logits is onehot(a) - pi.
            probs = unrolled.log_probs.exp()
            at_logits = 1 - 2 * log_prob.exp() + probs.square().sum(-1)  # [T, b], squared norm
            squares = (streams.square() * at_logits.unsqueeze(-1)).sum((0, 1))  # [2]
            totals = (policy_loss, value_loss, entropy, manager_loss, cosine.sum(), inside.sum())
            return loss, torch.cat((torch.stack(totals), squares))

    def _torso_backward(
        self, z: torch.Tensor, gradient: torch.Tensor, inputs: Sequence[rollout.Inputs]
    ) -> None:
        """Differentiate the torso from the gradient of its features.

        Args:
            z: Features, [T, B, features]; with graph if acting kept it.
            gradient: Gradient of the loss by them, [T, B, features].
            inputs: The T steps' inputs.
        """
        if z.requires_grad:
            z.backward(gradient)  # type: ignore[no-untyped-call]
            return
        steps = max(1, TORSO_STEPS // z.shape[1])
        for begin in range(0, len(inputs), steps):
            obs = rollout.cat_obs(
                [one.obs for one in inputs[begin : begin + steps]]
            )  # [n * B, ...]
            again = self.network.torso(obs)  # [n * B, features]
            again.backward(gradient[begin : begin + steps].flatten(0, 1))


_SUMS = (
    *("policy loss", "value loss", "entropy", "manager loss", "cosine", "cosines"),
    *("square of extrinsic", "square of intrinsic", "square of manager", "square of worker"),
)
"""What `Feudal.backward` sums over the parts of a batch."""
_EXTRA = (
    "loss/manager",
    "value/manager",
    "intrinsic_reward",
    "goal_cosine",
    "gradient_share/manager",
    "gradient_share/intrinsic",
)
"""Names of this agent's own metrics."""


def _means(
    sums: torch.Tensor, targets: Targets, batch: rollout.Rollout, count: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the two vectors of metrics that `Feudal.backward` returns."""
    value = torch.stack([step.value for step in batch.steps]).mean((0, 1))  # [3]
    norms = sums[6:].sqrt()
    extrinsic, intrinsic, manager, worker = norms
    extra = (
        sums[3] / count,
        value[0],
        targets.intrinsic.mean(),
        sums[4] / sums[5].clamp(min=1),
        manager / (manager + worker).clamp(min=torch.finfo(norms.dtype).tiny),
        intrinsic / (extrinsic + intrinsic).clamp(min=torch.finfo(norms.dtype).tiny),
    )
    return torch.cat((sums[:3] / count, value[1:2])), torch.stack(extra)
