"""UNREAL: an actor-critic agent with three auxiliary tasks that learn from replay.

"Reinforcement Learning with Unsupervised Auxiliary Tasks", Jaderberg et al. 2016
(https://arxiv.org/abs/1611.05397), equation 1 in section 3.4:

    L = L_A3C + value_replay_cost * L_VR
              + pixel_control_cost * sum over cells c of L_Q(c)
              + reward_prediction_cost * L_RP

- Pixel control: a Q-function for each of 20 x 20 cells learns, by n-step Q-learning, to change the
  cell's pixels.
- Reward prediction: a classifier on the convolutions tells from three observations whether a reward
  follows.
- Value replay: the value head also regresses on replayed sequences. They begin and end anywhere,
  while unrolls lie end to end.

Feature control, which the paper discusses, is not part of UNREAL.

In the paper all terms are sums over T steps. Where the package takes means over T, all terms are
divided by T, so that the weights keep their meaning.

The paper's agent is A3C. PPO takes the auxiliary tasks as well: each minibatch of sequences is
joined by as many replayed sequences of the same length.
"""

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from agents import actor_critic, losses, memory, networks, rollout, sequence_buffer

COSTS = ("pixel_control_cost", "reward_prediction_cost", "value_replay_cost")
"""Names of the weights of the auxiliary losses, hyperparameters that may change at any update."""


@dataclass(frozen=True)
class UNREALConfig:
    """Settings of the auxiliary tasks that stay fixed during training.

    Raises:
        ValueError: A value is out of its range.
    """

    replay_steps: int = 2_000
    """Agent steps kept in replay, over all environments of a member: 14 MB of Atari's grey frames,
    42 MB of RGB. The paper keeps 2,000 per actor, each with one environment."""
    pixel_control_gamma: float = 0.9
    """Discount of pixel control (section 4 of the supplement)."""
    least_reward: float = 0.01
    """Absolute reward, clipped and scaled as it is learned from, below which reward prediction sees
    no reward. It should exceed what an environment gives for merely living through a step."""
    shared_sequences: bool = True
    """Whether pixel control and value replay learn from the same sequences. Both sample uniformly,
    so the expected gradients are the same. False draws two sets as in the paper, which is
    slower."""

    def __post_init__(self) -> None:
        if self.replay_steps < 1:
            raise ValueError(f"replay_steps {self.replay_steps} must be at least 1")
        if not 0 <= self.pixel_control_gamma <= 1:
            raise ValueError(f"pixel_control_gamma {self.pixel_control_gamma} must be in [0, 1]")
        if not self.least_reward > 0:
            raise ValueError(f"least_reward {self.least_reward} must be above 0")


def check_replay(replay_steps: int, num_envs: int, unroll_length: int, stack: int) -> None:
    """Refuse a replay that cannot hold sequences as long as the unroll.

    Args:
        replay_steps: Agent steps kept, over all environments.
        num_envs: Number of environments.
        unroll_length: Steps per environment and update.
        stack: Frames per observation.

    Raises:
        ValueError: The replay is too small; the message has an unroll length and a replay that fit.
    """
    # A sequence, the state after it, the older frames of its first stack, some starts to choose.
    overhead = 2 * stack + 2
    if replay_steps // num_envs < unroll_length + overhead:
        longest = replay_steps // num_envs - overhead
        raise ValueError(
            f"replay_steps {replay_steps} over num_envs {num_envs} keeps "
            f"{replay_steps // num_envs} steps of each environment, too few for an unroll_length "
            f"up to {unroll_length}: use "
            + (f"unroll lengths up to {longest}, " if longest >= 1 else "")
            + f"fewer environments, or replay_steps of {(unroll_length + overhead) * num_envs}"
        )


def unsupported(
    obs_shape: rollout.ObsShape, action_size: rollout.ActionSize, continuous: bool
) -> str | None:
    """Return why UNREAL cannot learn in such an environment, and the way out; None if it can.

    Args:
        obs_shape: Shape of one observation, or of its parts.
        action_size: Number of discrete actions, or the parts of one of several.
        continuous: Whether actions are continuous.
    """
    parts, shape = networks.split_shape(obs_shape)
    if parts:
        return (
            f"UNREAL learns to change the pixels of one image, and observations have the parts "
            f"{parts}: use agent 'a3c' or 'ppo'"
        )
    if len(shape) != 3:
        return (
            f"UNREAL learns to change pixels, and observations of shape {obs_shape} have none: "
            "use agent 'a3c', or an environment with images"
        )
    if shape[1:] != (84, 84):
        return (
            f"UNREAL's 20 x 20 cells are made for images of 84 x 84, not {shape[1]} x "
            f"{shape[2]}: resize them, for example with Gymnasium's ResizeObservation"
        )
    if isinstance(action_size, rollout.ActionParts):
        return (
            "UNREAL's pixel control is Q-learning over discrete actions: use agent 'a3c' or 'ppo' "
            f"where actions have several parts, here of {action_size.sizes} values"
        )
    if continuous:
        return (
            "UNREAL's pixel control is Q-learning over discrete actions: use agent 'a3c' where "
            "actions are continuous"
        )
    return None


