"""The network of FeUdal Networks: a percept, a Manager that sets goals, a Worker that acts.

"FeUdal Networks for Hierarchical Reinforcement Learning", Vezhnevets et al. 2017
(https://arxiv.org/abs/1703.01161), equations 1 to 6 and section 4:

    z = torso(x)                                    percept
    s = relu(linear(z))                             the Manager's latent state, in R^d
    h = LSTM(s, core of r steps ago)                dilated LSTM
    g = sum of the last r outputs, of length 1      goal
    w = phi(sum of the goals of t - c .. t)         phi is linear, without bias, to R^k
    U = linear(LSTM(z, last action, last reward))   action embeddings, [A, k]
    pi = softmax(U w)                               policy

The paper's dilated LSTM has r cores, of which step t advances core t mod r. That core was last
advanced at step t - r. So the state is a queue of the last r steps: each step takes the oldest core
and puts it in front again, and there is no index to keep. Goals and latent states of the last c
steps are such queues too. All of them and the age of the episode are data, one row per environment.
Entries from before the current episode are masked by its age wherever they are read.

The paper has c = r = 10. Here both are `horizon`. Both LSTMs have d units. The last action and
reward among the Worker's inputs are those of the suite's other cores.
"""

from collections.abc import Callable
from types import MappingProxyType
from typing import Literal, NamedTuple, Self

import torch
from torch import nn
from torch.nn import functional

from agents import goals, networks, policies, rollout

Goals = Literal["learned", "fixed", "zero"]

Steer = Callable[[torch.Tensor], torch.Tensor]
"""Changes the pooled goals [B, d] that the Worker sees."""


class State(NamedTuple):
    """What the agent keeps between two steps; queues have the newest entry first."""

    worker: rollout.CoreState
    """(h, c) of the Worker's LSTM, each [B, d]; empty for a Worker without memory."""
    hidden: tuple[torch.Tensor, ...]
    """Outputs of the Manager's LSTM, r times [B, d]."""
    cell: tuple[torch.Tensor, ...]
    """Cells of the Manager's LSTM, r times [B, d]."""
    goals: tuple[torch.Tensor, ...]
    """Goals that were set, c times [B, d]."""
    latents: tuple[torch.Tensor, ...]
    """Latent states, c times [B, d]."""
    age: torch.Tensor
    """Steps that the episode has taken, int64 [B]."""
    was_random: torch.Tensor
    """Whether the newest goal was drawn at random, bool [B]."""

    def pack(self) -> rollout.CoreState:
        """Return all tensors in one tuple."""
        queues = (*self.hidden, *self.cell, *self.goals, *self.latents)
        return (*self.worker, *queues, self.age, self.was_random)

    @classmethod
    def unpack(cls, packed: rollout.CoreState, horizon: int) -> Self:
        """Return the state that `pack` has packed."""
        begin = len(packed) - 4 * horizon - 2  # tensors of the Worker
        hidden, cell, goals, latents = (
            packed[begin + i * horizon : begin + (i + 1) * horizon] for i in range(4)
        )
        return cls(packed[:begin], hidden, cell, goals, latents, packed[-2], packed[-1])


class Unrolled(NamedTuple):
    """What the two levels computed over T steps, [T, B, ...]."""

    goal: torch.Tensor
    """The Manager's goals, unit vectors [T, B, d]."""
    manager_value: torch.Tensor
    """V^M of the environment's rewards, [T, B]."""
    log_probs: torch.Tensor
    """The Worker's log-probabilities, [T, B, A]."""
    worker_value: torch.Tensor
    """The Worker's values of the environment's and of the intrinsic rewards, [T, B, 2]."""


class Manager(nn.Module):
    """The upper level, which sets goals and rates states.

    Args:
        features: Width of the torso.
        width: The paper's d.
        latent: "relu" or "linear" latent states.
    """

    def __init__(self, features: int, width: int, latent: Literal["relu", "linear"]) -> None:
        super().__init__()
        self.perception = nn.Linear(features, width)
        self.core = nn.LSTMCell(width, width)
        self.value = nn.Linear(features, 1)
        self._rectifies = latent == "relu"

    def latent(self, z: torch.Tensor) -> torch.Tensor:
        """Return latent states [..., d] of features [..., features]."""
        s: torch.Tensor = self.perception(z)
        return functional.relu(s) if self._rectifies else s

    def unroll(
        self, s: torch.Tensor, hidden: torch.Tensor, cell: torch.Tensor, age: torch.Tensor
    ) -> torch.Tensor:
        """Return goals [T, B, d] of latent states [T, B, d].

        No step needs a core of the r - 1 steps before it, so r steps are taken at once.

        Args:
            s: Latent states.
            hidden: Outputs of the r steps before, the oldest first, [r, B, d].
            cell: Cells of these steps, [r, B, d].
            age: Ages, int64 [T, B].
        """
        horizon = hidden.shape[0]
        outputs = [hidden]
        for begin in range(0, s.shape[0], horizon):
            block = s[begin : begin + horizon]  # [n, B, d]
            count = block.shape[0]
            keep = (age[begin : begin + count] >= horizon).unsqueeze(-1).to(s.dtype)  # [n, B, 1]
            state = ((hidden[:count] * keep).flatten(0, 1), (cell[:count] * keep).flatten(0, 1))
            h, c = self.core(block.flatten(0, 1), state)  # [n * B, d] each
            hidden, cell = h.view_as(block), c.view_as(block)
            outputs.append(hidden)
        return goals.unit(goals.pool(torch.cat(outputs), age, horizon))


