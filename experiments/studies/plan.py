"""The runs that studies need: which there are, which are done, and how long the rest takes.

Every arm and seed is an ordinary run directory, named by its settings. Arms with the same settings
are one run, whichever study asks for it.
"""

import dataclasses
import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from experiments import config, launch
from experiments.analysis import outcome, provenance, schedule, tasks, units, wording
from experiments.members import checks
from experiments.studies import conclude, definitions, machines
from pbt import local, process, run, slices, space, verdict, worker

LOCK_NAME = ".study.lock"
"""Lock file in a run's directory, held by the process that trains the run."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """Settings of a command, and the runs that follow from them."""

    base: config.EngineConfig
    """Settings that the arms start from."""
    tuned: tuple[str, ...] | None
    """Hand-tuned setting. Without one, the arm "hand-tuned" is left out."""
    run_dir: Path
    """Directory of the run directories of this environment."""
    workers: int
    """Processes per run."""
    decay: tuple[str, ...] | None = None
    """First values of a hand-tuned linear decay. Without them, such an arm is left out."""
    places: machines.Places = machines.IN_DIRECTORIES
    """Where the runs are kept besides their directories."""

    def arms_of(self, study: str) -> list[definitions.Arm]:
        """Return the arms of a study that can be run here."""
        missing = {
            setting
            for setting, values in (("tuned", self.tuned), ("decay", self.decay))
            if not values
        }
        return [arm for arm in definitions.STUDIES[study].arms if arm.setting not in missing]

    def run_config(
        self, arm: definitions.Arm, seed: int, winner: schedule.Schedule | None
    ) -> run.RunConfig:
        """Return the settings of an arm's run; arguments as in `definitions.arm_config`."""
        return definitions.arm_config(arm, self.base, seed, self.tuned, winner, self.decay)

    def done(self, arm: definitions.Arm, seed: int) -> tuple[str, outcome.Outcome] | None:
        """Return name and outcome of an arm's run, or None if it has not ended.

        Raises:
            pbt.checkpoint.CheckpointError: The place of the checkpoints is away.
        """
        winner = None
        if arm.needs_winner:
            found = self.done(definitions.PBT, seed)
            if found is None:
                return None
            winner = schedule.Schedule.from_json(list(found[1].schedule))
        name = directory_name(self.run_config(arm, seed, winner))
        known = outcome.read(self.run_dir / name) or self.places.outcome_of(self._path(name))
        return None if known is None else (name, known)

    def complete(
        self, arm: definitions.Arm, seed: int, *, wait: bool = True
    ) -> tuple[str, outcome.Outcome] | None:
        """Train an arm's run to its end, after the run that it needs, if any.

        Two processes never train one run at the same time, since such a run would not repeat
        exactly.

        Args:
            arm: The arm.
            seed: Seed of the run.
            wait: Whether to wait for another process that trains the run.

        Returns:
            Name and outcome of the run, or None if another process trains it.

        Raises:
            ValueError: The directory holds something else, or the run has no score.
            pbt.store.StoreError: The run's store cannot be used.
            pbt.checkpoint.CheckpointError: A checkpoint is damaged, or their place is away.
            SystemExit: The run was interrupted, or its population died.
        """
        winner = None
        if arm.needs_winner:
            needed = self.complete(definitions.PBT, seed, wait=wait)
            if needed is None:
                return None
            winner = schedule.Schedule.from_json(list(needed[1].schedule))
        run_config = self.run_config(arm, seed, winner)
        name = directory_name(run_config)
        directory = self.run_dir / name
        if known := outcome.read(directory):
            return name, known
        path, url = self._path(name), self.places.store
        checkpoints = self.places.checkpoints_of(path)
        # Without both, other machines must see the directory, and find the run by it.
        known_as = None if url is None or checkpoints is None else path
        launch.open_or_create(directory, run_config, None, url, checkpoints, known_as)
        lock = directory / LOCK_NAME
        lock.touch()
        with launch.alone(lock, wait) as alone:
            if not alone:
                return None
            with self.places.alone(directory, wait) as renew:
                return None if renew is None else (name, self._train(directory, run_config, renew))

    def _train(
        self, directory: Path, run_config: run.RunConfig, renew: Callable[[], None]
    ) -> outcome.Outcome:
        """Train a run of this process alone to its end, unless that was done meanwhile."""
        self.places.receive(directory)
        if known := outcome.read(directory):
            return known
        provenance.record(directory)
        self.places.send(directory)
        checks.prepare(run_config, directory)
        train(directory, self.workers, renew)
        found = conclude.conclude(directory)
        self.places.send(directory)
        return found

    def _path(self, name: str) -> str:
        """Return the path of a run below `--run-dir`, which is the same on every machine."""
        return f"{self.run_dir.name}/{name}"

    def jobs(self, studies: Sequence[str], seeds: int) -> Iterator[tuple[definitions.Arm, int]]:
        """Yield every arm and seed of some studies once, seed by seed."""
        for seed in range(seeds):
            listed: set[tuple[str, str]] = set()
            for arm in (arm for study in studies for arm in self.arms_of(study)):
                # Arms of several studies may be one run.
                same = (arm.setting, directory_name(self._as_drawn(arm, seed)))
                if same not in listed:
                    listed.add(same)
                    yield arm, seed

    def _as_drawn(self, arm: definitions.Arm, seed: int) -> run.RunConfig:
        """Return an arm's settings as if its members drew their hyperparameters.

        What other arms hold fixed or follow may not be known yet.
        """
        drawn = dataclasses.replace(arm, setting="drawn")
        return definitions.arm_config(drawn, self.base, seed, None, None)

    def unspent(self, studies: Sequence[str], seeds: int) -> str | None:
        """Return which runs that are over left agent steps unspent, in one line; None if none."""
        found = []
        for arm, seed in self.jobs(studies, seeds):
            settings = self._as_drawn(arm, seed)
            known = self.done(arm, seed)
            due = settings.population * settings.total_steps
            if known is not None and known[1].agent_steps < due:
                found.append(f"{known[0]} ({due - known[1].agent_steps:,})")
        if not found:
            return None
        return f"members died and left steps unspent in {', '.join(found)}"

    def estimate(self, studies: Sequence[str], seeds: int) -> str:
        """Return in words what some studies take: runs, agent steps, and hours that are left."""
        members = steps = done_members = left_steps = runs = 0
        recorded_s = recorded_steps = 0.0
        for arm, seed in self.jobs(studies, seeds):
            settings = self._as_drawn(arm, seed)
            total = settings.population * settings.total_steps
            runs, members, steps = runs + 1, members + settings.population, steps + total
            if found := self.done(arm, seed):
                done_members += settings.population
                recorded_s += found[1].seconds
                recorded_steps += found[1].agent_steps
            else:
                left_steps += total
        if recorded_steps:
            pace, source = recorded_s / recorded_steps, "from the seconds of finished runs"
        else:
            pace, source = _measured_pace(self.base), "from a few seconds of training just now"
        words = units.of(self.base.run_config())
        return (
            f"{', '.join(studies)} in {self.base.name()}: {runs} runs, {members} "
            f"member runs, {steps:,} {words.steps}; {done_members} member runs are done\n"
            f"left: {left_steps:,} {words.steps}, about {left_steps * pace / 3600:.2g} hours of "
            f"one core ({wording.score(1 / pace)} {words.steps} per second, {source})"
        )


