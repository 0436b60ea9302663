"""Train fresh agents along the schedule that a run discovered, or that you wrote.

    python -m experiments.replay RUN_DIR                     # the winner's schedule, in its world
    python -m experiments.replay RUN_DIR --final             # frozen at the winner's last values
    python -m experiments.replay RUN_DIR --world Breakout --total-steps 8_000_000 --stretch
    python -m experiments.replay --schedule my.csv --world CartPole-v1

The schedule is the winner's, followed through its lineage: the values behind its weights at each
agent step of training, whoever held the weights then. `experiments.report` writes the same as
schedule.csv; `experiments/schedule.py` says what such a file may hold. Agent, protocol, worlds per
member and budget are the run's; with another --world, that world's defaults (experiments/worlds.py)
except for the budget.

What it makes is an ordinary run directory: the same command again resumes, at the right row of the
schedule; `experiments.report`, `experiments.evaluate` and TensorBoard read it.
"""

import contextlib
import dataclasses
import json
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import tyro

from experiments import command, config, evaluate, launch, learner, schedule, worlds
from pbt import run, space, store, task


class ScheduledTask:
    """A learner whose hyperparameters follow a schedule, and not the engine.

    Values change at the first update at or after their step. With as many worlds as in the run that
    the schedule comes from, updates end where they ended there, so changes come exactly where they
    came; after weights whose member's budget had cut its last update short, up to an update later.
    The steps taken are part of the checkpoint: a run that is resumed goes on at its row. What is in
    force is reported as the metrics `hyperparameter/<name>`, so that TensorBoard shows it where it
    shows any run's.

    Args:
        inner: Follows the schedule.
        followed: Names only hyperparameters that `inner` has.
    """

    FILE = "schedule.json"
    """In a checkpoint, beside the inner task's own files."""

    def __init__(self, inner: task.Task, followed: schedule.Schedule) -> None:
        self._inner = inner
        self._schedule = followed
        self._agent_steps = 0
        self._apply()

    def _apply(self) -> None:
        self._inner.set_hyperparameters(self._schedule.at(self._agent_steps))

    def train(self, agent_steps: int, limit: int) -> Iterator[task.Progress]:
        """See `pbt.task.Task.train`."""
        with contextlib.closing(_generated(self._inner.train(agent_steps, limit))) as updates:
            for progress in updates:
                self._agent_steps += progress.agent_steps
                in_force = {
                    f"hyperparameter/{name}": float(value)
                    for name, value in self._inner.hyperparameters().items()
                }
                yield progress._replace(metrics={**progress.metrics, **in_force})
                self._apply()

    def set_hyperparameters(self, values: Mapping[str, float]) -> None:
        """There are none to set: the run's space is empty.

        Raises:
            ValueError: it is not.
        """
        if values:
            raise ValueError(f"{sorted(values)} cannot be set: they follow a schedule")

    def hyperparameters(self) -> Mapping[str, float]:
        """The values in force."""
        return self._inner.hyperparameters()

    def save(self, directory: Path) -> None:
        """The inner task's files, and the agent steps taken."""
        self._inner.save(directory)
        (directory / self.FILE).write_text(json.dumps({"agent_steps": self._agent_steps}))

    def load(self, directory: Path) -> None:
        """See `pbt.task.Task.load`; the schedule goes on where the loaded state stands."""
        try:
            taken = json.loads((directory / self.FILE).read_text())["agent_steps"]
        except (OSError, json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(f"{directory} is no checkpoint of a replay: {error!r}") from error
        self._inner.load(directory)
        self._agent_steps = taken
        self._apply()

    def close(self) -> None:
        """Close the inner task."""
        self._inner.close()


def _generated(updates: Iterator[task.Progress]) -> Generator[task.Progress]:
    yield from updates


def make_task(config: Mapping[str, Any], member: int, seed: int) -> ScheduledTask:
    """Build a member's learner with its schedule: the factory that runs name as `schedule.TASK`."""
    followed = schedule.Schedule.from_json(config["schedule"])
    inner = learner.make_task(config, member, seed)
    return ScheduledTask(inner, followed)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReplayConfig(config.PopulationConfig):
    """Settings of a run whose members all follow one schedule."""

    schedule: schedule.Schedule

    def search_space(self) -> space.Space:
        """Nothing to search."""
        return space.Space({})

    def longest_unroll(self) -> int:
        """The largest unroll length on the schedule."""
        return max(round(values["unroll_length"]) for _, values in self.schedule.rows)

    def run_config(self, learner_config: learner.LearnerConfig) -> run.RunConfig:
        """As any run's, with the schedule beside the learner's settings."""
        plain = super().run_config(learner_config)
        with_schedule = {**plain.task_config, "schedule": self.schedule.to_json()}
        return dataclasses.replace(plain, task=schedule.TASK, task_config=with_schedule)


def follow(
    settings: config.PopulationConfig, followed: schedule.Schedule, members: int
) -> ReplayConfig:
    """Settings of fresh agents on a schedule, otherwise as `settings` say.

    Raises:
        ValueError: the agent has other hyperparameters than the schedule.
    """
    wanted = set(settings.search_space().dimensions)
    if missing := sorted(wanted - set(followed.names)):
        raise ValueError(
            f"the schedule says nothing of {', '.join(missing)}: add a column, or use the agent "
            "that it was made with"
        )
    if unknown := sorted(set(followed.names) - wanted):
        raise ValueError(
            f"the schedule has {', '.join(unknown)}, which the agent {settings.agent!r} has not: "
            "use the agent that it was made with"
        )
    fields = {
        field.name: getattr(settings, field.name)
        for field in dataclasses.fields(config.PopulationConfig)
    }
    changed = {"population": members, "exploit": "none", "fixed": (), "adapt": None}
    return ReplayConfig(**{**fields, **changed}, schedule=followed)


def freeze(
    settings: config.PopulationConfig, followed: schedule.Schedule, members: int
) -> config.PopulationConfig:
    """Settings of fresh agents at a schedule's last values: a run with fixed hyperparameters."""
    values = settings.search_space().used(follow(settings, followed, members).schedule.final)
    fixed = tuple(f"{name}={value!r}" for name, value in values.items())
    return dataclasses.replace(
        settings, population=members, exploit="none", adapt=None, fixed=fixed
    )


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Train fresh agents along the schedule that a run discovered, or that you wrote."""

    source: tyro.conf.Positional[Path | None] = None
    """Directory of the run whose schedule, agent, world and budget are taken."""
    schedule: Path | None = None
    """Take the schedule from this file instead, with columns agent_steps, learning_rate, ..."""
    final: bool = False
    """Freeze the schedule at its last values from the first step on."""
    member: int | None = None
    """Whose schedule; default: the member with the highest training score."""
    world: str | None = None
    """Another world: an Atari game, a Gymnasium id, module:EnvId, ...; default: the run's."""
    agent: str | None = None
    """Another agent (with the same hyperparameters); default: the run's."""
    total_steps: int | None = None
    """Agent steps of each member; default: the run's."""
    stretch: bool = False
    """Stretch the schedule to the total; without it, steps are steps, and a schedule that ends
    early stays at its last values."""
    members: int = 1
    """Fresh agents, which differ in their initial weights, worlds and dice."""
    seed: int = 0
    """Of all of them."""
    workers: int | None = None
    """Worker processes; default: one per core, at most one per member. May differ on resume."""
    run_dir: Path | None = None
    """Where everything is written; default results/runs/replay-<run>-<world>. If a run is there
    already, it goes on."""

    def check(self) -> None:
        """Refuse what makes no sense together, with a ValueError of one line."""
        if self.source is None and (self.schedule is None or self.world is None):
            raise ValueError(
                "give RUN_DIR, whose schedule, agent and world are taken; or --schedule FILE and "
                "--world NAME"
            )
        if self.schedule is not None and not self.schedule.is_file():
            raise ValueError(
                f"--schedule {self.schedule} is no file: give a schedule.csv, as a run's report has"
            )
        if self.schedule is not None and self.member is not None:
            raise ValueError(
                f"--member {self.member}: the schedule is {self.schedule}'s; leave one"
            )
        if self.final and self.stretch:
            raise ValueError("--stretch: --final has one row, which stays; leave one out")
        if self.members < 1:
            raise ValueError(f"--members {self.members}: use 1 or more")
        if self.seed < 0:
            raise ValueError(f"--seed {self.seed}: use 0 or more")


def prepare(arguments: Arguments) -> tuple[config.PopulationConfig, learner.LearnerConfig]:
    """The settings of the run that the arguments ask for. Creates nothing.

    Raises:
        ValueError: what does not fit, in one line.
        pbt.store.StoreError: the source is no run.
        OSError: a file cannot be read.
    """
    arguments.check()
    settings, learner_config, followed = None, None, None
    if arguments.source is not None:
        with store.Store.open(arguments.source) as source:
            settings, learner_config = _of_source(source)
            if arguments.schedule is None:
                _check_member(arguments.member, source.config.population)
                followed = schedule.of_run(source, arguments.member)
    if arguments.world is not None or arguments.agent is not None:
        kept = settings
        world = arguments.world or (learner_config.env_id if learner_config else "")
        agent = arguments.agent or (settings.agent if settings else "a3c")
        found = worlds.defaults(world, agent)
        settings, learner_config = found.settings, found.learner_config
        if kept is not None:
            settings = dataclasses.replace(
                settings, total_steps=kept.total_steps, report_interval=kept.report_interval
            )
            if learner_config.num_envs != kept.num_envs:
                settings = _rounded(settings)
    assert settings is not None  # see `Arguments.check`
    assert learner_config is not None
    if arguments.schedule is not None:
        followed = schedule.read(arguments.schedule, list(settings.search_space().dimensions))
    assert followed is not None
    total_steps = arguments.total_steps or settings.total_steps
    settings = dataclasses.replace(
        settings,
        total_steps=total_steps,
        report_interval=min(settings.report_interval, total_steps),
        seed=arguments.seed,
        workers=arguments.workers,
        run_dir=arguments.run_dir,
    )
    if arguments.stretch:
        followed = followed.stretched(total_steps)
    if arguments.final:
        return freeze(settings, followed, arguments.members), learner_config
    return follow(settings, followed, arguments.members), learner_config


def _of_source(
    source: store.Store,
) -> tuple[config.PopulationConfig, learner.LearnerConfig]:
    """A run's settings, as far as fresh agents share them, and what its members are."""
    stored = source.config
    learner_config = evaluate.learner_config(source)
    settings = config.PopulationConfig(
        agent=learner_config.agent,
        core=learner_config.settings.core,
        package=learner_config.settings.package,
        total_steps=stored.total_steps,
        report_interval=stored.report_interval,
        ready_interval=stored.ready_interval,
        num_envs=learner_config.num_envs,
        device=learner_config.device,
    )
    return settings, learner_config


def _check_member(member: int | None, population: int) -> None:
    if member is not None and not 0 <= member < population:
        raise ValueError(f"--member {member}: use a number from 0 to {population - 1}")


def _rounded(settings: config.PopulationConfig) -> config.PopulationConfig:
    """Budget and interval as multiples of the worlds that are stepped together, rounded up."""

    def up(steps: int) -> int:
        return -(-steps // settings.num_envs) * settings.num_envs

    return dataclasses.replace(
        settings,
        total_steps=up(settings.total_steps),
        report_interval=up(settings.report_interval),
    )


@command.quiet
def main() -> NoReturn:
    """Parse the command line, find the schedule, train along it."""
    arguments = tyro.cli(Arguments, prog="python -m experiments.replay", description=__doc__)
    try:
        settings, learner_config = prepare(arguments)
    except (ValueError, store.StoreError, OSError) as error:
        command.fail(" ".join(str(error).split()))
    parts = [
        "replay",
        (arguments.schedule or arguments.source or Path()).resolve().stem,
        launch.slug(learner_config.env_id),
        *(["final"] if arguments.final else []),
    ]
    launch.run_experiment("-".join(parts), settings, learner_config)


if __name__ == "__main__":
    main()
