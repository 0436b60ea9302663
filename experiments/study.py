"""Run controlled comparisons: same environment, draws and budget, one thing different.

    python -m experiments.study random-search --dry-run    # member runs, steps, hours
    python -m experiments.study random-search              # PBT, random search, a tuned setting
    python -m experiments.study copy --seeds 5 --env Pong --population 4
    python -m experiments.study copy --env gan             # or translation
    python -m experiments.study all                        # seed by seed

Studies: random-search, population-size, exploit, copy, explore, schedule, ready. Their arms, and
settings and budget of the default environment, are constants in experiments/studies/definitions.py.
Other environments start from the suite's defaults, and leave out the arm "hand-tuned" unless
`--tuned` gives its setting.

Each arm and seed is an ordinary run directory, named by its settings. Arms with the same settings
are one run, shared by all studies. The same command resumes what was interrupted, more seeds are
added to those that are done, and a second terminal takes runs that no other process trains. With
`--store` and `--checkpoints` it may be on another machine (docs/many-machines.md). Within
a seed all arms begin with the same draws and weights, as far as they have them. When a run ends,
the few members with the highest training scores play fresh episodes, as many in every arm. The
score of the run is the mean of 30 other fresh episodes of the winner. Translators and GANs get
fresh sentences and images in their place.

Results go to `--out`: study.json (what was done), CSV files with all numbers, and README.md and
figures, which `python -m experiments.report DIR` makes again from the other files.
"""

import collections
import dataclasses
import os
import shlex
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from experiments import cli, config, launch
from experiments.analysis import arms, provenance, selection, units
from experiments.studies import definitions, machines, results, tables
from experiments.studies.plan import Plan
from pbt import checkpoint, space, store, verdict

Name = Literal[
    "random-search", "population-size", "exploit", "copy", "explore", "schedule", "ready", "all"
]


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Run a study or resume it."""

    name: tyro.conf.Positional[Name]
    """The study."""
    env: Annotated[str, tyro.conf.arg(aliases=["--world"])] = definitions.DEFAULT_ENV
    """Any environment of the suite: an Atari game, a Gymnasium id, module:EnvId, a toy, ...; or
    "translation" or "gan"."""
    agent: str | None = None
    """Any agent of the suite; default: a3c in environments."""
    seeds: int = 10
    """Paired repetitions: seeds 0, 1, ..."""
    dry_run: bool = False
    """Only print what would be done and how long it takes."""
    population: int | None = None
    """Members of arms that do not set it. Default: the environment's."""
    total_steps: int | None = None
    """Steps of each member. Default: the environment's."""
    report_interval: int | None = None
    """Steps between two commits. Default: the environment's."""
    ready_interval: int | None = None
    """Steps between two comparisons with the others. Default: the environment's."""
    num_envs: int | None = None
    """Parallel environments of a member. Default: the environment's."""
    tuned: tuple[str, ...] | None = None
    """The hand-tuned setting, such as learning_rate=7e-4. Default: the environment's, if there is
    one. Nothing after the flag leaves out that arm."""
    decay: tuple[str, ...] | None = None
    """First values of a hand-tuned linear decay of the learning rates, such as learning_rate=1e-3.
    Default: the environment's, if there is one."""
    workers: int = 1
    """Processes per run. With 1, a run uses one thread and repeats exactly. With more, timing
    decides which members meet."""
    run_dir: Path = Path("results/runs/studies")
    """Where run directories are made: RUN_DIR/<environment>/<settings>-seed-<seed>."""
    store: str | None = None
    """PostgreSQL database that keeps all runs, such as postgresql://user@host/name; default: a
    SQLite file in each run's directory. The password comes from PGPASSWORD or ~/.pgpass."""
    checkpoints: str | None = None
    """Folder or URL below which the checkpoints of all runs are kept, such as s3://bucket/study;
    default: checkpoints in each run's directory."""
    out: Path | None = None
    """Where the results go. Default: results/runs/study-<name>, followed by -<environment> if it is
    not the default one."""

    def check(self) -> None:
        """Raise a ValueError of one line for arguments that make no sense."""
        if self.seeds < 1:
            raise ValueError(f"--seeds {self.seeds}: use 1 or more")
        if self.workers < 1:
            raise ValueError(f"--workers {self.workers}: use 1 or more")
        config.check_places(self.store, self.checkpoints)
        config.parse_fixed(self.tuned or (), "--tuned")
        config.parse_fixed(self.decay or (), "--decay")
        if self.run_dir.exists() and not self.run_dir.is_dir():
            raise ValueError(f"--run-dir {self.run_dir} is a file: name a directory")

    @property
    def studies(self) -> tuple[str, ...]:
        """Names of the studies to run."""
        return tuple(definitions.STUDIES) if self.name == "all" else (self.name,)

    def directory(self, study: str) -> Path:
        """Return the folder of a study's results."""
        slug = f"study-{study}"
        if self.env != definitions.DEFAULT_ENV:
            slug += f"-{launch.slug(self.env)}"
        if self.out is None:
            return Path("results/runs") / slug
        return self.out / study if self.name == "all" else self.out


def check_out(out: Path, study: str, env_id: str) -> None:
    """Check before hours of training that a study's results can be written to a folder.

    Raises:
        ValueError: They cannot. Says in one line what is in the way.
    """
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {out} is a file: name a directory")
    there = next(path for path in (out, *out.absolute().parents) if path.exists())
    if not os.access(there, os.W_OK):
        raise ValueError(f"--out {out}: {there} cannot be written to, name another directory")
    known = tables.read_study(out)
    if known is not None and (known["study"], known["world"]) != (study, env_id):
        raise ValueError(
            f"--out {out} has the results of {known['study']} in {known['world']}: name another "
            "directory"
        )


