"""The studies as data: which arms each one compares, in which world, with which budget.

World, budget, prior and hand-tuned setting of the default world are the constants below: they were
fixed after pilots with seeds from 90 on, which no study uses, and before the studies' runs.

**Default world: RepeatPrevious** (`envs/toy.py`): say at every step which of three symbols was
shown two steps before, 12 times per episode; a published test of memory (POPGym, Morad et al. 2023,
https://arxiv.org/abs/2303.01859) at a small size. Why it is a fair one:

- The present symbol says nothing of the answer, so the LSTM is needed: without memory the expected
  return is -4, the best is 12.
- All three hyperparameters matter. Of the grid that tuned the control (results/random-search,
  tuning.csv), an unroll of 4, too short for the gradient to reach what is to be remembered, learned
  nothing, 8 the most, and 16, with half the updates, less; a learning rate of 0.01 was far above
  0.003 and 0.03, in a prior of three decades; the entropy cost matters least.
- Every step but the first two has a reward and every episode is 14 steps long. So windows of ten
  episodes are never older than a slice, long episodes do not lag behind short ones, and ten returns
  can decide a t-test.
- Learning is gradual and not over at the end of the budget: there is room above.
- 960 steps of 32 worlds take one or two seconds of a core: all studies fit into hours. The price is
  that agents, budgets and populations are far smaller than the paper's.

Any other world starts from `experiments.worlds`; flags change budgets.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from experiments import config, presets
from experiments.analysis import schedule
from experiments.studies import defaults, schedules
from pbt import run, space

DEFAULT_ENV = "RepeatPrevious"

REPEAT_PREVIOUS = presets.GymConfig(
    env=DEFAULT_ENV,
    population=8,
    num_envs=32,
    total_steps=30_720,
    # 48 steps of all worlds. A window needs 64 counted episodes; those that run when a member
    # copies finish uncounted: at most 3 x 14 steps.
    report_interval=1_536,
    ready_interval=1_536,
    learning_rate=config.Range((1e-4, 1e-1), (1e-6, 1.0)),
    entropy_cost=config.Range((1e-4, 1e-1), (1e-6, 1.0)),
    unroll_length=config.Range((2, 32), (1, 64)),
)

TUNED: Mapping[str, tuple[str, ...]] = {
    DEFAULT_ENV: ("learning_rate=0.01", "entropy_cost=0.01", "unroll_length=8"),
    "Pong": ("learning_rate=0.005", "entropy_cost=0.01", "unroll_length=5"),
}
"""Hand-tuned fixed settings.

RepeatPrevious: the best of a grid of learning rate 0.003, 0.01, 0.03, entropy cost 0.001, 0.01 and
unroll length 4, 8, 16, by 30 fresh episodes of one member each with seed 95 at the studies' budget.
These 18 member runs, more than twice those of a run with 8 members, are not charged to it: the
control is favoured. Pong: `results/atari-pong`."""

Setting = Literal["drawn", "tuned", "middle", "final", "schedule"]


@dataclasses.dataclass(frozen=True)
class Arm:
    """One side of a comparison: the world's settings but for what is named here."""

    name: str
    panel: str = ""
    """Which part of the study it belongs to, where there are several."""
    exploit: run.Exploit = "t-test"
    copy: run.Copy = "both"
    population: int | None = None
    """Members; None: the world's."""
    equal_total: bool = False
    """The world's agent steps of a whole population are shared among the members, however many;
    otherwise each member has the world's steps per member."""
    ready_factor: int = 1
    """Ready so many times less often."""
    setting: Setting = "drawn"
    """Hyperparameters: "drawn" from the prior; otherwise the same for all members: "tuned" by hand;
    the "middle" of the prior; "final" values of the winner of the PBT run with the same seed; or
    that winner's whole "schedule"."""

    @property
    def needs_winner(self) -> bool:
        """Whether a PBT run must have ended before."""
        return self.setting in ("final", "schedule")


PBT = Arm("PBT")
RANDOM_SEARCH = Arm("random search", exploit="none")


@dataclasses.dataclass(frozen=True)
class Study:
    """Arms that are compared, each with the first of its panel's reference."""

    title: str
    question: str
    arms: tuple[Arm, ...]
    reference: str
    """Name of the arm that the others are compared with, in every panel."""
    paper: str
    """Where the paper asks the same, and what it found."""

    @property
    def panels(self) -> tuple[str, ...]:
        """Their names, in order."""
        return tuple(dict.fromkeys(arm.panel for arm in self.arms))


SIZES = (4, 8, 16, 32)
EQUAL_STEPS, EQUAL_TOTAL = "equal steps per member", "equal total steps"