class PixelControlHead(nn.Module):
    """Dueling Q-values of each action for each of 20 x 20 cells.

    A dense layer leads to 32 maps of 9 x 9. A transposed convolution, 4 x 4 with stride 2, leads to
    one map of state values and one map of advantages per action (Jaderberg et al. 2016, supplement;
    dueling after Wang et al. 2016). Other implementations put a ReLU on these maps. We do not,
    since a cell below zero would never learn again.

    Args:
        width: Features of the core's output.
        num_actions: Number of discrete actions.
    """

    def __init__(self, width: int, num_actions: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, 32 * 9 * 9)
        self.streams = nn.ConvTranspose2d(32, 1 + num_actions, kernel_size=4, stride=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return Q [..., A, 20, 20] of core outputs [..., width]."""
        maps = functional.relu(self.dense(x)).reshape(-1, 9, 9, 32)
        maps = maps.permute(0, 3, 1, 2)  # [N, 32, 9, 9]
        streams: torch.Tensor = self.streams(maps)  # [N, 1 + A, 20, 20]
        streams = streams.view(*x.shape[:-1], *streams.shape[1:])  # [..., 1 + A, 20, 20]
        # One split, not two slices: the gradient of each slice would be as large as both.
        value, advantage = torch.split(streams, [1, streams.shape[-3] - 1], dim=-3)
        return value + advantage - advantage.mean(-3, keepdim=True)


class Heads(nn.Module):
    """The layers that the auxiliary tasks add to the network.

    Args:
        core_width: Features of the core's output.
        convolved_size: Features of the last convolution, for one observation.
        num_actions: Number of discrete actions.
    """

    GAINS: Mapping[str, float] = {"pixel_control.streams": 0.01, "reward_prediction.2": 0.01}
    """Gains of the orthogonal initialisation, as small as the policy's."""

    def __init__(self, core_width: int, convolved_size: int, num_actions: int) -> None:
        super().__init__()
        self.pixel_control = PixelControlHead(core_width, num_actions)
        self.reward_prediction = nn.Sequential(
            nn.Linear(3 * convolved_size, 128), nn.ReLU(), nn.Linear(128, 3)
        )


class UNREAL:
    """An actor-critic agent with auxiliary tasks, with the interface of that agent.

    `update` also takes the weights of the three auxiliary losses. The replay is not in
    `state_dict`: after a load it is filled again, and until then the agent learns without the
    auxiliary tasks. Its memory is allocated by the first update, so an agent that only acts has
    none.

    Args:
        base: The agent, untrained.
        obs_shape: (C, 84, 84) of uint8 images.
        action_size: Number of discrete actions.
        continuous: Must be false.
        auxiliary: Settings of the auxiliary tasks.
        seed: Seed of the heads' initial weights.
        frame_channels: Channels of one frame; an observation may be a stack of frames.

    Raises:
        ValueError: Observations are not images of 84 x 84, or actions are not plainly discrete.
    """

    def __init__(
        self,
        base: actor_critic.FlatAgent,
        obs_shape: rollout.ObsShape,
        action_size: rollout.ActionSize,
        continuous: bool,
        auxiliary: UNREALConfig,
        seed: int,
        frame_channels: int = 1,
    ) -> None:
        problem = unsupported(obs_shape, action_size, continuous)
        if problem is not None:
            raise ValueError(problem)
        assert isinstance(action_size, int)
        self.base = base
        self.auxiliary = auxiliary
        self._obs_shape = networks.split_shape(obs_shape)[1]
        self._frame_channels = frame_channels
        self._num_actions = action_size
        self._core_width, torso = self.base.network.core_width, self.base.network.torso
        assert isinstance(torso, networks.ConvTorso)  # as all images have
        self._torso = torso
        self.heads = Heads(self._core_width, torso.convolved_size, action_size)
        networks.initialise(
            self.heads,
            self.base.package.initialisation,
            torch.Generator().manual_seed(seed + 2),
            Heads.GAINS,
        )
        self.heads.to(self.base.device)
        self.base.optimiser.add_param_group({"params": list(self.heads.parameters())})
        self._replay: sequence_buffer.SequenceBuffer | None = None

        # Weights of the auxiliary losses: the paper's on Labyrinth.
        self.hyperparameters: Mapping[str, float] = {
            **base.hyperparameters,
            **dict.fromkeys(COSTS, 1.0),
            "pixel_control_cost": 0.01,
        }
        # This agent acts as its base does.
        self.config, self.device, self.generator = base.config, base.device, base.generator
        self.initial_state, self.keeps_graph = base.initial_state, base.keeps_graph
        self.rollout_length = base.rollout_length
        self.act, self.value = base.act, base.value
        self.learning_rate, self.set_learning_rate = base.learning_rate, base.set_learning_rate

    @property
    def deterministic(self) -> bool:
        """See `Agent.deterministic`."""
        return self.base.deterministic

    @deterministic.setter
    def deterministic(self, value: bool) -> None:
        self.base.deterministic = value

    def update(self, batch: rollout.Rollout, **hyperparameters: float) -> dict[str, float]:
        """Update the base on one rollout, joined by as many replayed steps per task.

        Args:
            batch: As in the base's `update`, with its endings.
            **hyperparameters: The base's, and the weight of each loss in `COSTS`; a weight of 0
                switches the task off.

        Returns:
            The metrics of the base, `replay/filled` from 0 to 1, and once that is 1 the auxiliary
            losses, as means over the minibatches.

        Raises:
            FloatingPointError: A loss or the gradient is not finite and was not applied.
            ValueError: The replay cannot hold sequences of this length.
        """
        num_envs = batch.reward.shape[1]
        if self._replay is None:
            memory.keep_freed()
            self._replay = sequence_buffer.SequenceBuffer(
                self.auxiliary.replay_steps,
                num_envs,
                self._obs_shape,
                self._frame_channels,
                self._num_actions,
                self.device,
            )
        replay = self._replay
        length = int(hyperparameters.get("unroll_length", len(batch.steps)))
        check_replay(self.auxiliary.replay_steps, num_envs, length, replay.stack)
        replay.append(batch)
        filled = replay.filled()
        costs = {name: hyperparameters.pop(name) for name in COSTS}
        learned: list[dict[str, float]] = []

        def add_gradients(length: int, count: int) -> None:
            learned.append(self._learn_from_replay(replay, length, count, costs))

        metrics = self.base.update(
            batch, **hyperparameters, add_gradients=add_gradients if filled == 1 else None
        )
        names = dict.fromkeys(name for one in learned for name in one)
        means = {
            name: statistics.fmean(one[name] for one in learned if name in one) for name in names
        }
        return metrics | {"replay/filled": filled} | means

    def _learn_from_replay(
        self,
        replay: sequence_buffer.SequenceBuffer,
        length: int,
        count: int,
        costs: Mapping[str, float],
    ) -> dict[str, float]:
        """Add the gradients of the auxiliary losses; return the losses as metrics.

        Args:
            replay: The replay, filled.
            length: Steps of each sequence.
            count: Number of sequences.
            costs: Weight of each loss in `COSTS`.
        """
        scale = length if self.base.package.time_reduction == "sum" else 1
        metrics = {}
        wanted = [name for name in ("pixel_control_cost", "value_replay_cost") if costs[name] > 0]
        for names in [wanted] if self.auxiliary.shared_sequences else [[name] for name in wanted]:
            sequences = replay.sample(length, count, self.generator) if names else None
            if sequences is None:
                continue
            state = self.base.initial_state(count)
            x = self.base.network.core_outputs(sequences.inputs, state)  # [T + 1, N, width]
            total = x.new_zeros(())
            if "pixel_control_cost" in names:
                loss = self.pixel_control_loss(sequences, x)
                metrics["loss/pixel_control"] = loss.detach()
                total = total + costs["pixel_control_cost"] * loss
            if "value_replay_cost" in names:
                loss = self.value_replay_loss(sequences, x)
                metrics["loss/value_replay"] = loss.detach()
                total = total + costs["value_replay_cost"] * self.base.value_cost * loss
            (total * scale).backward()  # type: ignore[no-untyped-call]
        if costs["reward_prediction_cost"] > 0:
            # Each draw has three observations: together as many as the unroll, rounded up.
            draws = -(-length * count // 3)
            drawn = replay.sample_rewards(draws, self.auxiliary.least_reward, self.generator)
            if drawn is not None:
                loss = self.reward_prediction_loss(*drawn)
                metrics["loss/reward_prediction"] = loss.detach()
                # The paper makes one prediction per unroll, and sums the other terms over T.
                weight = costs["reward_prediction_cost"] * scale / length
                (loss * weight).backward()  # type: ignore[no-untyped-call]
        values = torch.stack(list(metrics.values())).tolist() if metrics else []
        return dict(zip(metrics, values, strict=True))

    def pixel_control_loss(
        self, sequences: sequence_buffer.Sequences, x: torch.Tensor
    ) -> torch.Tensor:
        """Compute the n-step Q-learning loss of pixel control (Jaderberg et al. 2016, section 3.1).

        (R - Q(s, a))^2 is summed over cells. R is the n-step return of pixel changes, with max_a Q
        of the state after the sequence as its last value.

        Args:
            sequences: N replayed sequences of up to T steps.
            x: The core's outputs for them, [T + 1, N, width].

        Returns:
            Mean over T and N, a scalar; steps beyond a sequence's end count as 0.

        Raises:
            ValueError: The shape or dtype of `x` differs from the above.
        """
        length, count = sequences.action.shape
        losses.check("x", x, "T + 1, N, width", (length + 1, count, self._core_width))
        obs = sequences.inputs.obs
        assert isinstance(obs, torch.Tensor)  # `unsupported` refuses parts
        frames = obs[:, :, -self._frame_channels :]  # [T + 1, N, c, 84, 84]
        change = losses.pixel_change(frames)  # [T, N, 20, 20]
        q = self.heads.pixel_control(x[:-1])  # [T, N, A, 20, 20]
        with torch.no_grad():
            last = x[sequences.length, torch.arange(count, device=x.device)]  # [N, width]
            bootstrap = self.heads.pixel_control(last).amax(1)  # [N, 20, 20]
        discount = self.auxiliary.pixel_control_gamma * (~sequences.terminated).float()  # [T, N]
        returns = losses.sequence_returns(change, discount, bootstrap, sequences.length)
        index = sequences.action[..., None, None, None].expand(-1, -1, 1, 20, 20)
        acted = q.gather(2, index).squeeze(2)  # [T, N, 20, 20]
        squared = ((returns - acted) ** 2).sum((-2, -1))  # [T, N]
        return _mean_inside(squared, sequences.length)

    def value_replay_loss(
        self, sequences: sequence_buffer.Sequences, x: torch.Tensor
    ) -> torch.Tensor:
        """Compute (R - V(s))^2 on replayed steps (Jaderberg et al. 2016, section 3.3).

        Arguments, result and errors are those of `pixel_control_loss`.
        """
        length, count = sequences.action.shape
        losses.check("x", x, "T + 1, N, width", (length + 1, count, self._core_width))
        value = self.base.network.value(x).squeeze(-1)  # [T + 1, N]
        bootstrap = value[sequences.length, torch.arange(count, device=x.device)].detach()  # [N]
        returns = losses.sequence_returns(
            sequences.reward, sequences.discount, bootstrap, sequences.length
        )
        return _mean_inside(losses.value_loss(value[:-1], returns), sequences.length)

    def reward_prediction_loss(self, obs: torch.Tensor, reward: torch.Tensor) -> torch.Tensor:
        """Compute the cross-entropy of reward prediction (Jaderberg et al. 2016, section 3.2).

        The classes are no reward, a positive and a negative one.

        Args:
            obs: Three observations in a row, uint8 [N, 3, C, H, W].
            reward: Reward that followed the third, [N].

        Returns:
            Mean over N, a scalar.

        Raises:
            ValueError: A shape or dtype differs from the above.
        """
        losses.check("obs", obs, "N, 3, C, H, W", (-1, 3, *self._obs_shape), torch.uint8)
        losses.check("reward", reward, "N", obs.shape[:1])
        seen = self._torso.convolve(obs.flatten(0, 1)).float()  # [N * 3, convolved_size]
        logits = self.heads.reward_prediction(seen.view(len(reward), -1))  # [N, 3]
        least = self.auxiliary.least_reward
        kind = (reward >= least).long() + 2 * (reward <= -least).long()  # [N]
        return functional.cross_entropy(logits, kind)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return that of the base, and the weights and optimiser statistics of the heads."""
        heads = {f"heads.{name}": tensor for name, tensor in self.heads.named_parameters()}
        return self.base.state_dict() | heads | self.base.statistics(self.heads, "heads.")

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load the `state_dict` of an agent of the same shape, wholly or not at all.

        Raises:
            ValueError: Names, shapes or dtypes differ; the message lists them.
        """
        actor_critic.load(self.state_dict(), state)
        self.generator.set_state(state["generator"].cpu())
        if self._replay is not None:
            self._replay.clear()  # its steps are another policy's


def _mean_inside(per_step: torch.Tensor, length: torch.Tensor) -> torch.Tensor:
    """Return the mean of [T, N], with 0 beyond each sequence's length [N]."""
    steps = torch.arange(per_step.shape[0], device=per_step.device).unsqueeze(-1)  # [T, 1]
    return (per_step * (steps < length)).mean()
