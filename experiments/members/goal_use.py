"""Find out whether a FeUdal Network uses its goals.

A Worker may learn to ignore goals, or to follow them as a drive without content. So the same
episodes are played with other goals in place of the real ones. All arms have the same environments,
seeds and draws of actions. So an environment's mean return in one arm is paired with its mean in
another. Intervals are of these means, at 95 %: bootstrap intervals of an arm, Student's t of the
paired differences.
"""

import dataclasses
import math
from pathlib import Path

import numpy as np
import torch

from agents import feudal, feudal_network, goals
from experiments.analysis import aggregates, wording
from experiments.members import episodes
from pbt import store
from pbt.records import Member

ARMS = ("real", "permuted", "constant", "zeroed")
"""Pooled goals that the Worker sees. Permuted ones are those of another environment at the same
time, constant ones the mean over all steps of the real arm. A zero goal makes every policy uniform,
so "zeroed" alone proves nothing."""


@dataclasses.dataclass(frozen=True)
class GoalUse:
    """How much a FeUdal Network depends on what its goals say."""

    returns: dict[str, np.ndarray]
    """Mean return of each environment, [B], in each arm."""
    swapped_cosine: float
    """Mean cosine of a pooled goal with the one permuted to its place; 1 means that
    permuting changed nothing."""
    transition_cosine: float
    """Mean of cos(s[t + c] - s[t], g[t]); NaN where no episode is longer than c."""
    permuted_cosine: float
    """The same with another environment's goals."""
    effective_rank: float
    """Exponential of the entropy of the singular values of the latent states."""
    explained_variance: float
    """1 - Var(R - V^M) / Var(R) over finished episodes; NaN if R never varies."""

    def text(self) -> str:
        """Return the figures as printed, one per line."""
        return "\n".join(
            [
                *map(self._arm, self.returns),
                f"cosine of a goal with the one permuted to its place: {self.swapped_cosine:.3f}",
                f"cosine of goal and change of state: {self.transition_cosine:.3f}, with permuted "
                f"goals {self.permuted_cosine:.3f}",
                f"effective rank of the latent state: {self.effective_rank:.1f}",
                f"explained variance of the Manager's value: {self.explained_variance:.3f}",
            ]
        )

    def _arm(self, arm: str) -> str:
        """Return an arm's line."""
        found, differences = self.returns[arm], self.returns["real"] - self.returns[arm]
        line = f"goals {arm}: mean return {found.mean():.3f} ("
        line += f"{wording.interval(aggregates.interval(found, np.mean))})"
        if arm == "real":
            return line
        ends = wording.interval(aggregates.paired_interval(differences))
        return f"{line}, real less this {differences.mean():.3f} ({ends}), n = {len(found)} pairs"


def measure(
    run_store: store.Store, run_dir: Path, member: Member, count: int, seed: int
) -> GoalUse:
    """Play the arms with a member's last checkpoint.

    Args:
        run_store: The run.
        run_dir: The run's directory.
        member: The member.
        count: Number of episodes of each arm, at least 2.
        seed: Seed of environments and actions of each arm.

    Raises:
        ValueError: The agent has no goals, or there are fewer than two episodes.
        pbt.checkpoint.CheckpointError: The member's checkpoint is damaged.
    """
    agent, config = episodes.load_agent(run_store, run_dir, member, seed)
    if not isinstance(agent, feudal.Feudal):
        raise ValueError(f"--goals: the agent {config.agent!r} has none, only 'feudal' has")
    if count < 2:
        raise ValueError(f"--episodes {count}: --goals permutes them, so use 2 or more")
    seen: list[torch.Tensor] = []  # pooled goals of the real arm, [B, d] each

    def record(pooled: torch.Tensor) -> torch.Tensor:
        seen.append(pooled)
        return pooled

    steers: dict[str, feudal_network.Steer] = {
        "real": record,
        "permuted": lambda pooled: pooled.roll(1, 0),
        "constant": lambda pooled: torch.stack(seen).mean((0, 1)).expand_as(pooled),
        "zeroed": torch.zeros_like,
    }
    trace = _Trace(agent.feudal.horizon)
    returns = {}
    for arm in ARMS:
        agent.generator.manual_seed(seed)
        agent.steer = steers[arm]
        found: dict[int, list[float]] = {}
        for transition, finished in episodes.fresh_steps(agent, config, count, seed):
            for slot, episode_return, _ in finished:
                found.setdefault(slot, []).append(episode_return)
            if arm == "real":
                trace.add(transition)
        returns[arm] = np.array([np.mean(found[slot]) for slot in sorted(found)])
    pooled = goals.unit(torch.stack(seen))  # [N, B, d]
    swapped = (pooled * pooled.roll(1, 1)).sum(-1).mean().item()
    return GoalUse(returns, swapped, *trace.figures(config.settings.gamma))


