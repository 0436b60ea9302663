"""Settings of the population experiments: a frozen dataclass, with a subclass per command.

tyro makes a flag of every field, and the flag's help of the field's docstring.
`experiments.presets` has the subclasses and their presets.
"""

import contextlib
import dataclasses
import math
import re
import typing
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from agents import actor_critic, feudal, ppo, unreal
from experiments import cluster
from experiments.analysis import schedule
from experiments.members import learner
from pbt import run, space, storage, store

Hyperparameter = Literal[
    "learning_rate",
    "entropy_cost",
    "unroll_length",
    "clip_range",
    "epochs",
    "pixel_control_cost",
    "reward_prediction_cost",
    "value_replay_cost",
    "intrinsic_cost",
]


@dataclasses.dataclass(frozen=True)
class Range:
    """Prior of a hyperparameter, and bounds of its perturbed values."""

    prior: tuple[float, float]
    """Ends of the log-uniform prior; twice the same number is a constant."""
    bounds: tuple[float, float]
    """Least and greatest value that perturbing can reach; must contain the prior."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """What every population has, whatever its members learn. Counts are steps *per member*.

    `check` refuses bad values. The constructor does not, since tyro prints its message in a box.
    """

    preset: str = "default"
    """Set of defaults that all other flags start from; described above."""
    population: int = 8
    """Number of members."""
    workers: int | None = None
    """Number of worker processes; default: one per core, at most one per member, and on a cluster
    one per member. A resumed run may have another number."""
    total_steps: int = 2_000_000
    """Steps of each member, exact."""
    report_interval: int = 20_000
    """Steps between two commits to the store."""
    ready_interval: int = 100_000
    """Steps between two comparisons with other members."""
    exploit: run.Exploit = "t-test"
    """How a member chooses whom to copy; "none" is random search with equal budget."""
    explore: Literal["perturb", "resample", "none"] = "perturb"
    """How hyperparameters change after a copy. "perturb" multiplies each by one of the factors.
    "resample" also draws each anew from its prior with a probability."""
    explore_at: run.ExploreAt = "exploit"
    """When they change: after a copy, so that a member that leads never changes its own; or each
    time a member is "ready"."""
    copy: run.Copy = "both"
    """What is copied from the better member."""
    significance: float = 0.05
    """Two-sided level of the t-test."""
    truncation_fraction: float = 0.2
    """Part of the population that truncation replaces, and part that it copies from."""
    perturb_factors: tuple[float, ...] = (0.8, 1.2)
    """Factors, one of which multiplies each adapted hyperparameter after a copy."""
    resample_probability: float = 0.25
    """Probability with which "resample" draws a hyperparameter anew."""
    adapt: tuple[str, ...] | None = None
    """Hyperparameters that exploring changes; default: those that the task's papers adapt, where
    they are not fixed. The others keep their first draw, or their donor's."""
    fixed: tuple[str, ...] = ()
    """Hyperparameters that are the same for all members, such as learning_rate=7e-4. The flag
    `--learning-rate 7e-4` says the same; with two numbers it gives the ends of the prior."""
    seed: int = 0
    """Seed of the run; every draw and every environment derives its own from it."""
    device: str = "cpu"
    """Torch device of the networks."""
    run_dir: Path | None = None
    """Directory of the run; default: results/runs/<command>-<what is learned>, followed by preset,
    agent, exploit and seed where they are not the usual ones. A run that is there already is
    resumed. It keeps two checkpoints of each member, and one when it is finished."""
    fork: Path | None = None
    """Directory of another run; a new run, in `--run-dir`, starts from its last weights and
    hyperparameters."""
    store: str | None = None
    """PostgreSQL database that keeps the run, such as postgresql://user@host/name; default: a
    SQLite file in the run's directory. The password comes from PGPASSWORD or ~/.pgpass."""
    checkpoints: str | None = None
    """Folder or URL that keeps the checkpoints of this run alone, such as s3://bucket/run; default:
    checkpoints in the run's directory. Keys come from AWS_ACCESS_KEY_ID and
    AWS_SECRET_ACCESS_KEY."""
    where: cluster.Flags = cluster.THIS_MACHINE
    """Where the worker processes are."""

    def check(self) -> None:
        """Refuse settings that make no sense, alone or together.

        Raises:
            ValueError: One line with the value given, the values allowed and the way out.
        """
        check_workers(self.workers)
        check_places(self.store, self.checkpoints)
        self.where.check()
        if self.fork is not None and self.run_dir is None:
            raise ValueError(f"--fork {self.fork}: name the new run's directory too, --run-dir NEW")
        if self.fork is not None and self.fork == self.run_dir:
            raise ValueError(
                f"--fork {self.fork}: --run-dir is the same directory; choose a new one, or leave "
                "--fork out to go on with that run"
            )
        self.search_space()

    def ignored(self) -> Collection[str]:
        """Return the names of the fields that have no effect with these settings."""
        return ()

    def num_workers(self) -> int:
        """Return the number of worker processes to start."""
        return self.where.num_workers(self.workers, self.population)

    def name(self) -> str:
        """Return what the members learn in a word, such as "Pong". Subclasses implement it."""
        raise NotImplementedError

    def labels(self, usual: "EngineConfig") -> list[str]:
        """Return what the default directory's name says besides what is learned.

        Runs that ask different questions so have different directories.

        Args:
            usual: The settings of the same preset without any other flag.
        """
        labels = [] if self.preset == "default" else [self.preset]
        if self.exploit != usual.exploit:
            labels.append(f"exploit-{self.exploit}")
        if self.seed != usual.seed:
            labels.append(f"seed-{self.seed}")
        return labels

    def task(self) -> tuple[str, Mapping[str, Any]]:
        """Return the name of the task factory and its configuration. Subclasses implement it."""
        raise NotImplementedError

    def search_space(self) -> space.Space:
        """Return priors, bounds and the names of adapted hyperparameters. Subclasses implement it.

        Raises:
            ValueError: A range, `adapt` or `fixed` makes no sense.
        """
        raise NotImplementedError

    def run_config(self) -> run.RunConfig:
        """Return the settings that a run stores, which are those that may not differ on resume."""
        task, task_config = self.task()
        search_space = self.search_space()
        with _named_as_flags():
            return run.RunConfig(
                task=task,
                task_config=task_config,
                space=search_space,
                population=self.population,
                total_steps=self.total_steps,
                report_interval=self.report_interval,
                ready_interval=self.ready_interval,
                exploit=self.exploit,
                explore=self.explore,
                explore_at=self.explore_at,
                copy=self.copy,
                significance=self.significance,
                truncation_fraction=self.truncation_fraction,
                perturb_factors=self.perturb_factors,
                resample_probability=self.resample_probability,
                seed=self.seed,
            )

    def adapted(
        self, dimensions: Mapping[str, space.Dimension], default: Sequence[str]
    ) -> space.Space:
        """Return the space of these hyperparameters, some of them fixed.

        Args:
            dimensions: Priors and bounds by name.
            default: Names of those that exploring changes unless `adapt` says otherwise.

        Raises:
            ValueError: `adapt` or `fixed` names none of them, or the same one.
        """
        adapt = tuple(default) if self.adapt is None else self.adapt
        fixed = parse_fixed(self.fixed)
        for name in self.adapt or ():
            if name in fixed:
                raise ValueError(
                    f"--adapt {name}: --fixed {name}={fixed[name]:g} holds it; leave one out"
                )
        return space.Space(dict(dimensions), adapt).fix(fixed)

    def log_uniform(self, names: Sequence[str]) -> dict[str, space.Dimension]:
        """Return a log-uniform dimension for each field of these names, or a constant."""
        dimensions: dict[str, space.Dimension] = {}
        for name in names:
            range_: Range = getattr(self, name)
            low, high = range_.prior
            with space.named(name):
                dimensions[name] = (
                    space.Constant(low)
                    if low == high
                    else space.LogUniform(low, high, range_.bounds)
                )
        return dimensions


