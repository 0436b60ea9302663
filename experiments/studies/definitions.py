"""The studies as data: the arms that each compares, and settings and budget of the environment.

The default environment's settings are constants below. They were fixed after pilots with seeds from
90 on, which no study uses, and before the studies' runs. results/random-search/environment.md gives
the reasons. Any other environment starts from `experiments.studies.defaults`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from agents import transformer
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
    # 48 steps of all environments. A window needs 64 counted episodes; those that run when a member
    # copies finish uncounted, which takes at most 3 x 14 steps.
    report_interval=1_536,
    ready_interval=1_536,
    learning_rate=config.Range((1e-4, 1e-1), (1e-6, 1.0)),
    entropy_cost=config.Range((1e-4, 1e-1), (1e-6, 1.0)),
    unroll_length=config.Range((2, 32), (1, 64)),
)

PONG_PPO = dataclasses.replace(
    presets.ATARI["default"]["ppo"],
    game="Pong",
    population=4,
    num_envs=8,
    total_steps=256_000,
    report_interval=5_120,
    # A window needs 16 counted games, about 20,000 agent steps.
    ready_interval=15_360,
    # Wide: the best learning rate may be anywhere in three decades.
    learning_rate=config.Range((1e-5, 1e-2), (1e-6, 1e-1)),
    entropy_cost=config.Range((1e-3, 1e-1), (1e-5, 1.0)),
    unroll_length=config.Range((8, 32), (1, 64)),
)

BREAKOUT_PPO = dataclasses.replace(
    PONG_PPO, game="Breakout", total_steps=512_000, report_interval=10_240, ready_interval=30_720
)

_NO_DROPOUT = tuple(f"{kind}=0.001" for kind in transformer.DROPOUTS)

TRANSLATION = dataclasses.replace(
    presets.TRANSLATION["default"]["translator"],
    report_interval=50,
    ready_interval=50,
    evaluation_interval=50,
    exploit="truncation",
    # A good learning rate falls by an order of magnitude or more, within 24 comparisons.
    perturb_factors=(0.5, 2.0),
    # No sentence comes twice within the budget, so dropout only slows learning.
    fixed=_NO_DROPOUT,
)

STUDIED: Mapping[tuple[str, str | None], config.EngineConfig] = {
    ("Pong", "ppo"): PONG_PPO,
    ("Breakout", "ppo"): BREAKOUT_PPO,
    ("translation", None): TRANSLATION,
}
"""Settings and budget by environment and agent, where a study has its own."""

TUNED: Mapping[tuple[str, str | None], tuple[str, ...]] = {
    (DEFAULT_ENV, "a3c"): ("learning_rate=0.01", "entropy_cost=0.01", "unroll_length=8"),
    ("Pong", "a3c"): ("learning_rate=0.005", "entropy_cost=0.01", "unroll_length=5"),
    ("translation", None): ("learning_rate=0.001", *_NO_DROPOUT),
}
"""Hand-tuned fixed settings by environment and agent: see results/random-search/environment.md,
results/atari-pong and results/translation/tuning.csv."""

DECAYED: Mapping[tuple[str, str | None], tuple[str, ...]] = {
    ("translation", None): ("learning_rate=0.002", *_NO_DROPOUT),
}
"""First values of hand-tuned linear decays, by environment and agent."""

Setting = Literal["drawn", "tuned", "decay", "middle", "final", "schedule"]


@dataclasses.dataclass(frozen=True)
class Arm:
    """One side of a comparison, as differences from the environment's settings."""

    name: str
    panel: str = ""
    """Part of the study that the arm belongs to, if there are several."""
    exploit: run.Exploit | None = None
    """How members choose whom to copy. None: as in the environment's settings."""
    copy: run.Copy = "both"
    explore: Literal["perturb", "resample", "none"] | None = None
    """How hyperparameters change after a copy. None: as in the environment's settings."""
    perturb_factors: tuple[float, ...] | None = None
    """Factors that perturb hyperparameters. None: the environment's."""
    explore_at: run.ExploreAt | None = None
    """When hyperparameters change. None: as in the environment's settings."""
    population: int | None = None
    """Number of members. None: the environment's."""
    equal_total: bool = False
    """Whether the members share the agent steps of the environment's whole population. Otherwise
    each member has the environment's steps per member."""
    ready_factor: int = 1
    """Factor of the environment's ready interval."""
    setting: Setting = "drawn"
    """Source of the hyperparameters.

    "drawn": each member draws from the prior. "tuned": the hand-tuned setting. "decay": a
    hand-tuned setting whose learning rates fall linearly to zero. "middle": the middle of the
    prior. "final": last values of the winner of the PBT run with the same seed. "schedule": the
    whole schedule of that winner. All but "drawn" are the same for all members."""

    @property
    def needs_winner(self) -> bool:
        """Whether the PBT run with the same seed must have ended before."""
        return self.setting in ("final", "schedule")


PBT = Arm("PBT")
RANDOM_SEARCH = Arm("random search", exploit="none")