class _Trace:
    """What the real arm's steps leave for the figures."""

    def __init__(self, horizon: int) -> None:
        self._horizon = horizon
        self._latent: list[torch.Tensor] = []  # [B, d] each
        self._goal: list[torch.Tensor] = []
        self._age: list[torch.Tensor] = []  # [B]
        self._value: list[torch.Tensor] = []
        self._reward: list[torch.Tensor] = []
        self._discount: list[torch.Tensor] = []
        self._truncated: list[torch.Tensor] = []
        self._truncation_value: list[torch.Tensor] = []

    def add(self, transition: episodes.Transition) -> None:
        """Keep one step of all environments."""
        state = feudal_network.State.unpack(transition.step.state, self._horizon)
        self._latent.append(state.latents[0])
        self._goal.append(state.goals[0])
        self._age.append(state.age - 1)
        self._value.append(transition.step.value[:, 0])
        self._reward.append(transition.reward)
        self._discount.append(transition.discount)
        self._truncated.append(transition.truncated)
        self._truncation_value.append(transition.truncation_value[:, 0])

    def figures(self, gamma: float) -> tuple[float, float, float, float]:
        """Return transition cosine, permuted cosine, effective rank and explained variance."""
        latent, goal = torch.stack(self._latent), torch.stack(self._goal)[:-1]
        age = torch.stack(self._age)
        cosines = []
        for set_goals in (goal, goal.roll(1, 1)):
            cosine, inside = goals.transition_cosine(latent, set_goals, age, self._horizon)
            cosines.append(cosine[inside].mean().item())
        rank = effective_rank(latent.flatten(0, 1))
        return cosines[0], cosines[1], rank, self._explained(gamma)

    def _explained(self, gamma: float) -> float:
        value, reward, discount, truncated, after = (
            torch.stack(one).numpy()
            for one in (
                self._value,
                self._reward,
                self._discount,
                self._truncated,
                self._truncation_value,
            )
        )  # [N, B] each
        returns = np.zeros_like(value)
        is_known = np.zeros(value.shape, dtype=bool)
        following, known = np.zeros_like(value[0]), np.zeros(value.shape[1], dtype=bool)
        for t in reversed(range(len(value))):
            known = known | truncated[t] | (discount[t] == 0)
            future = np.where(truncated[t], gamma * after[t], discount[t] * following)
            following = reward[t] + future
            returns[t], is_known[t] = following, known
        return explained_variance(returns[is_known], value[is_known])


def effective_rank(x: torch.Tensor) -> float:
    """Return the effective rank of vectors [N, d] about their mean (Roy and Vetterli 2007).

    It is exp(H(p)), p the singular values divided by their sum: 1 on a line, at most d.
    """
    singular = torch.linalg.svdvals(x - x.mean(0))
    p = singular / singular.sum()
    p = p[p > 0]
    return math.exp(-(p * p.log()).sum().item())


def explained_variance(returns: np.ndarray, value: np.ndarray) -> float:
    """Return 1 - Var(returns - value) / Var(returns), NaN if the returns do not vary."""
    variance = float(np.var(returns)) if len(returns) else 0.0
    return 1 - float(np.var(returns - value)) / variance if variance > 0 else math.nan