@dataclasses.dataclass(frozen=True, kw_only=True)
class PopulationConfig(EngineConfig):
    """A population of actor-critic agents. Counts are agent steps *per member*."""

    preset: Literal["default", "quick", "paper"] = "default"
    """Set of defaults that all other flags start from; described above."""
    agent: learner.AgentName = "a3c"
    """Agent; the preset's other defaults follow it. "ppo" learns several times from each step.
    "unreal" and "unreal-ppo" also learn from replay and pixels, at more than twice the cost per
    step. "feudal" is a FeUdal Network. The papers' agents are "a3c", "unreal" and "feudal"."""
    settings: Annotated[
        tyro.conf.OmitArgPrefixes[actor_critic.AgentConfig],
        tyro.conf.arg(name="agent"),  # title of the flags' group
    ] = dataclasses.field(default_factory=actor_critic.AgentConfig)
    """Settings of the agent, the same for all members and never adapted."""
    ppo_settings: Annotated[tyro.conf.OmitArgPrefixes[ppo.PPOConfig], tyro.conf.arg(name="PPO")] = (
        dataclasses.field(default_factory=ppo.PPOConfig)
    )
    """Settings of PPO."""
    auxiliary: Annotated[
        tyro.conf.OmitArgPrefixes[unreal.UNREALConfig], tyro.conf.arg(name="UNREAL")
    ] = dataclasses.field(default_factory=unreal.UNREALConfig)
    """Settings of UNREAL's auxiliary tasks."""
    feudal_settings: Annotated[
        tyro.conf.OmitArgPrefixes[feudal.FeudalConfig], tyro.conf.arg(name="FeUdal")
    ] = dataclasses.field(default_factory=feudal.FeudalConfig)
    """Settings of FeUdal Networks."""
    num_envs: int = 16
    """Number of environments that each member steps together. All counts of agent steps are
    multiples of it."""
    learning_rate: Range = Range((1e-3, 1e-2), (1e-5, 1e-1))
    """Learning rate of A3C's RMSProp or PPO's Adam."""
    entropy_cost: Range = Range((1e-3, 2e-2), (1e-5, 1.0))
    """Weight of the policy's entropy in the loss."""
    unroll_length: Range = Range((5, 20), (1, 50))
    """Steps through which gradients flow: A3C's steps of each environment per update, PPO's steps
    per sequence. Perturbed as a real number, and rounded for use."""
    clip_range: Range = Range((0.1, 0.1), (0.01, 1.0))
    """PPO only: largest change of an action's probability ratio that is still rewarded."""
    epochs: Range = Range((2, 2), (1, 10))
    """PPO only: number of times that each step is learned from. Perturbed and rounded as the unroll
    length is."""
    pixel_control_cost: Range = Range((1e-4, 1e-2), (1e-6, 1.0))
    """UNREAL only: weight of the pixel control loss; `--fixed pixel_control_cost=0` switches the
    task off."""
    reward_prediction_cost: Range = Range((1.0, 1.0), (1e-2, 100.0))
    """UNREAL only: weight of the reward prediction loss; 1 in the paper."""
    value_replay_cost: Range = Range((1.0, 1.0), (1e-2, 100.0))
    """UNREAL only: weight of the value replay loss; 1 in the paper."""
    intrinsic_cost: Range = Range((1e-2, 1.0), (1e-4, 10.0))
    """FeUdal only: the paper's alpha, weight of the Worker's reward for reaching goals, which it
    draws uniformly from 0 to 1; `--fixed intrinsic_cost=0` switches it off."""
    adapt: tuple[Hyperparameter, ...] | None = None
    """Hyperparameters that exploring changes; default: learning rate, entropy cost, unroll length
    and intrinsic cost, where they are not fixed. The others keep their first draw, or their
    donor's."""

    def check(self) -> None:
        """See `EngineConfig.check`."""
        if self.num_envs < 1:
            raise ValueError(f"--num-envs {self.num_envs}: use 1 or more")
        if self.agent in ("ppo", "unreal-ppo"):
            ppo.check_package(self.settings.package)
        super().check()

    def name(self) -> str:
        """See `EngineConfig.name`: the environment's id."""
        return self.learner_config().env_id

    def ignored(self) -> Collection[str]:
        """See `EngineConfig.ignored`: settings and hyperparameters of other agents."""
        ppo_only = ("ppo_settings", "clip_range", "epochs")
        names: tuple[str, ...] = () if self.agent in ("ppo", "unreal-ppo") else ppo_only
        if self.agent not in ("unreal", "unreal-ppo"):
            names += ("auxiliary", *unreal.COSTS)
        if self.agent != "feudal":
            names += ("feudal_settings", "intrinsic_cost")
        return names

    def labels(self, usual: EngineConfig) -> list[str]:
        """See `EngineConfig.labels`: the agent comes first."""
        is_usual = isinstance(usual, PopulationConfig) and usual.agent == self.agent
        return [*([] if is_usual else [self.agent]), *super().labels(usual)]

    def task(self) -> tuple[str, Mapping[str, Any]]:
        """See `EngineConfig.task`."""
        return learner.TASK, self.learner_config().to_json()

    def learner_config(self) -> learner.LearnerConfig:
        """Return the agent and environments of each member. Subclasses implement it."""
        raise NotImplementedError

    def in_environment(
        self,
        env_id: str,
        preset: str = "a3c2016",
        clip_rewards: bool = False,
        reward_scale: float = 1.0,
    ) -> learner.LearnerConfig:
        """Return the agent and environments of each member, for `learner_config`.

        Args:
            env_id: Any id that `envs.make.make_vec` takes.
            preset: Protocol of an Atari game; other environments ignore it.
            clip_rewards: Whether members learn from rewards clipped to [-1, 1].
            reward_scale: Factor of the rewards that members learn from.
        """
        return learner.LearnerConfig(
            env_id=env_id,
            num_envs=self.num_envs,
            preset=preset,
            agent=self.agent,
            settings=self.settings,
            ppo_settings=self.ppo_settings,
            auxiliary=self.auxiliary,
            feudal_settings=self.feudal_settings,
            clip_rewards=clip_rewards,
            reward_scale=reward_scale,
            device=self.device,
        )

    def search_space(self) -> space.Space:
        """See `EngineConfig.search_space`."""
        dimensions = self.log_uniform(("learning_rate", "entropy_cost"))
        dimensions |= self._whole("unroll_length")
        if self.agent == "feudal":
            dimensions |= self.log_uniform(("intrinsic_cost",))
        default = tuple(dimensions)
        if self.agent in ("ppo", "unreal-ppo"):
            dimensions |= self.log_uniform(("clip_range",)) | self._whole("epochs")
        if self.agent in ("unreal", "unreal-ppo"):
            dimensions |= self.log_uniform(unreal.COSTS)
        for flag, names in (("--adapt", self.adapt or ()), ("--fixed", parse_fixed(self.fixed))):
            for name in names:
                if name in typing.get_args(Hyperparameter) and name not in dimensions:
                    raise ValueError(
                        f"{flag} {name}: the agent {self.agent!r} has {', '.join(dimensions)}; "
                        "--agent unreal has the auxiliary costs too, --agent ppo clip_range and "
                        "epochs, --agent feudal intrinsic_cost"
                    )
        return self.adapted(dimensions, default)

    def _whole(self, name: str) -> dict[str, space.Dimension]:
        range_: Range = getattr(self, name)
        flag = f"--{name.replace('_', '-')}"
        for part, value in (("prior", range_.prior), ("bounds", range_.bounds)):
            if any(not math.isfinite(end) or end != round(end) for end in value):
                raise ValueError(f"{flag}.{part} {value}: use two whole numbers")
        (low, high), (least, most) = range_.prior, range_.bounds
        if low == high:
            return {name: space.Constant(low)}
        with space.named(name):
            reach = (int(least), int(most))
            return {name: space.IntUniform(int(low), int(high), reach, log=True)}

    def run_config(self) -> run.RunConfig:
        """See `EngineConfig.run_config`."""
        found = super().run_config()
        with _named_as_flags():
            return dataclasses.replace(
                found,
                # The first episodes to finish of n parallel ones are the shortest.
                min_episodes=max(10, 2 * self.num_envs),
                step_multiple=self.num_envs,
            )


