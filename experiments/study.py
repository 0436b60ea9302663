"""Controlled comparisons: the same worlds, draws and budget, one thing different.

    python -m experiments.study random-search --dry-run    # member runs, agent steps, hours
    python -m experiments.study random-search              # PBT, random search, a tuned setting
    python -m experiments.study copy --seeds 5 --world Pong --population 4
    python -m experiments.study all                        # seed by seed

Studies: random-search, population-size, exploit, copy, schedule, ready; `experiments/arms.py` says
which arms each compares, and has the default world, its budget, priors and hand-tuned setting as
constants. On other worlds the suite's defaults for that kind of world apply
(`experiments/worlds.py`), and the arm "hand-tuned" is left out unless `--tuned` gives its setting.

Each arm and seed is an ordinary run directory, named by its settings: arms that are the same are
one run, shared by all studies. The same command again goes on where it was; with more seeds it adds
them; in a second terminal it takes runs that nobody is training. Within a seed all arms begin with
the same draws and weights, as far as they have them. The score of a run is the mean of 30 fresh
episodes of the member chosen by its training score.

Results go to `--out`: study.json (what was done), CSVs with all numbers, and README.md and figures,
which `python -m experiments.report DIR` makes again from the former.
"""

import collections
import dataclasses
import os
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro

from experiments import cli, config, launch
from experiments.analysis import provenance
from experiments.studies import definitions, results, tables
from experiments.studies.plan import Plan
from pbt import store, verdict

Name = Literal["random-search", "population-size", "exploit", "copy", "schedule", "ready", "all"]


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Run a study, or go on with it."""

    name: tyro.conf.Positional[Name]
    """Which study."""
    env: Annotated[str, tyro.conf.arg(aliases=["--world"])] = definitions.DEFAULT_ENV
    """Any environment of the suite: an Atari game, a Gymnasium id, module:EnvId, a toy, ..."""
    agent: str = "a3c"
    """Any agent of the suite."""
    seeds: int = 10
    """Paired repetitions: seeds 0, 1, ..."""
    dry_run: bool = False
    """Only say what would be done, and how long it takes."""
    population: int | None = None
    """Members, where an arm does not say; default: the world's."""
    total_steps: int | None = None
    """Agent steps of each member; default: the world's."""
    report_interval: int | None = None
    """Agent steps between two commits; default: the world's."""
    ready_interval: int | None = None
    """Agent steps between two looks at the others; default: the world's."""
    num_envs: int | None = None
    """Worlds that a member steps together; default: the world's."""
    tuned: tuple[str, ...] | None = None
    """The hand-tuned setting, learning_rate=7e-4 ...; default: the world's, if there is one.
    Nothing after the flag: without that arm."""
    workers: int = 1
    """Processes per run. With 1, which uses one thread, a run repeats exactly; with more, timing
    decides who meets whom."""
    run_dir: Path = Path("results/runs/studies")
    """Where run directories are made: <here>/<world>/<settings>-seed-<seed>."""
    out: Path | None = None
    """Where the results go; default: results/runs/study-<name>, and -<world> if not the default."""

    def check(self) -> None:
        """Refuse what makes no sense, with a ValueError of one line."""
        if self.seeds < 1:
            raise ValueError(f"--seeds {self.seeds}: use 1 or more")
        if self.workers < 1:
            raise ValueError(f"--workers {self.workers}: use 1 or more")
        config.parse_fixed(self.tuned or (), "--tuned")
        if self.run_dir.exists() and not self.run_dir.is_dir():
            raise ValueError(f"--run-dir {self.run_dir} is a file: name a directory")

    @property
    def studies(self) -> tuple[str, ...]:
        """The names of the studies to do."""
        return tuple(definitions.STUDIES) if self.name == "all" else (self.name,)

    def directory(self, study: str) -> Path:
        """Where a study's results go."""
        slug = f"study-{study}"
        if self.env != definitions.DEFAULT_ENV:
            slug += f"-{launch.slug(self.env)}"
        if self.out is None:
            return Path("results/runs") / slug
        return self.out / study if self.name == "all" else self.out


def check_out(out: Path, study: str, world: str) -> None:
    """Say now, not after hours of training, that a study's results cannot go there.

    Raises:
        ValueError: what is in the way, in one line.
    """
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {out} is a file: name a directory")
    there = next(path for path in (out, *out.absolute().parents) if path.exists())
    if not os.access(there, os.W_OK):
        raise ValueError(f"--out {out}: {there} cannot be written to, name another directory")
    known = tables.read_study(out)
    if known is not None and (known["study"], known["world"]) != (study, world):
        raise ValueError(
            f"--out {out} has the results of {known['study']} in {known['world']}: name another "
            "directory"
        )


def finish(plan: Plan, arm: definitions.Arm, seed: int, wait: bool) -> bool:
    """Complete a run and say what came of it; whether it is over."""
    started_s = time.monotonic()
    completed = plan.complete(arm, seed, wait=wait)
    if completed is None:
        print(f"{arm.name}, seed {seed}: another process trains it", flush=True)
        return False
    name, found = completed
    took_s = time.monotonic() - started_s
    print(f"{arm.name}, seed {seed}: {found.score:.2f} ({took_s:.0f} s, {name})", flush=True)
    return True