def train(run_dir: Path, workers: int, beat: Callable[[], None]) -> None:
    """Train a run to its end; call `beat` often while it goes on.

    One worker trains in this process, which saves the start of another. It uses one thread on every
    machine, because the order in which several threads add would change the sums.

    Raises:
        SystemExit: The run was interrupted, or its population died.
    """
    if workers > 1:
        exit_code = local.run(run_dir, workers, on_tick=lambda _: beat(), say=lambda line: None)
        if exit_code not in (0, verdict.EXIT_UNSPENT):
            raise SystemExit(exit_code)
        return
    torch.set_num_threads(1)
    with (
        process.Stop().installed() as stop,
        worker.open_store(run_dir, stop, beat, _complain) as run_store,
    ):
        residents = run_store.config.population
        done = worker.run(run_store, run_dir, resident_limit=residents, stop=stop, beat=beat)
        if stop() or done.exit_code not in (0, verdict.EXIT_UNSPENT):
            _complain(f"{run_dir}: {done.message}; the same command goes on")
            raise SystemExit(128 + stop() if stop() else done.exit_code)


def _complain(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def directory_name(run_config: run.RunConfig) -> str:
    """Return the name of a run's directory: some settings, a digest of all of them, the seed."""
    values = run_config.to_json()
    seed = values.pop("seed")
    values["task"] = tasks.original(run_config.task)  # a move of the factory makes no other run
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]
    parts = [f"{run_config.population}x{run_config.total_steps}"]
    dimensions = run_config.space.dimensions.values()
    if "schedule" in run_config.task_config:
        parts.append("replay")
    elif all(isinstance(dimension, space.Constant) for dimension in dimensions):
        parts.append("fixed")
    parts.append("nobody-copies" if run_config.exploit == "none" else run_config.exploit)
    if run_config.exploit != "none":
        parts += [f"copy-{run_config.copy}", f"ready-{run_config.ready_interval}"]
    return "-".join([*parts, digest, "seed", str(seed)])


def _measured_pace(base: config.EngineConfig, seconds: float = 3.0) -> float:
    """Return the seconds of one core that an agent step takes at the middle of the prior."""
    torch.set_num_threads(1)  # as `train` does
    values = config.parse_fixed(definitions.middle(base))
    task, task_config = base.task()
    member = slices.build(slices.named_factory(task), task_config, 0, 0)
    try:
        member.set_hyperparameters(values)
        updates = member.train(base.total_steps, base.total_steps)
        next(updates)  # the first one is slow
        started_s, taken = time.process_time(), 0
        for progress in updates:
            taken += progress.agent_steps
            if time.process_time() - started_s > seconds:
                break
        return (time.process_time() - started_s) / max(taken, 1)
    finally:
        member.close()