class Worker(policies.Categorical):
    """The lower level, which acts towards the pooled goals.

    Args:
        features: Width of the torso.
        width: The paper's d, also units of the LSTM (section 4).
        action_size: Number of discrete actions.
        embedding_size: The paper's k.
        core: "lstm", or "feedforward", where U is a linear function of z alone.
    """

    def __init__(
        self,
        features: int,
        width: int,
        action_size: int,
        embedding_size: int,
        core: Literal["lstm", "feedforward"],
    ) -> None:
        super().__init__()
        self.core: nn.LSTMCell | None = None
        hidden = features
        if core == "lstm":
            self.core, hidden = nn.LSTMCell(features + action_size + 1, width), width
        self.embedding = nn.Linear(hidden, action_size * embedding_size)
        self.phi = nn.Linear(width, embedding_size, bias=False)
        self.value = nn.Linear(hidden, 2)
        self._shape = (action_size, embedding_size)

    def unroll(
        self, z: torch.Tensor, inputs: rollout.Inputs, state: rollout.CoreState
    ) -> tuple[torch.Tensor, rollout.CoreState]:
        """Return what actions and values are computed from, [T, B, hidden], and the next state.

        That is the LSTM's output, or z for a Worker without memory.

        Args:
            z: Features, [T, B, features].
            inputs: The same steps' inputs, of which the observations are not used.
            state: The LSTM's state before them.
        """
        if self.core is None:
            return z, ()
        x = networks.core_input(z, inputs)  # [T, B, features + A + 1]
        starts: list[int] = []
        if len(x) > 1:  # a single step is what `torch.export` can follow
            starts = (inputs.is_first.any(1)[1:].nonzero().flatten() + 1).tolist()
        outputs = []
        for begin, end in zip((0, *starts), (*starts, len(x)), strict=True):
            keep = (~inputs.is_first[begin]).unsqueeze(-1).to(x.dtype)  # [B, 1]
            state = tuple(part * keep for part in state)
            out, state = networks.lstm_sequence(self.core, x[begin:end], state)
            outputs.append(out)
        return torch.cat(outputs), state

    def forward(
        self, hidden: torch.Tensor, pooled: torch.Tensor, mask: torch.Tensor | None
    ) -> torch.Tensor:
        """Return log-probabilities [..., A].

        Args:
            hidden: What `unroll` returned, [..., hidden].
            pooled: Pooled goals, [..., d].
            mask: Which actions are legal, bool [..., A], or None.
        """
        w = self.phi(pooled).unsqueeze(-1)  # [..., k, 1]
        u = self.embedding(hidden).unflatten(-1, self._shape)  # [..., A, k]
        logits = (u @ w).squeeze(-1)  # [..., A]
        return functional.log_softmax(policies.masked(logits, mask), dim=-1)