def collect(plan: Plan, study: str, seeds: int) -> list[results.Result]:
    """All finished runs of a study."""
    return [
        results.Result(arm.panel, arm.name, seed, *found)
        for seed in range(seeds)
        for arm in plan.arms_of(study)
        if (found := plan.done(arm, seed)) is not None
    ]


def write(plan: Plan, study: str, found: Sequence[results.Result], out: Path) -> None:
    """Write a study's results: what was done, the tables, and what follows from them."""
    settings = plan.base
    described = definitions.STUDIES[study]
    results.write(
        out,
        {
            "study": study,
            "title": described.title,
            "question": described.question,
            "paper": described.paper,
            "reference": described.reference,
            "arms": [
                {
                    "panel": arm.panel,
                    "name": arm.name,
                    "settings": describe(arm, plan),
                }
                for arm in plan.arms_of(study)
            ],
            "world": plan.base.learner_config().env_id,
            "agent": settings.agent,
            "settings": {
                "members": settings.population,
                "agent steps per member": settings.total_steps,
                "ready interval": settings.ready_interval,
                "worlds per member": settings.num_envs,
                "learning rate": settings.learning_rate.prior,
                "entropy cost": settings.entropy_cost.prior,
                "unroll length": settings.unroll_length.prior,
            },
            "protocol": found[0].outcome.protocol.rpartition("; ")[0],
            "command": f"python -m experiments.{' '.join(['study', *sys.argv[1:]])}",
            "commit": provenance.commit() or "unknown",
            "run_commits": run_commits(plan.run_dir, {result.run for result in found}),
        },
        found,
    )


def run_commits(run_dir: Path, names: Iterable[str]) -> dict[str, int]:
    """How many runs were trained by which commits; those of several by "a, b"."""
    counted: collections.Counter[str] = collections.Counter()
    for name in names:
        commits = [start.commit or "unknown" for start in provenance.read(run_dir / name)]
        counted[", ".join(dict.fromkeys(commits)) or "unknown"] += 1
    return dict(counted.most_common())


def describe(arm: definitions.Arm, plan: Plan) -> str:
    """An arm's settings, where they differ from the world's, in words."""
    base = plan.base
    match arm.setting:
        case "tuned":
            return f"fixed: {', '.join(plan.tuned or ())}"
        case "middle":
            return f"fixed: {', '.join(definitions.middle(base))}"
        case "final":
            return "fixed: last values of the PBT winner of the same seed"
        case "schedule":
            return "the schedule of the PBT winner of the same seed"
        case "drawn":
            pass
    settings = definitions.arm_config(arm, base, 0, None, None)
    said = [
        f"{settings.population} members x {settings.total_steps:,} agent steps",
        f"exploit {settings.exploit}",
    ]
    if settings.exploit != "none":
        said += [f"copy {settings.copy}", f"ready every {settings.ready_interval:,}"]
    return ", ".join(said)


@cli.quiet
def main() -> None:
    """Parse the command line, run what is missing, write the results."""
    arguments = tyro.cli(Arguments, prog="python -m experiments.study", description=__doc__)
    try:
        arguments.check()
        base = definitions.base_settings(
            arguments.env,
            arguments.agent,
            {
                "population": arguments.population,
                "total_steps": arguments.total_steps,
                "report_interval": arguments.report_interval,
                "ready_interval": arguments.ready_interval,
                "num_envs": arguments.num_envs,
            },
        )
        env_id = base.learner_config().env_id
        tuned = definitions.TUNED.get(env_id) if arguments.tuned is None else arguments.tuned
        for study in arguments.studies:
            check_out(arguments.directory(study), study, env_id)
        env_dir = arguments.run_dir / launch.slug(env_id)
        plan = Plan(base, tuned, env_dir, arguments.workers)
        for arm, _ in plan.jobs(arguments.studies, 1):
            if not arm.needs_winner:
                plan.run_config(arm, 0, None)  # says what does not fit before anything exists
        if not tuned and any(
            arm.setting == "tuned"
            for study in arguments.studies
            for arm in definitions.STUDIES[study].arms
        ):
            print(f"no hand-tuned setting for {arguments.env}: that arm is left out; see --tuned")
        if arguments.dry_run:
            print(plan.estimate(arguments.studies, arguments.seeds))
            return
        left = list(plan.jobs(arguments.studies, arguments.seeds))
        for wait in (False, True):  # first what no other process is training
            left = [(arm, seed) for arm, seed in left if not finish(plan, arm, seed, wait)]
        for study in arguments.studies:
            out = arguments.directory(study)
            write(plan, study, collect(plan, study, arguments.seeds), out)
            print(f"{study}: {out / 'README.md'}")
        if unspent := plan.unspent(arguments.studies, arguments.seeds):
            print(unspent, file=sys.stderr)
            raise SystemExit(verdict.EXIT_UNSPENT)
    except (ValueError, store.StoreError, OSError) as error:
        cli.fail(" ".join(str(error).split()))


if __name__ == "__main__":
    main()
