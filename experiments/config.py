"""Settings of the population experiments: one frozen dataclass, presets as instances of it.

Parsed from the command line by tyro: every field is a flag, every docstring its help.
"""

import argparse
import dataclasses
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, TypeVar

import tyro

from agents import a3c, unreal
from experiments import command, learner, schedule
from pbt import local, run, space

Hyperparameter = Literal[
    "learning_rate",
    "entropy_cost",
    "unroll_length",
    "pixel_control_cost",
    "reward_prediction_cost",
    "value_replay_cost",
]
_FIXED: Mapping[str, tuple[Callable[[float], bool], str]] = {
    "learning_rate": (lambda value: value > 0, "a number above 0"),
    "entropy_cost": (lambda value: value >= 0, "0 or more"),
    "unroll_length": (lambda value: value >= 1 and value % 1 == 0, "a whole number from 1 on"),
    **{name: (lambda value: value >= 0, "0 or more") for name in unreal.COSTS},
}
"""What a fixed hyperparameter may be; bounds are for those that move."""


@dataclasses.dataclass(frozen=True)
class Range:
    """Where a hyperparameter is drawn, and how far perturbing may take it."""

    prior: tuple[float, float]
    """Log-uniform between these; twice the same number is a constant."""
    bounds: tuple[float, float]
    """Perturbing stays between these; must contain the prior."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PopulationConfig:
    """A population of actor-critic agents. Counts are agent steps *per member*.

    Checked by `check` and not at construction: tyro would wrap our one line into a box.
    """

    preset: Literal["default", "quick", "paper"] = "default"
    """Where all other flags start from; see the description above for those there are."""
    agent: Literal["a3c", "unreal"] = "a3c"
    """Which agent; "unreal" learns from replay and pixels too, at more than twice the cost."""
    core: Literal["lstm", "feedforward"] = "lstm"
    """Whether the agent remembers."""
    package: Literal["batched", "paper"] = "batched"
    """Optimiser, loss scale, clipping, initialisation: go together; see agents/optimiser.py."""
    population: int = 8
    """Members."""
    workers: int | None = None
    """Worker processes; default: one per core, at most one per member. May differ on resume."""
    total_steps: int = 2_000_000
    """Agent steps of each member, exact; a multiple of num_envs."""
    report_interval: int = 20_000
    """Agent steps between two commits to the store; a multiple of num_envs."""
    ready_interval: int = 100_000
    """Agent steps between two looks at the rest of the population; a multiple of num_envs."""
    num_envs: int = 16
    """Worlds that each member steps together."""
    exploit: run.Exploit = "t-test"
    """Whom to copy; "none" is random search with equal budget."""
    explore: Literal["perturb", "resample", "none"] = "perturb"
    """How hyperparameters change after a copy: times 0.8 or 1.2 each; "resample" also draws each
    anew from its prior with probability 0.25."""
    copy: run.Copy = "both"
    """What is copied from the better member."""
    significance: float = 0.05
    """Two-sided level of the t-test."""
    learning_rate: Range = Range((1e-3, 1e-2), (1e-5, 1e-1))
    """Of RMSProp."""
    entropy_cost: Range = Range((1e-3, 2e-2), (1e-5, 1.0))
    """Weight of the policy's entropy in the loss."""
    unroll_length: Range = Range((5, 20), (1, 50))
    """Steps of all worlds per update. Real-valued inside, rounded where it is used."""
    pixel_control_cost: Range = Range((1e-4, 1e-2), (1e-6, 1.0))
    """UNREAL only: weight of its pixel control loss; 0 by --fixed switches the task off."""
    reward_prediction_cost: Range = Range((1.0, 1.0), (1e-2, 100.0))
    """UNREAL only: weight of its reward prediction loss, likewise; 1 in the paper."""
    value_replay_cost: Range = Range((1.0, 1.0), (1e-2, 100.0))
    """UNREAL only: weight of its value replay loss, likewise; 1 in the paper."""
    replay_steps: int = 2_000
    """UNREAL only: agent steps that a member keeps, over all its worlds."""
    adapt: tuple[Hyperparameter, ...] | None = None
    """Hyperparameters that exploring changes; default: learning rate, entropy cost and unroll
    length, where they are not fixed. Others keep their first draw, or their donor's."""
    fixed: tuple[str, ...] = ()
    """Hyperparameters that are the same for all members: learning_rate=7e-4 ..."""
    seed: int = 0
    """Every draw and every world derives its own from it."""
    device: str = "cpu"
    """Torch device of the networks."""
    run_dir: Path | None = None
    """Where everything is written; default results/runs/<experiment>-<world>. If a run is there
    already, it goes on."""
    fork: Path | None = None
    """Start a new run from the last weights and hyperparameters of another run directory."""

    def check(self) -> None:
        """Refuse settings that make no sense, alone or together.

        Raises:
            ValueError: one line that says what was given, what is possible and the way out.
        """
        if self.workers is not None and self.workers < 1:
            raise ValueError(
                f"--workers {self.workers}: use 1 or more, or leave it out for all cores"
            )
        if self.num_envs < 1:
            raise ValueError(f"--num-envs {self.num_envs}: use 1 or more")
        self.search_space()
        self.auxiliary_config()

    def num_workers(self) -> int:
        """Worker processes to start on this machine."""
        return self.workers or min(local.available_cores(), self.population)

    def search_space(self) -> space.Space:
        """Priors, bounds and adapted names as the engine takes them."""
        unroll = self.unroll_length
        for name, value in (("prior", unroll.prior), ("bounds", unroll.bounds)):
            if any(not math.isfinite(end) or end != round(end) for end in value):
                raise ValueError(f"--unroll-length.{name} {value}: use two whole numbers")
        with space.named("unroll_length"):
            unroll_length = space.IntUniform(
                int(unroll.prior[0]),
                int(unroll.prior[1]),
                (int(unroll.bounds[0]), int(unroll.bounds[1])),
                log=True,
            )
        dimensions: dict[str, space.Dimension] = {}
        dimensions |= self._log_uniform(("learning_rate", "entropy_cost"))
        dimensions["unroll_length"] = unroll_length
        adapt: tuple[str, ...] = tuple(dimensions) if self.adapt is None else self.adapt
        if self.agent == "unreal":
            dimensions |= self._log_uniform(unreal.COSTS)
        fixed = parse_fixed(self.fixed)
        for flag, names in (("--adapt", adapt), ("--fixed", fixed)):
            for name in names:
                if name in unreal.COSTS and self.agent != "unreal":
                    raise ValueError(
                        f"{flag} {name}: the agent {self.agent!r} has "
                        f"{', '.join(dimensions)}; --agent unreal has the auxiliary costs too"
                    )
        for name in self.adapt or ():
            if name in fixed:
                raise ValueError(
                    f"--adapt {name}: --fixed {name}={fixed[name]:g} holds it; leave one out"
                )
        return space.Space(dimensions, adapt).fix(fixed)

    def _log_uniform(self, names: Sequence[str]) -> dict[str, space.Dimension]:
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

    def longest_unroll(self) -> int:
        """The largest unroll length that a member can come to have."""
        searched = self.search_space()
        unroll = searched.dimensions["unroll_length"]
        if isinstance(unroll, space.IntUniform):
            return int(unroll.reach[1]) if "unroll_length" in searched.adapt else unroll.high
        assert isinstance(unroll, space.Constant)
        return int(unroll.value)

    def run_config(self, learner_config: learner.LearnerConfig) -> run.RunConfig:
        """What the engine stores: these settings without those that may differ on resume."""
        return run.RunConfig(
            task=learner.TASK,
            task_config=learner_config.to_json(),
            space=self.search_space(),
            population=self.population,
            total_steps=self.total_steps,
            report_interval=self.report_interval,
            ready_interval=self.ready_interval,
            exploit=self.exploit,
            explore=self.explore,
            copy=self.copy,
            significance=self.significance,
            seed=self.seed,
            # The first episodes to finish of n parallel ones are the shortest.
            min_episodes=max(10, 2 * self.num_envs),
            step_multiple=self.num_envs,
        )

    def agent_config(self) -> a3c.A3CConfig:
        """The agent's fixed settings."""
        return a3c.A3CConfig(core=self.core, package=self.package)

    def auxiliary_config(self) -> unreal.UNREALConfig:
        """The fixed settings of UNREAL's auxiliary tasks."""
        return unreal.UNREALConfig(replay_steps=self.replay_steps)