STUDIES: Mapping[str, Study] = {
    "random-search": Study(
        "PBT against random search and a hand-tuned setting",
        "Does PBT find better agents than random search with the same priors and budget?",
        (
            PBT,
            RANDOM_SEARCH,
            Arm("hand-tuned", exploit="none", setting="tuned"),
        ),
        "PBT",
        "Figures 3 and 4: PBT above random search with the same number of workers and the same "
        "priors in each domain; mean human-normalised score 93 % -> 106 % (UNREAL, DM Lab), "
        "147 % -> 181 % (FuN, Atari), 36 % -> 39 % (A3C, StarCraft II).",
    ),
    "population-size": Study(
        "Population size",
        "How many members does PBT need?",
        tuple(
            Arm(f"{size} members", panel, population=size, equal_total=panel == EQUAL_TOTAL)
            for panel in (EQUAL_STEPS, EQUAL_TOTAL)
            for size in SIZES
        ),
        "8 members",
        "Figure 5a (FuN, Atari; equal steps per member): 10 members or fewer have high variance "
        "and lower scores, 20 to 40 improve strongly and consistently, more with diminishing "
        "returns. Equal total steps are ours.",
    ),
    "exploit": Study(
        "Whom to copy",
        "Which exploit strategy is best?",
        (
            PBT,
            Arm("truncation", exploit="truncation"),
            Arm("binary tournament", exploit="binary-tournament"),
            RANDOM_SEARCH,
        ),
        "PBT",
        "Figure 5b (GANs): truncation selection the most robust, above binary tournament; the "
        "t-test was used in reinforcement learning and translation.",
    ),
    "copy": Study(
        "What to copy",
        "Are weights and hyperparameters both needed?",
        (
            PBT,
            Arm("weights only", copy="weights"),
            Arm("hyperparameters only", copy="hyperparameters"),
            Arm("nothing, but explore", copy="none"),
            RANDOM_SEARCH,
        ),
        "PBT",
        "Figure 5c (UNREAL, DM Lab): copying weights only or hyperparameters only falls short of "
        "copying both.",
    ),
    "schedule": Study(
        "Schedule or final values",
        "Is it the schedule that PBT finds, or a good setting that could have been fixed?",
        (
            PBT,
            Arm("final values, fixed", exploit="none", setting="final"),
            Arm("schedule, replayed", exploit="none", setting="schedule"),
            Arm("middle of the prior", exploit="none", setting="middle"),
        ),
        "PBT",
        "Figure 5d (UNREAL, DM Lab): training anew with PBT's final hyperparameters held fixed is "
        "better than the baseline and below PBT. Replaying the whole schedule is ours.",
    ),
    "ready": Study(
        "How often members compare",
        "How often should members be ready?",
        tuple(Arm(f"ready x {factor}", ready_factor=factor) for factor in (1, 2, 4, 8)),
        "ready x 1",
        "No figure. Its intervals were 1e6 to 1e7 agent steps for UNREAL and FuN.",
    ),
}


def base_settings(
    env_id: str, agent: str = "a3c", changes: Mapping[str, int | None] | None = None
) -> config.PopulationConfig:
    """Return the settings that a study's arms start from in an environment.

    Args:
        env_id: Any environment of the suite.
        agent: Any agent of the suite.
        changes: Fields of `config.PopulationConfig` to change; None leaves a field as it is.

    Raises:
        ValueError: There is no such environment or agent, or the settings make no sense.
    """
    settings = defaults.defaults(env_id, agent)
    if settings.learner_config().env_id == DEFAULT_ENV:
        settings = dataclasses.replace(REPEAT_PREVIOUS, agent=settings.agent)
    given: dict[str, Any] = {f: value for f, value in (changes or {}).items() if value is not None}
    settings = dataclasses.replace(settings, **given)
    settings.check()
    return settings


def arm_config(
    arm: Arm,
    base: config.PopulationConfig,
    seed: int,
    tuned: tuple[str, ...] | None,
    winner: schedule.Schedule | None,
) -> run.RunConfig:
    """Return what the engine is told of an arm's run.

    Args:
        arm: The arm.
        base: From `base_settings`.
        seed: Seed of the run. Arms with the same seed begin with the same draws and weights.
        tuned: The hand-tuned setting, for the arm that needs it.
        winner: Schedule that the PBT run with this seed found, for arms that need it.
    """
    population = arm.population or base.population
    total_steps = base.total_steps
    if arm.equal_total:
        total_steps = base.total_steps * base.population // population
        total_steps -= total_steps % base.num_envs
    settings = dataclasses.replace(
        base,
        seed=seed,
        population=population,
        total_steps=total_steps,
        report_interval=min(base.report_interval, total_steps),
        ready_interval=base.ready_interval * arm.ready_factor,
        exploit=arm.exploit,
        copy=arm.copy,
    )
    match arm.setting:
        case "drawn":
            return settings.run_config()
        case "tuned":
            assert tuned is not None  # such an arm is left out
            return dataclasses.replace(settings, fixed=tuned).run_config()
        case "middle":
            return dataclasses.replace(settings, fixed=middle(settings)).run_config()
        case "final":
            assert winner is not None
            return schedules.freeze(settings.run_config(), winner, population)
        case "schedule":
            assert winner is not None
            return schedules.follow(settings.run_config(), winner, population)


def middle(settings: config.PopulationConfig) -> tuple[str, ...]:
    """The median of each hyperparameter's prior, as fixed values: what the prior alone advises."""
    found = []
    for name, dimension in settings.search_space().dimensions.items():
        if isinstance(dimension, space.LogUniform):
            value: float = (dimension.low * dimension.high) ** 0.5
        elif isinstance(dimension, space.IntUniform):
            value = dimension.used((dimension.low * dimension.high) ** 0.5)
        else:
            continue  # fixed already
        found.append(f"{name}={value:.6g}")
    return (*settings.fixed, *found)