def finish(plan: Plan, arm: definitions.Arm, seed: int, wait: bool) -> bool:
    """Complete a run, print its score, and return whether it has ended."""
    started_s = time.monotonic()
    completed = plan.complete(arm, seed, wait=wait)
    if completed is None:
        print(f"{arm.name}, seed {seed}: another process trains it", flush=True)
        return False
    name, found = completed
    took_s = time.monotonic() - started_s
    print(f"{arm.name}, seed {seed}: {found.score:.4g} ({took_s:.0f} s, {name})", flush=True)
    return True


def collect(plan: Plan, study: str, seeds: int) -> list[arms.Result]:
    """Return all finished runs of a study."""
    return [
        arms.Result(arm.panel, arm.name, seed, *found)
        for seed in range(seeds)
        for arm in plan.arms_of(study)
        if (found := plan.done(arm, seed)) is not None
    ]


def write(plan: Plan, study: str, found: Sequence[arms.Result], out: Path) -> None:
    """Write a study's results: what was done, tables, pages and figures."""
    settings, words = plan.base, units.of(plan.base.run_config())
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
                {"panel": arm.panel, "name": arm.name, "settings": describe(arm, plan)}
                for arm in plan.arms_of(study)
            ],
            "world": plan.base.name(),
            "agent": definitions.agent_of(settings),
            "settings": {
                "members": settings.population,
                f"{words.steps} per member": settings.total_steps,
                "ready interval": settings.ready_interval,
                **_priors(settings),
            },
            "units": dataclasses.asdict(words),
            "selection": [selection.CANDIDATES, selection.EPISODES],
            # The last part has the seed and other scores, which are a run's own.
            "protocol": found[0].outcome.protocol.rpartition("; ")[0],
            "command": shlex.join(["python", "-m", "experiments.study", *sys.argv[1:]]),
            "commit": provenance.commit() or "unknown",
            "run_commits": run_commits(plan.run_dir, {result.run for result in found}),
        },
        found,
    )


def _priors(settings: config.EngineConfig) -> dict[str, Any]:
    """Return the priors of hyperparameters that vary, the others, and an agent's environments."""
    found: dict[str, Any] = {}
    if isinstance(settings, config.PopulationConfig):
        found["worlds per member"] = settings.num_envs
    for name, dimension in settings.search_space().dimensions.items():
        if not isinstance(dimension, space.Constant):
            found[name.replace("_", " ")] = getattr(settings, name).prior
    if settings.fixed:
        found["fixed"] = ", ".join(settings.fixed)
    return found


def run_commits(run_dir: Path, names: Iterable[str]) -> dict[str, int]:
    """Return the number of runs by the commit that trained them.

    A run that several commits trained counts under all of them, as in "a, b".
    """
    counted: collections.Counter[str] = collections.Counter()
    for name in names:
        commits = [start.commit or "unknown" for start in provenance.read(run_dir / name)]
        counted[", ".join(dict.fromkeys(commits)) or "unknown"] += 1
    return dict(counted.most_common())


def describe(arm: definitions.Arm, plan: Plan) -> str:
    """Return in words how an arm's settings differ from the environment's."""
    base = plan.base
    match arm.setting:
        case "tuned":
            return f"fixed: {', '.join(plan.tuned or ())}"
        case "decay":
            return f"learning rates fall linearly to 0, from: {', '.join(plan.decay or ())}"
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
        f"{settings.population} members x {settings.total_steps:,} {units.of(settings).steps}",
        f"exploit {settings.exploit}",
    ]
    if settings.exploit != "none":
        said += [f"copy {settings.copy}", f"ready every {settings.ready_interval:,}"]
        explored: str = settings.explore
        if explored != "none":
            explored += f" by {' or '.join(f'{factor:g}' for factor in settings.perturb_factors)}"
            explored += " whenever ready" if settings.explore_at == "ready" else ""
        said.append(f"explore {explored}")
    return ", ".join(said)


@cli.quiet
def main() -> None:
    """Parse the command line, run what is missing, write the results."""
    arguments = cli.read(Arguments, __doc__)
    try:
        arguments.check()
        names = ("population", "total_steps", "report_interval", "ready_interval", "num_envs")
        changes = {name: getattr(arguments, name) for name in names}
        base = definitions.base_settings(arguments.env, arguments.agent, changes)
        env_id = base.name()
        tuned = arguments.tuned
        known = (env_id, definitions.agent_of(base))
        if tuned is None:
            tuned = definitions.TUNED.get(known)
        for study in arguments.studies:
            check_out(arguments.directory(study), study, env_id)
        env_dir = arguments.run_dir / launch.slug(env_id)
        decay = arguments.decay
        if decay is None:
            decay = definitions.DECAYED.get(known)
        places = machines.Places(arguments.store, arguments.checkpoints)
        plan = Plan(base, tuned, env_dir, arguments.workers, decay, places)
        for arm, _ in plan.jobs(arguments.studies, 1):
            if not arm.needs_winner:
                plan.run_config(arm, 0, None)  # raises before anything is created
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
        for wait in (False, True):  # first the runs that no other process trains
            left = [(arm, seed) for arm, seed in left if not finish(plan, arm, seed, wait)]
        for study in arguments.studies:
            out = arguments.directory(study)
            write(plan, study, collect(plan, study, arguments.seeds), out)
            print(f"{study}: {out / 'README.md'}")
        if unspent := plan.unspent(arguments.studies, arguments.seeds):
            print(unspent, file=sys.stderr)
            raise SystemExit(verdict.EXIT_UNSPENT)
    except (ValueError, store.StoreError, checkpoint.CheckpointError, OSError) as error:
        cli.fail(" ".join(str(error).split()))


if __name__ == "__main__":
    main()