Config = TypeVar("Config", bound=PopulationConfig)


def parse(
    presets: Mapping[str, Config], description: str, args: Sequence[str] | None = None
) -> Config:
    """Parse the command line over the preset it names; exits with code 2 on bad input."""
    args = list(sys.argv[1:] if args is None else args)
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--preset", default="default")
    name = finder.parse_known_args(args)[0].preset
    if name not in presets:
        command.fail(f"--preset {name}: choose from {', '.join(presets)}")
    default = presets[name]
    settings = tyro.cli(
        type(default),
        default=default,
        args=args,
        prog=f"python -m experiments.{Path(sys.argv[0]).stem}",
        description=description,
    )
    try:
        settings.check()
    except ValueError as error:
        command.fail(str(error))
    return settings


def parse_fixed(fixed: Sequence[str], flag: str = "--fixed") -> dict[str, float]:
    """{"learning_rate": 7e-4} from ["learning_rate=7e-4"], which were given with a flag.

    Raises:
        ValueError: not name=number, a name twice, or a value that the learner cannot use.
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
        if name in _FIXED and not (_FIXED[name][0](value) and value <= schedule.HIGHEST):
            raise ValueError(f"{flag} {item}: use {_FIXED[name][1]}, up to {schedule.HIGHEST:g}")
        values[name] = value
    return values