@contextlib.contextmanager
def _named_as_flags() -> Iterator[None]:
    """Let errors of `RunConfig`, which begin with a field's name, name the flags of its fields."""
    names = [entry.name for entry in dataclasses.fields(run.RunConfig)]
    longer = [name for name in names if "_" in name]  # the others are words as well
    pattern = rf"^(?:{'|'.join(names)})\b|\b(?:{'|'.join(longer)})\b"
    try:
        yield
    except ValueError as error:
        said = re.sub(pattern, lambda name: f"--{name[0].replace('_', '-')}", str(error))
        raise ValueError(said) from None


def check_workers(workers: int | None) -> None:
    """Refuse a number of workers below 1; None is the default.

    Raises:
        ValueError: One line with the value given and the values allowed.
    """
    if workers is not None and workers < 1:
        raise ValueError(f"--workers {workers}: use 1 or more, or leave it out for all cores")


def check_places(store_url: str | None, checkpoints: str | None) -> None:
    """Refuse a place of a run's store or checkpoints that cannot be used; None is the default.

    Raises:
        ValueError: One line with the way out. It repeats no password and no key.
    """
    for flag, check, url in (
        ("--store", store.check_url, store_url),
        ("--checkpoints", storage.check_url, checkpoints),
    ):
        try:
            check(url)
        except ValueError as error:
            raise ValueError(f"{flag}: {error}") from None


def parse_fixed(fixed: Sequence[str], flag: str = "--fixed") -> dict[str, float]:
    """Parse values of hyperparameters: {"learning_rate": 7e-4} from "learning_rate=7e-4".

    Args:
        fixed: The values as given.
        flag: The flag that they were given with, for messages.

    Raises:
        ValueError: A value is not name=number, or the learner cannot use it; or a name is given
            twice.
    """
    values: dict[str, float] = {}
    for item in fixed:
        name, _, text = item.partition("=")
        try:
            value = float(text)
        except ValueError:
            raise ValueError(
                f"{flag} {item}: write name=number, for example learning_rate=7e-4"
            ) from None
        if name in values:
            raise ValueError(f"{flag} {item}: {name} is given twice, give it once")
        wanted = schedule.problem(name, value)
        if name in schedule.WHOLE and (wanted or value % 1):
            wanted = "a whole number from 1 on"
        if wanted:
            raise ValueError(f"{flag} {item}: use {wanted}, up to {schedule.HIGHEST:g}")
        values[name] = value
    return values