@dataclasses.dataclass(frozen=True)
class Study:
    """Arms that are compared with the reference of their panel."""

    title: str
    question: str
    arms: tuple[Arm, ...]
    reference: str
    """Name of the arm that the others of its panel are compared with."""
    paper: str
    """Figure of the paper that asks the same, and its finding."""

    @property
    def panels(self) -> tuple[str, ...]:
        """Names of the panels, in order."""
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
            Arm("hand-tuned decay", exploit="none", setting="decay"),
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
            Arm("t-test", exploit="t-test"),
            Arm("truncation", exploit="truncation"),
            Arm("binary tournament", exploit="binary-tournament"),
            RANDOM_SEARCH,
        ),
        "t-test",
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
    "explore": Study(
        "How to explore",
        "By how much should hyperparameters change after a copy, and must they?",
        (
            PBT,
            Arm("factors 0.8 and 1.2", explore="perturb", perturb_factors=(0.8, 1.2)),
            Arm("factors 0.5 and 2", explore="perturb", perturb_factors=(0.5, 2.0)),
            Arm("resample or perturb", explore="resample"),
            Arm("whenever ready", explore_at="ready"),
            Arm("not at all", explore="none"),
            RANDOM_SEARCH,
        ),
        "PBT",
        "No figure. Section 4.1: factors of 0.8 or 1.2, or a new draw from the prior; section 4.3, "
        "for GANs: 0.5 or 2.",
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
    env_id: str, agent: str | None = None, changes: Mapping[str, int | None] | None = None
) -> config.EngineConfig:
    """Return the settings that a study's arms start from in an environment.

    Args:
        env_id: Any environment of the suite, "translation" or "gan".
        agent: Any agent of the suite; default: A3C in environments.
        changes: Fields of the settings to change; None leaves a field as it is.

    Raises:
        ValueError: There is no such environment or agent, or the settings do not fit.
    """
    settings = defaults.base(env_id, agent)
    learner = agent_of(settings)
    studied = STUDIED.get((settings.name(), learner), settings)
    if isinstance(studied, presets.AtariConfig) and isinstance(settings, presets.AtariConfig):
        studied = dataclasses.replace(studied, game=settings.game)  # the id says the protocol
    settings = studied
    if settings.name() == DEFAULT_ENV:
        settings = dataclasses.replace(REPEAT_PREVIOUS, agent=learner)  # type: ignore[arg-type]
    given: dict[str, Any] = {f: value for f, value in (changes or {}).items() if value is not None}
    for name in given.keys() - {field.name for field in dataclasses.fields(settings)}:
        raise ValueError(f"--{name.replace('_', '-')}: {env_id} has no such setting, leave it out")
    settings = dataclasses.replace(settings, **given)
    settings.check()
    return settings


def agent_of(settings: config.EngineConfig) -> str | None:
    """Return the agent of a population's members, or None if they are no agents."""
    return getattr(settings, "agent", None)


def arm_config(
    arm: Arm,
    base: config.EngineConfig,
    seed: int,
    tuned: tuple[str, ...] | None,
    winner: schedule.Schedule | None,
    decay: tuple[str, ...] | None = None,
) -> run.RunConfig:
    """Return the engine's settings of an arm's run.

    Args:
        arm: The arm.
        base: Settings from `base_settings`.
        seed: Seed of the run. Arms with the same seed begin with the same draws and weights.
        tuned: The hand-tuned setting, for the arm that needs it.
        winner: Schedule that the PBT run with this seed found, for arms that need it.
        decay: First values of the hand-tuned linear decay, for the arm that needs it.
    """
    population = arm.population or base.population
    total_steps = base.total_steps
    if arm.equal_total:
        total_steps = base.total_steps * base.population // population
        total_steps -= total_steps % base.run_config().step_multiple
    settings = dataclasses.replace(
        base,
        seed=seed,
        population=population,
        total_steps=total_steps,
        report_interval=min(base.report_interval, total_steps),
        ready_interval=base.ready_interval * arm.ready_factor,
        exploit=arm.exploit or base.exploit,
        copy=arm.copy,
        explore=arm.explore or base.explore,
        explore_at=arm.explore_at or base.explore_at,
        perturb_factors=arm.perturb_factors or base.perturb_factors,
    )
    match arm.setting:
        case "drawn":
            return settings.run_config()
        case "tuned":
            assert tuned is not None  # such an arm is left out
            return dataclasses.replace(settings, fixed=tuned).run_config()
        case "decay":
            assert decay is not None  # such an arm is left out
            values = config.parse_fixed(decay, "--decay")
            falling = schedules.linear_decay(values, total_steps)
            return schedules.follow(settings.run_config(), falling, population)
        case "middle":
            return dataclasses.replace(settings, fixed=middle(settings)).run_config()
        case "final":
            assert winner is not None
            return schedules.freeze(settings.run_config(), winner, population)
        case "schedule":
            assert winner is not None
            return schedules.follow(settings.run_config(), winner, population)


def middle(settings: config.EngineConfig) -> tuple[str, ...]:
    """Return the median of each hyperparameter's prior, as fixed values."""
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
