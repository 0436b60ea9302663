"""Controlled comparisons: the same worlds, draws and budget, one thing different.

    python -m experiments.study random-search                 # PBT against random search, 10 seeds
    python -m experiments.study random-search --seeds 2 --out results/mine

Each arm and seed is an ordinary run directory under --run-dir, so a study resumes like any run.
The world, the budget, the priors and the statistics of a study are the constants below: they are
fixed before it runs.

**random-search**: PBT against `--exploit none`, which is random search with equal budget through
the same code. Within a seed both arms begin with the same draws and the same weights. The score of
a run is the mean of 30 fresh episodes of the member chosen by its training score. Reported: paired
differences, their mean with a 95 % bootstrap interval over seeds, and the probability of
improvement P(PBT > random search) over pairs of runs (Agarwal et al. 2021,
https://arxiv.org/abs/2108.13264). Random search as in section 4 of the PBT paper.
"""

import csv
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import scipy.stats
import tyro
from matplotlib.figure import Figure

from envs import make
from experiments import config, evaluate, gym, launch, learner
from pbt import local, store

EVALUATION_EPISODES = 30
EVALUATION_SEED = 1_000
"""Plus the run's seed: no world of training has it."""

RANDOM_SEARCH = gym.GymConfig(
    env="CartPole-v1",
    population=8,
    num_envs=16,
    total_steps=40_000,
    report_interval=2_000,
    ready_interval=4_000,
    # Five decades: most draws learn nothing, as if one knew nothing about the world.
    learning_rate=config.Range((1e-5, 1.0), (1e-7, 10.0)),
    entropy_cost=config.Range((1e-4, 1e-1), (1e-6, 1.0)),
    unroll_length=config.Range((2, 32), (1, 50)),
)
"""Short enough that random search's best stays below the maximum, a return of 500: pilots of random
search with seeds 97 to 99, which the study does not use, reached it in 2 of 3 runs of 64,000 steps
per member, and scored 111 and 319 after 32,000."""

ARMS: dict[str, gym.GymConfig] = {
    "pbt": RANDOM_SEARCH,
    "random-search": dataclasses.replace(RANDOM_SEARCH, exploit="none"),
}


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Run a study, or go on with it."""

    name: tyro.conf.Positional[Literal["random-search"]]
    """Which study."""
    seeds: int = 10
    """Paired repetitions: seeds 0, 1, ..."""
    workers: int = 1
    """Processes per run. With 1 a run repeats exactly; with more, timing decides who meets whom."""
    run_dir: Path = Path("results/runs")
    """Where run directories are made."""
    out: Path | None = None
    """Where the results go; default: results/runs/study-<name>."""

    def __post_init__(self) -> None:
        if self.seeds < 2:
            raise ValueError(f"--seeds {self.seeds}: use 2 or more, an interval needs them")
        if self.workers < 1:
            raise ValueError(f"--workers {self.workers}: use 1 or more")


@dataclasses.dataclass(frozen=True)
class Row:
    """One run of one arm."""

    arm: str
    seed: int
    member: int
    """Chosen by training score."""
    training_score: float
    """Biased upward: it chose the member."""
    score: float
    """Mean of fresh episodes."""
    agent_steps: int
    """Of all members together."""
    copies: int
    """Exploits in the run."""


def run_arm(arm: str, seed: int, run_dir: Path, workers: int) -> Row:
    """Train one run to its end, or read it if it is there, and evaluate its best member.

    Raises:
        ValueError: the directory holds a run with other settings, or the run did not finish.
    """
    settings = dataclasses.replace(ARMS[arm], seed=seed)
    run_config = settings.run_config(
        learner.LearnerConfig(settings.env, settings.num_envs, settings=settings.agent_config())
    )
    launch.open_or_create(run_dir, run_config, fork=None)
    if exit_code := local.run(run_dir, workers, say=lambda line: None):
        raise SystemExit(exit_code)
    with store.Store.open(run_dir) as run_store:
        members = run_store.members()
        best, training_score = evaluate.best_member(run_store)
        played = evaluate.evaluate(
            run_store, run_dir, best, EVALUATION_EPISODES, EVALUATION_SEED + seed
        )
        return Row(
            arm=arm,
            seed=seed,
            member=best.id,
            training_score=training_score,
            score=played.mean,
            agent_steps=sum(member.agent_steps for member in members),
            copies=sum(event.kind == "exploit" for event in run_store.events()),
        )


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What two paired arms say about each other."""

    differences: tuple[float, ...]
    """Score of the first arm minus that of the second, per seed."""
    mean: float
    interval: tuple[float, float]
    """95 % bootstrap interval of the mean over seeds (percentile, 10,000 resamples)."""
    probability_of_improvement: float
    """P(X > Y) + P(X = Y) / 2 over all pairs of runs of the two arms."""
    probability_interval: tuple[float, float]
    """95 % bootstrap interval, resampling the runs of each arm."""