class FeudalNetwork(networks.Network):
    """Torso, Manager and Worker.

    Args:
        obs_shape: As in `networks.ActorCritic`.
        action_size: Number of discrete actions.
        torso: As in `networks.ActorCritic`.
        core: The Worker's core; see `Worker`.
        width: The paper's d, units of both LSTMs and of an MLP torso.
        horizon: The paper's c, and r.
        embedding_size: The paper's k.
        latent: See `Manager`.
        goals: "learned", or what every goal is instead: the unit vector of equal parts, or zero.
        dtype: As in `networks.ActorCritic`.
    """

    def __init__(
        self,
        obs_shape: rollout.ObsShape,
        action_size: int,
        torso: networks.Torso,
        core: Literal["lstm", "feedforward"],
        width: int,
        horizon: int,
        embedding_size: int,
        latent: Literal["relu", "linear"],
        goals: Goals,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.torso = networks.make_torso(torso, obs_shape, width, dtype)
        features = self.torso.width
        self.manager = Manager(features, width, latent)
        self.worker = Worker(features, width, action_size, embedding_size, core)
        self.width, self.horizon, self._goals = width, horizon, goals
        self.gains = MappingProxyType(
            {"manager.value": 1.0, "worker.value": 1.0, "worker.phi": 1.0, "worker.embedding": 1.0}
        )

    def initial_state(self, batch: int) -> rollout.CoreState:
        """Return the state before the first episode, zeros everywhere."""
        like = self.worker.phi.weight
        zeros = like.new_zeros(batch, self.width)
        core = self.worker.core
        worker = () if core is None else (like.new_zeros(batch, core.hidden_size),) * 2
        queue = (zeros,) * self.horizon
        age = torch.zeros(batch, dtype=torch.int64, device=like.device)
        return State(worker, queue, queue, queue, queue, age, age.bool()).pack()

    def forward(
        self, inputs: rollout.Inputs, state: rollout.CoreState
    ) -> tuple[torch.Tensor, torch.Tensor, rollout.CoreState]:
        """See `networks.Network.forward`. All goals are the Manager's."""
        return self.step(self.torso(inputs.obs), inputs, state)

    def step(
        self,
        z: torch.Tensor,
        inputs: rollout.Inputs,
        packed: rollout.CoreState,
        random_goal: torch.Tensor | None = None,
        steer: Steer | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, rollout.CoreState]:
        """Take one step.

        Args:
            z: Features of the observations, [B, features].
            inputs: What the agent sees, [B, ...].
            packed: The state before the step.
            random_goal: Goals to set in place of the Manager's where they are not zero, [B, d].
            steer: Changes the pooled goals that the Worker sees.

        Returns:
            Log-probabilities [B, A]; V^M and the Worker's two values, [B, 3]; and the next state.
        """
        state = State.unpack(packed, self.horizon)
        age = torch.where(inputs.is_first, 0, state.age)  # [B]
        s = self.manager.latent(z)
        keep = (age >= self.horizon).unsqueeze(-1).to(s.dtype)  # [B, 1]
        h, c = self.manager.core(s, (state.hidden[-1] * keep, state.cell[-1] * keep))
        hidden = (h, *state.hidden[:-1])
        goal = self._set(goals.unit(_pool(hidden, age)))
        was_random = torch.zeros_like(inputs.is_first)
        if random_goal is not None:
            was_random = random_goal.any(-1)  # [B]
            goal = torch.where(was_random.unsqueeze(-1), random_goal, goal)
        pooled = _pool((goal, *state.goals), age)  # [B, d]
        if steer is not None:
            pooled = steer(pooled)
        one = inputs.map(lambda field: field.unsqueeze(0))
        out, worker = self.worker.unroll(z.unsqueeze(0), one, state.worker)  # [1, B, hidden]
        value = torch.cat((self.manager.value(z), self.worker.value(out[0])), dim=-1)
        following = State(
            worker,
            hidden,
            (c, *state.cell[:-1]),
            (goal, *state.goals[:-1]),
            (s, *state.latents[:-1]),
            age + 1,
            was_random,
        )
        return self.worker(out[0], pooled, inputs.action_mask), value, following.pack()

    def unroll(
        self,
        manager_z: torch.Tensor,
        worker_z: torch.Tensor,
        inputs: rollout.Inputs,
        packed: rollout.CoreState,
        pooled: torch.Tensor,
        age: torch.Tensor,
    ) -> Unrolled:
        """Take T steps again, with the goals that were set then.

        Args:
            manager_z: Features that the Manager sees, [T, B, features].
            worker_z: The same features for the Worker; two tensors, so that their gradients stay
                apart.
            inputs: All steps' inputs, [T, B, ...], of which the observations are not used.
            packed: The state before the first step.
            pooled: Pooled goals that the Worker saw, [T, B, d]; no gradient flows through them.
            age: Ages, int64 [T, B].
        """
        state = State.unpack(packed, self.horizon)
        hidden, cell = (torch.stack(queue[::-1]) for queue in (state.hidden, state.cell))
        goal = self.manager.unroll(self.manager.latent(manager_z), hidden, cell, age)
        out, _ = self.worker.unroll(worker_z, inputs, state.worker)  # [T, B, hidden]
        return Unrolled(
            goal,
            self.manager.value(manager_z).squeeze(-1),
            self.worker(out, pooled.detach(), inputs.action_mask),
            self.worker.value(out),
        )

    def _set(self, goal: torch.Tensor) -> torch.Tensor:
        """Return the goals [B, d] to set: the Manager's, unless the setting replaces them."""
        if self._goals == "zero":
            return torch.zeros_like(goal)
        if self._goals == "fixed":
            return torch.full_like(goal, self.width**-0.5)
        return goal


def _pool(queue: tuple[torch.Tensor, ...], age: torch.Tensor) -> torch.Tensor:
    """Return the sum [B, d] of the entries that are not older than the episode."""
    steps_ago = torch.arange(len(queue), device=age.device).unsqueeze(-1)  # [n, 1]
    inside = (steps_ago <= age).unsqueeze(-1).to(queue[0].dtype)  # [n, B, 1]
    return (torch.stack(queue) * inside).sum(0)
