"""Train fresh agents along a schedule that a run discovered, or that you wrote.

    python -m experiments.replay RUN_DIR                     # the winner's schedule
    python -m experiments.replay RUN_DIR --final             # frozen at the winner's last values
    python -m experiments.replay RUN_DIR --env Breakout --total-steps 8_000_000 --stretch
    python -m experiments.replay --schedule my.csv --env CartPole-v1

The schedule holds the values that the winner's weights were trained with at each agent step,
followed back through all donors. `experiments.report` writes it as schedule.csv, and
`experiments/analysis/schedule.py` describes the format of the file. Environment, agent, protocol
and budget are those of the run. With another --env, all but the budget are that environment's
defaults.

The result is an ordinary run directory, which `experiments.report`, `experiments.evaluate` and
TensorBoard read. The same command again resumes at the right row of the schedule.
"""

import dataclasses
from pathlib import Path
from typing import Annotated, NoReturn

import tyro

from experiments import cli, cluster, config, launch
from experiments.analysis import schedule, tasks, units
from experiments.members import episodes, trust
from experiments.members import make_scheduled_task as make_task  # noqa: F401 - old run directories
from experiments.studies import defaults, schedules
from pbt import run, store


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Train fresh members along a schedule that a run discovered, or that you wrote."""

    source: tyro.conf.Positional[Path | None] = None
    """Directory of the run whose schedule, agent, environment and budget are taken."""
    schedule: Path | None = None
    """File of the schedule, with columns agent_steps, learning_rate, ...; default: the schedule
    of the run."""
    final: bool = False
    """Freeze the schedule at its last values from the first step on."""
    member: int | None = None
    """Member whose schedule is taken; default: the best one."""
    env: Annotated[str | None, tyro.conf.arg(aliases=["--world"])] = None
    """Another environment: an Atari game, a Gymnasium id, module:EnvId, ...; default: the run's."""
    agent: str | None = None
    """Another agent (with the same hyperparameters); default: the run's."""
    total_steps: int | None = None
    """Steps of each member; default: the run's."""
    stretch: bool = False
    """Stretch the schedule to the total. Otherwise a schedule that ends early stays at its last
    values."""
    members: int = 1
    """Number of fresh members. They differ in all that is drawn at random."""
    seed: int = 0
    """Seed of the run."""
    workers: int | None = None
    """Number of worker processes; default: one per core, at most one per member. A resumed run may
    have another number."""
    run_dir: Path | None = None
    """Directory of the run; default: results/runs/replay-<run>-<environment>. A run that is there
    already is resumed."""
    store: str | None = None
    """PostgreSQL database that keeps the new run, such as postgresql://user@host/name; default: a
    SQLite file in its directory. The password comes from PGPASSWORD or ~/.pgpass."""
    checkpoints: str | None = None
    """Folder or URL that keeps the checkpoints of the new run alone, such as s3://bucket/run;
    default: checkpoints in its directory."""
    where: cluster.Flags = cluster.THIS_MACHINE
    """Where the worker processes are."""
    trust: bool = False
    """Play the run's environment though it is of other code than the suite's and Gymnasium's: that
    code is executed."""

    def check(self) -> None:
        """Refuse arguments that make no sense, alone or together.

        Raises:
            ValueError: One line with the value given and the way out.
        """
        if self.source is None and (self.schedule is None or self.env is None):
            raise ValueError(
                "give RUN_DIR, whose schedule, agent and environment are taken; or --schedule FILE "
                "and --env NAME"
            )
        if self.schedule is not None and not self.schedule.is_file():
            raise ValueError(
                f"--schedule {self.schedule} is no file: give a schedule.csv, as a run's report has"
            )
        if self.schedule is not None and self.member is not None:
            raise ValueError(
                f"--member {self.member}: the schedule is that of {self.schedule}; leave one out"
            )
        if self.final and self.stretch:
            raise ValueError("--stretch: with --final nothing is left to stretch; leave one out")
        if self.members < 1:
            raise ValueError(f"--members {self.members}: use 1 or more")
        if self.seed < 0:
            raise ValueError(f"--seed {self.seed}: use 0 or more")
        config.check_places(self.store, self.checkpoints)
        self.where.check()