def compare(first: Sequence[float], second: Sequence[float]) -> Comparison:
    """Compare the scores of two arms, paired by seed."""
    x, y = np.array(first), np.array(second)
    differences = x - y
    interval = scipy.stats.bootstrap(
        (differences,),
        np.mean,
        n_resamples=10_000,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    rng = np.random.default_rng(0)
    resampled = [_improvement(rng.choice(x, len(x)), rng.choice(y, len(y))) for _ in range(10_000)]
    low, high = np.quantile(resampled, [0.025, 0.975])
    return Comparison(
        differences=tuple(float(difference) for difference in differences),
        mean=float(differences.mean()),
        interval=(float(interval.low), float(interval.high)),
        probability_of_improvement=_improvement(x, y),
        probability_interval=(float(low), float(high)),
    )


def _improvement(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.mean((x[:, None] > y) + 0.5 * (x[:, None] == y)))


def figure(rows: Sequence[Row], comparison: Comparison, title: str) -> Figure:
    """Scores of both arms, paired by seed, and the paired differences."""
    drawn = Figure(figsize=(9, 4), layout="constrained")
    scores, paired = drawn.subplots(1, 2, width_ratios=(3, 2))
    arms = list(ARMS)
    by_seed = {
        seed: [r for arm in arms for r in rows if (r.arm, r.seed) == (arm, seed)]
        for seed in sorted({row.seed for row in rows})
    }
    for pair in by_seed.values():
        scores.plot([0, 1], [row.score for row in pair], color="0.75", linewidth=1, zorder=1)
    for x, (arm, colour) in enumerate(zip(arms, ("#0072b2", "#d55e00"), strict=True)):
        values = [row.score for row in rows if row.arm == arm]
        scores.scatter([x] * len(values), values, color=colour, zorder=2)
        scores.hlines(np.mean(values), x - 0.15, x + 0.15, color=colour, linewidth=3)
    scores.set_xticks([0, 1], arms)
    scores.set_xlim(-0.5, 1.5)
    scores.set_ylabel(f"mean of {EVALUATION_EPISODES} fresh episodes")
    scores.set_title(title, loc="left", fontsize=10)
    paired.axhline(0, color="0.6", linewidth=1)
    paired.scatter(range(len(comparison.differences)), comparison.differences, color="0.3")
    paired.axhspan(*comparison.interval, color="#0072b2", alpha=0.15, label="95 % interval")
    paired.axhline(comparison.mean, color="#0072b2", linewidth=2, label="mean")
    paired.set_xlabel("seed")
    paired.set_ylabel(f"{arms[0]} minus {arms[1]}")
    count = len(comparison.differences)
    paired.set_title(f"paired differences, n = {count}", loc="left", fontsize=10)
    paired.legend(frameon=False, fontsize=8)
    for axes in (scores, paired):
        axes.spines[["top", "right"]].set_visible(False)
    return drawn


def summary(rows: Sequence[Row], comparison: Comparison) -> str:
    """The result in words and a table, in Markdown."""
    first, second = ARMS
    settings = ARMS[first]
    low, high = comparison.interval
    p_low, p_high = comparison.probability_interval
    lines = [
        f"# {first} against {second}",
        "",
        f"{make.protocol(settings.env)}; {settings.population} members, "
        f"{settings.total_steps:,} agent steps each; learning rate log-uniform in "
        f"{settings.learning_rate.prior}, entropy cost in {settings.entropy_cost.prior}, unroll "
        f"length in {settings.unroll_length.prior}; ready every {settings.ready_interval:,} agent "
        f"steps. Score: mean of {EVALUATION_EPISODES} fresh episodes (raw returns) "
        "of the member with the highest training score.",
        "",
        f"- paired difference: mean {comparison.mean:.1f}, 95 % interval {low:.1f} to {high:.1f} "
        f"(n = {len(comparison.differences)} seeds)",
        f"- P({first} > {second}) = {comparison.probability_of_improvement:.2f}, 95 % interval "
        f"{p_low:.2f} to {p_high:.2f}",
        "",
        "| arm | seed | member | training score | score | copies |",
        "|---|---|---|---|---|---|",
        *(
            f"| {r.arm} | {r.seed} | {r.member} | {r.training_score:.1f} | {r.score:.1f} "
            f"| {r.copies} |"
            for r in rows
        ),
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Parse the command line, run what is missing, compare."""
    try:
        arguments = tyro.cli(Arguments, description=__doc__)
        rows = []
        for seed in range(arguments.seeds):
            for arm in ARMS:
                run_dir = arguments.run_dir / f"study-{arguments.name}-{arm}-{seed}"
                rows.append(run_arm(arm, seed, run_dir, arguments.workers))
                print(f"{arm}, seed {seed}: {rows[-1].score:.1f}", flush=True)
    except (ValueError, store.StoreError, OSError) as error:
        config.fail(" ".join(str(error).split()))
    scores = {arm: [row.score for row in rows if row.arm == arm] for arm in ARMS}
    comparison = compare(*scores.values())
    out = arguments.out or arguments.run_dir / f"study-{arguments.name}"
    out.mkdir(parents=True, exist_ok=True)
    with (out / "scores.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in dataclasses.fields(Row)])
        writer.writeheader()
        writer.writerows(dataclasses.asdict(row) for row in rows)
    (out / "summary.md").write_text(summary(rows, comparison))
    title = f"{make.protocol(ARMS['pbt'].env)}, {ARMS['pbt'].total_steps:,} steps per member"
    figure(rows, comparison, title).savefig(out / "comparison.png", dpi=160)
    sys.stdout.write(summary(rows, comparison))


if __name__ == "__main__":
    main()
