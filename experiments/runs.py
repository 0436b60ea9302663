"""Read a run, and act with its members, from Python.

run = load_run("results/runs/gym-CartPole-v1")
pandas.DataFrame(run.reports)               # pandas is no dependency

agent = load_agent("results/runs/gym-CartPole-v1")
env = agent.make_env()
observation, _ = env.reset(seed=0)
agent.reset()
reward, done = 0.0, False
while not done:
    observation, reward, terminated, truncated, _ = env.step(agent.act(observation, reward))
    done = terminated or truncated
"""

import dataclasses
from pathlib import Path
from typing import Any, TypeVar

import gymnasium
import torch

from agents import rollout
from envs import make
from experiments.analysis import scores, tables
from experiments.analysis.history import History
from experiments.members import actor, episodes, evaluation, learner, own, policy, portable
from pbt import run, store

OwnLearner = TypeVar("OwnLearner", bound=own.Learner)


@dataclasses.dataclass(frozen=True)
class Run:
    """What a run did, as columns that `pandas.DataFrame(...)` takes.

    The columns are those of `python -m experiments.export`; docs/run-directory.md describes them.
    """

    run_dir: Path
    """The run's directory."""
    config: run.RunConfig
    """The settings of the run."""
    best: int | None
    """Number of the best member; None before any member has a score."""
    score: scores.Score | None
    """Its score, from fresh episodes if they were played, else from training."""
    members: tables.Columns
    """One row per member, as it is now."""
    versions: tables.Columns
    """One row per committed version of a member."""
    reports: tables.Columns
    """One row per slice of training."""
    episodes: tables.Columns
    """One row per finished episode or other sample of a score."""
    events: tables.Columns
    """One row per decision or fault."""
    schedule: tables.Columns
    """Hyperparameters that trained the best member's weights, followed through its donors. Empty
    before any member has a score."""


def load_run(run_dir: str | Path) -> Run:
    """Read all that a run did so far. It may be training, and nothing of it is executed.

    Args:
        run_dir: The run's directory.

    Raises:
        pbt.store.StoreError: There is no run, or it cannot be read.
    """
    run_dir = Path(run_dir)
    with store.Store.open(run_dir) as run_store:
        history = History.read(run_store, run_dir.resolve().name)
    columns = {table.name: tables.columns(table) for table in tables.all_tables(history)}
    return Run(
        run_dir=run_dir,
        config=history.config,
        best=None if history.best is None else history.best.id,
        score=scores.best_score(history, run_dir),
        schedule=tables.columns(tables.schedule(history.schedule)),
        **columns,
    )


class Agent(policy.Policy):
    """A member of a run that acts in one environment; see `load_agent`.

    Args:
        agent: The agent, on the CPU.
        config: The settings that it was trained with.
    """

    def __init__(self, agent: actor.Agent, config: learner.LearnerConfig) -> None:
        super().__init__(portable.describe(agent, config), portable.step_of(agent))
        self.agent, self.config = agent, config

    def make_env(self) -> gymnasium.Env[Any, Any]:
        """Build one environment with the protocol of the run."""
        return make.make_single(self.config.env_id, preset=self.config.preset)

    def _choose(
        self, inputs: tuple[torch.Tensor, ...], mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        """See `policy.Policy`. The agent samples unless it is deterministic."""
        obs, last_action, last_reward, is_first = inputs
        seen = rollout.Inputs(obs, last_action, last_reward, is_first, mask)
        step = self.agent.act(seen, self._state)
        return step.action, step.state


def load_agent(
    run_dir: str | Path,
    member: int | None = None,
    *,
    trust: bool = False,
    seed: int = 0,
    deterministic: bool = False,
) -> Agent:
    """Return a member of a run that acts in one environment, as in its last checkpoint.

    Args:
        run_dir: The run's directory.
        member: Number of the member; None for the best one.
        trust: Whether to play an environment of other code than the suite's and Gymnasium's, which
            is executed.
        seed: Seed of the actions, if they are sampled from the policy as in training.
        deterministic: Whether actions are the most likely ones and not samples.

    Raises:
        ValueError: There is no such member, or it has no checkpoint; the run names an environment
            of foreign code; or its members are no agents of the suite.
        pbt.store.StoreError: There is no run, or it cannot be read.
        pbt.checkpoint.CheckpointError: The checkpoint is damaged.
    """
    run_dir = Path(run_dir)
    with store.Store.open(run_dir) as run_store:
        _, agent, config = evaluation.load_agent(run_store, run_dir, member, trust=trust, seed=seed)
    agent.deterministic = deterministic
    return Agent(agent, config)


def load_learner(
    learner: type[OwnLearner], run_dir: str | Path, member: int | None = None
) -> OwnLearner:
    """Return a learner with the state and the hyperparameters of a member of a run.

    Args:
        learner: The class that the run has trained, see `experiments.tuning.tune`.
        run_dir: The run's directory.
        member: Number of the member; None for the best one.

    Raises:
        ValueError: The run has trained something else, or there is no such member or checkpoint.
        pbt.store.StoreError: There is no run, or it cannot be read.
        pbt.checkpoint.CheckpointError: The checkpoint is damaged.
    """
    run_dir = Path(run_dir)
    with store.Store.open(run_dir) as run_store:
        config = run_store.config
        if config.task.rpartition(":")[2] != f"{learner.__qualname__}.make_task":
            raise ValueError(f"{run_dir} trains {config.task}, not {learner.__qualname__}")
        found = evaluation.find(run_store, member)
        built = own.LearnerTask(learner, config.task_config, found.id, seed=0)
        built.load(episodes.opened(run_store, run_dir, found))
    built.set_hyperparameters(found.hyperparameters)
    loaded = built.learner
    assert isinstance(loaded, learner)
    return loaded