def prepare(arguments: Arguments) -> run.RunConfig:
    """Return the run that the arguments ask for, and create nothing.

    Raises:
        ValueError: The arguments do not fit each other, the source or the schedule.
        pbt.store.StoreError: The source is not a run.
        OSError: A file cannot be read.
    """
    arguments.check()
    base, followed = None, None
    if arguments.source is not None:
        with store.Store.open(arguments.source) as source:
            base = source.config
            if tasks.trained(base) in (tasks.TRANSLATION, tasks.GAN):
                _check_same_learner(arguments, units.of(base).learner)
            else:
                played = episodes.learner_config(source)  # refuse other tasks
                if arguments.env is None and not arguments.trust:
                    trust.check(source, played.env_id)
            if arguments.schedule is None:
                _check_member(arguments.member, base.population)
                followed = schedule.of_run(source, arguments.member)
    if arguments.env is not None or arguments.agent is not None:
        base = _elsewhere(arguments, base)
    assert base is not None  # see `Arguments.check`
    if arguments.schedule is not None:
        followed = schedule.read(arguments.schedule, schedules.names(base))
    assert followed is not None
    total_steps = arguments.total_steps or base.total_steps
    base = dataclasses.replace(
        base,
        total_steps=total_steps,
        report_interval=min(base.report_interval, total_steps),
        seed=arguments.seed,
    )
    if arguments.stretch:
        followed = followed.stretched(total_steps)
    if arguments.final:
        return schedules.freeze(base, followed, arguments.members)
    return schedules.follow(base, followed, arguments.members)


def _elsewhere(arguments: Arguments, source: run.RunConfig | None) -> run.RunConfig:
    """Return the defaults of another environment or agent, with the source's budget if any."""
    env_id = arguments.env or (source.task_config["env_id"] if source else "")
    agent = arguments.agent or (source.task_config["agent"] if source else "a3c")
    found = defaults.defaults(env_id, agent).run_config()
    if source is None:
        return found

    def whole(steps: int) -> int:
        """Round up to a multiple of the environments that are stepped together."""
        return -(-steps // found.step_multiple) * found.step_multiple

    return dataclasses.replace(
        found,
        total_steps=whole(source.total_steps),
        report_interval=whole(source.report_interval),
    )


def _check_same_learner(arguments: Arguments, learner: str) -> None:
    for flag, value in (("--env", arguments.env), ("--agent", arguments.agent)):
        if value is not None:
            raise ValueError(
                f"{flag} {value}: the run's members are {learner}s, which can only be replayed as "
                "they were; leave it out"
            )


def _check_member(member: int | None, population: int) -> None:
    if member is not None and not 0 <= member < population:
        raise ValueError(f"--member {member}: use a number from 0 to {population - 1}")


@cli.quiet
def main() -> NoReturn:
    """Parse the command line, find the schedule and train along it."""
    arguments = cli.read(Arguments, __doc__)
    try:
        run_config = prepare(arguments)
    except (ValueError, store.StoreError, OSError) as error:
        cli.fail(error)
    parts = [
        "replay",
        (arguments.schedule or arguments.source or Path()).resolve().stem,
        *([launch.slug(env_id)] if (env_id := run_config.task_config.get("env_id")) else []),
        *(["final"] if arguments.final else []),
    ]
    run_dir = arguments.run_dir or Path("results/runs") / "-".join(parts)
    workers = arguments.where.num_workers(arguments.workers, arguments.members)
    launch.run_and_exit(
        run_dir,
        run_config,
        workers,
        url=arguments.store,
        checkpoints=arguments.checkpoints,
        where=arguments.where,
    )


if __name__ == "__main__":
    main()
