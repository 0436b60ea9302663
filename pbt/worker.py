"""A worker: Algorithm 1 of Population Based Training, one member at a time.

    while the run is not over:
        claim a member                                           # takes a lease
        if it diverged or failed: replace it by a copy of another, release it, and begin again
        open its task: reuse a live one, or build one and load the member's checkpoint
        set the member's hyperparameters, and read them back
        train one slice                                          # the paper's step and eval
        publish a checkpoint, then commit the new version        # files before rows
        if the member is ready:
            compare it with another member
            if it loses: copy that member, then explore          # the paper's exploit and explore
            otherwise: record what was compared
        release the member

Source: "Population Based Training of Neural Networks", Jaderberg et al. 2017
(https://arxiv.org/abs/1711.09846), algorithm 1. There is no controller. Workers meet only in the
store. A worker may be killed at any point. Whoever claims the member next goes on from its last
commit: a slice that was not committed is trained again, and a comparison that was not committed
waits until the member is ready again.

Command line: python -m pbt.worker RUN_DIR [--residents N]
"""

import argparse
import contextlib
import json
import logging
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pbt import (
    checkpoint,
    claim,
    decide,
    disk,
    owner,
    pictures,
    process,
    records,
    rescue,
    slices,
    storage,
    store,
    task_cache,
    verdict,
)
from pbt.records import Event, Member, VersionKind
from pbt.task import Diverged, MakeTask, Task

_log = logging.getLogger(__name__)

PROBES: Mapping[str, str] = {
    "before-claim": "A1",
    "after-claim": "A2",
    "loading": "A3: the checkpoint is verified, the task not yet loaded",
    "training": "A3: after each update",
    "writing-checkpoint": "A4: files written, not yet published",
    "published": "A5: before the transaction",
    "committed": "A7: before release and collection",
    "decided": "A8: to copy, nothing copied",
    "copying": "A9: the donor's checkpoint is verified, not yet loaded",
    "explored": "A10: copied, explored and published, not committed",
    "collecting": "A11: before deleting",
}
"""Points at which a test may kill, hang or raise, and the rows of tests/faults/test_kills.py."""

_LOCK_POLL_S = 1.0
"""Seconds between two signs of life of a worker that waits for a locked store."""
_QUEUE_POLL_S = 5.0
"""The same on PostgreSQL. It serves those that wait in order, and after each sign of life a worker
goes to the end of the queue. 100 workers at once may queue for seconds."""
_SAY_WAITING_S = 5.0


@dataclass(frozen=True)
class Outcome:
    """Why a worker ended."""

    exit_code: int
    """0 if nothing is left to do, 128 + n if signal n stopped it, else a code of `pbt.verdict`."""
    message: str
    seconds: Mapping[str, float]
    """Seconds by work: claim, build, load, train, publish, commit, decide, collect, idle."""


def run(
    run_store: store.Store,
    run_dir: Path,
    *,
    resident_limit: int = 16,
    stop: Callable[[], int] = lambda: 0,
    beat: Callable[[], None] = lambda: None,
    probe: Callable[[str], None] = lambda name: None,
    make_task: MakeTask | None = None,
    durable: bool = True,
    idle_s: float = 0.2,
    grace_s: float = claim.COLLECTION_GRACE_S,
) -> Outcome:
    """Work on a run until it is over or a signal asks to stop.

    Args:
        run_store: The run's open store.
        run_dir: The run's directory.
        resident_limit: Number of tasks kept alive in memory.
        stop: Returns the number of the signal that asked to stop, else 0. The running slice then
            ends at the next update and is committed.
        beat: Called at every sign of progress: at each update and at each look for work.
        probe: Called with a name from `PROBES` at each of these points.
        make_task: Task factory to use in place of the one that the run names.
        durable: Whether checkpoints survive a power cut.
        idle_s: Pause in seconds between looks for work while others hold all members.
        grace_s: Age in seconds from which a checkpoint that no row names is deleted.
    """
    try:
        place = storage.of(run_dir, durable=durable)
    except checkpoint.NotThere as error:
        return Outcome(verdict.EXIT_DEAD, str(error), {})
    worker = _Worker(
        context=claim.Context(
            run_store,
            run_dir,
            place,
            probe,
            grace_s,
            stop=stop,
            beat=beat,
        ),
        tasks=task_cache.TaskCache(resident_limit),
        make_task=make_task or slices.named_factory(run_store.config.task),
        stop=stop,
        beat=beat,
    )
    try:
        exit_code, message = worker.work(idle_s)
        worker.context.collect()
    except disk.DiskFull as error:
        exit_code, message = verdict.EXIT_DISK_FULL, str(error)
    except claim.CheckpointsAway as error:
        exit_code = 128 + stop() if stop() else verdict.EXIT_DEAD
        message = str(error)
    finally:
        worker.tasks.close()
    return Outcome(exit_code, message, worker.context.stopwatch.seconds)


def open_store(
    run_dir: Path,
    stop: Callable[[], int],
    beat: Callable[[], None],
    say: Callable[[str], None],
    durable: bool = True,
) -> store.Store:
    """Open a run's store for a worker, which waits for a locked or lost one as long as it takes.

    After a stop signal it waits for 30 seconds more, then the work since the last commit is lost.

    Args:
        run_dir: The run's directory.
        stop: As for `run`.
        beat: As for `run`; called while the store is waited for, too.
        say: Shows what is waited for.
        durable: Whether commits survive a power cut.

    Raises:
        store.StoreError: The run cannot be opened.
    """
    waiting = process.Waiting(say)

    def on_wait(waited_s: float, problem: store.StoreBusy) -> None:
        beat()  # it is no hang, and the launcher cannot help
        if waited_s >= _SAY_WAITING_S:
            waiting(problem.problem, problem.way_out)
        if stop() and waited_s >= store.BUSY_TIMEOUT_S:
            raise problem  # the work is dropped

    found = store.find(run_dir)
    is_sqlite = found is None or found.name == store.FILE_NAME
    poll_s = _LOCK_POLL_S if is_sqlite else _QUEUE_POLL_S
    return store.Store.open(run_dir, durable=durable, busy_timeout_s=poll_s, on_wait=on_wait)


class _Worker:
    """The state that a worker keeps from turn to turn: the run, and its live tasks."""

    def __init__(
        self,
        context: claim.Context,
        tasks: task_cache.TaskCache,
        make_task: MakeTask,
        stop: Callable[[], int],
        beat: Callable[[], None],
    ) -> None:
        self.context = context
        self.store, self.probe = context.store, context.probe
        self.stopwatch = context.stopwatch
        self.config = context.store.config
        self.tasks = tasks
        self.make_task = make_task
        self.stop, self.beat = stop, beat
        self.owner = owner.current()

    # The loop.

    def work(self, idle_s: float) -> tuple[int, str]:
        """Take turns until there is a reason to end; return exit code and message."""
        while True:
            self.beat()
            if signal_number := self.stop():
                return 128 + signal_number, f"stopped by signal {signal_number}"
            self.context.await_checkpoints()
            claimed = self._claim()
            if claimed is not None:
                crashed = self._turn(claimed)
                self.context.collect_if_due()
                if not crashed:
                    continue
            if over := verdict.of(self.store):
                return over
            if claimed is None:
                with self.stopwatch.on("idle"):
                    time.sleep(idle_s)

    def _claim(self) -> claim.Claim | None:
        self.probe("before-claim")
        with self.stopwatch.on("claim"):
            owners, versions = self.store.owners_and_versions(self.tasks.versions())
            self.tasks.drop_stale(versions)
            gone = owner.gone(owners)
            lease = self.store.claim(
                self.owner,
                self.tasks.versions(),
                gone,
                owner.at_work(owners - gone - {self.owner}),
                self.context.lease_s,
            )
        if lease is None:
            return None
        self.probe("after-claim")
        return claim.Claim(self.context, lease)

    def _turn(self, claimed: claim.Claim) -> bool:
        """Take one turn with a member, and handle its errors; return whether it crashed."""
        member = claimed.member.id
        try:
            if records.is_dead(claimed.member):
                self._reseed(claimed)
            elif opened := self._open(claimed):
                self._step(claimed, *opened)
        except store.LostLease as error:
            # This worker was too slow, and another one goes on from the last commit.
            _log.warning(
                "member %d: lease lost, work since the last commit dropped: %s", member, error
            )
            self.tasks.drop(member)
        except Diverged as error:
            self.tasks.drop(member)
            rescue.diverged(claimed, str(error))
        except (disk.DiskFull, claim.CheckpointsAway):
            self.tasks.drop(member)
            with contextlib.suppress(store.StoreError):  # the database may be on the same disk
                claimed.release()
            raise
        except store.StoreError:
            raise  # the store's error, not the member's
        except Exception as error:
            crash = str(error) if isinstance(error, slices.TaskCrashed) else traceback.format_exc()
            _log.error("member %d crashed:\n%s", member, crash)
            self.tasks.drop(member)
            with contextlib.suppress(store.LostLease):
                claimed.crashed(crash)
            return True
        return False

    # Open: a live task at the committed version, with the store's hyperparameters in force.

    def _open(self, claimed: claim.Claim) -> tuple[Task, Member] | None:
        """Return the member's task, and the member; None if none of its checkpoints can be read.

        A task that had to be built begins all its episodes at once. The first to finish are the
        shortest, so the window starts again.
        """
        member = claimed.member
        task = self.tasks.get(member.id, member.version)
        if task is None:
            directory = None
            if member.checkpoint is not None:
                try:
                    directory = claimed.open_verified(member)
                except checkpoint.NotThere:
                    raise  # the disk's error: the checkpoint may be whole
                except checkpoint.CheckpointError as error:
                    return self._open(claimed) if rescue.restore(claimed, error) else None
            task = self._build(member)
            claimed.progress()
            if directory is not None:
                self.probe("loading")
                try:
                    self._load(claimed, task, directory)
                except checkpoint.CheckpointError as error:
                    self.tasks.drop(member.id)
                    before = rescue.origin(claimed)
                    return self._open(claimed) if rescue.restore(claimed, error, before) else None
            member = replace(member, window=(), counted_episodes=0)
        self._set_hyperparameters(task, member.hyperparameters)
        self.tasks.keep(member.id, member.version, task)
        return task, member

    def _build(self, member: Member) -> Task:
        self.tasks.make_room(member.id)
        seed = decide.task_seed(self.config.seed, member.id, member.version)
        with self.stopwatch.on("build"):
            task = slices.build(
                self.make_task, self.config.task_config, member.id, seed, self.context.run_dir
            )
        self.tasks.keep_dirty(member.id, task)  # so that it is closed, whatever happens next
        return task

    def _load(self, claimed: claim.Claim, task: Task, directory: Path) -> None:
        with self.stopwatch.on("load"):
            slices.load(task, directory)
        claimed.progress()

    def _set_hyperparameters(self, task: Task, values: Mapping[str, float]) -> None:
        with self.stopwatch.on("load"):
            slices.set_hyperparameters(task, values, self.config.space)

    # Step: train one slice, publish, commit.

    def _step(self, claimed: claim.Claim, task: Task, member: Member) -> None:
        def after_update() -> None:
            self.probe("training")
            self.beat()
            claimed.progress()

        left = self.config.total_steps - member.agent_steps
        wanted = min(self.config.report_interval, left)
        done = slices.train(task, wanted, left, after_update, self.stop)
        self.stopwatch.add("train", done.seconds)
        if done.agent_steps == 0:  # a stop came before the first update
            claimed.release()
            return
        trained, report = slices.after_slice(self.config, member, done)
        name = claimed.publish(trained, lambda directory: slices.save(task, directory))
        local = self.context.checkpoints.local
        pictures.keep(self.context.run_dir, local / name, trained.id, trained.version)
        self.probe("published")
        ready = decide.is_ready(self.config, trained) and not self.stop()
        committed = claimed.commit(
            replace(trained, checkpoint=name), "slice", report=report, release=not ready
        )
        self.tasks.keep(committed.id, committed.version, task)
        if ready:
            self._exploit_and_explore(claimed, task, committed)

    # Exploit and explore.

    def _exploit_and_explore(self, claimed: claim.Claim, task: Task, member: Member) -> None:
        """Decide whether the member copies another one, do it, and commit with the evidence."""
        with self.stopwatch.on("decide"):
            members = self.store.members()
            decision = decide.choose_donor(self.config, member, members)
        evidence = decision.evidence
        donor = next((other for other in members if other.id == decision.donor), None)
        if donor is not None:
            self.probe("decided")
            try:
                self._copy(claimed, task, donor, "exploit", self.config.copy, evidence)
                return
            except (checkpoint.CheckpointError, slices.TaskCrashed) as error:
                abandoned = str(error)
            if self.tasks.is_dirty(member.id):
                self.tasks.drop(member.id)  # part of the donor may be loaded
            _log.warning("member %d: exploit abandoned: %s", member.id, abandoned)
            evidence = {**evidence, "abandoned": abandoned, "donor": donor.id}
        member = replace(member, last_ready_steps=member.agent_steps)
        no_exploit = records.event_of("no-exploit", member, evidence)
        if self.config.explore_at == "ready" and self.tasks.get(member.id, member.version):
            self._explore_alone(claimed, task, member, no_exploit)
        else:
            claimed.commit(member, None, events=[no_exploit], release=True)

    def _copy(
        self,
        claimed: claim.Claim,
        task: Task,
        donor: Member,
        kind: VersionKind,
        copy: str,
        evidence: Mapping[str, Any],
    ) -> None:
        """Load the donor, explore, set the new values, and commit all of it at once.

        If no weights are copied, the task loads its own checkpoint. Loading makes the running
        episodes uncounted.

        Raises:
            CheckpointError: The donor cannot be read. The store has not changed.
        """
        member = claimed.member
        source = donor if copy in ("both", "weights") else member
        inherited = donor if copy in ("both", "hyperparameters") else member
        with claimed.pinned(source):
            directory = claimed.open_verified(source)
            self.probe("copying")
            self.tasks.keep_dirty(member.id, task)  # at no committed version until the commit
            self._load(claimed, task, directory)
            explored = decide.explore_from(self.config, member, inherited.hyperparameters)
            self._set_hyperparameters(task, explored.hyperparameters)
            child = claimed.publish_child(
                source,
                hyperparameters=explored.hyperparameters,
                last_ready_steps=member.agent_steps,
                parent=(donor.id, donor.version),
                state="active",
            )
        details = {
            **evidence,
            "donor": donor.id,
            "donor_version": donor.version,
            "copy": copy,
            "hyperparameters_before": dict(member.hyperparameters),
            "hyperparameters_after_copy": dict(inherited.hyperparameters),
            "hyperparameters_after_explore": dict(explored.hyperparameters),
        }
        events = [
            records.event_of("exploit" if kind == "exploit" else "reseed", child, details),
            records.event_of("explore", child, explored.evidence),
        ]
        self.probe("explored")
        claimed.commit(child, kind, events=events, release=True)
        self.tasks.keep(child.id, child.version, task)

    def _explore_alone(
        self, claimed: claim.Claim, task: Task, member: Member, no_exploit: Event
    ) -> None:
        """Explore without a copy: change the hyperparameters of a member that copied nobody."""
        explored = decide.explore_from(self.config, member, member.hyperparameters)
        self._set_hyperparameters(task, explored.hyperparameters)
        child = claimed.publish_child(
            member,
            hyperparameters=explored.hyperparameters,
            last_ready_steps=member.agent_steps,
            window=member.window,
            counted_episodes=member.counted_episodes,
        )
        events = [no_exploit, records.event_of("explore", child, explored.evidence)]
        self.probe("explored")
        claimed.commit(child, "explore", events=events, release=True)
        self.tasks.keep(child.id, child.version, task)

    def _reseed(self, claimed: claim.Claim) -> None:
        """Replace a diverged or failed member by a copy of a random donor, without a test."""
        member = claimed.member
        deaths = decide.reseeds_in_vain(self.store.versions(member.id))
        if deaths >= self.config.max_attempts:
            claimed.crashed(f"{deaths} copies of other members died before they finished a slice")
            return
        evidence: dict[str, Any] = {"state": member.state, "unreadable": []}
        for donor in decide.reseed_order(self.config, member, self.store.members()):
            try:
                claimed.open_verified(donor)
                task = self._build(member)
                claimed.progress()
                self._copy(claimed, task, donor, "reseed", "both", evidence)
                return
            except checkpoint.CheckpointError as error:
                _log.warning("member %d: cannot be reseeded: %s", member.id, error)
                evidence["unreadable"].append([donor.id, donor.version])
        claimed.crashed(f"no live member's checkpoint can be read: {evidence['unreadable']}")


def main(
    arguments: Sequence[str] | None = None,
    probe: Callable[[str], None] = lambda name: None,
    durable: bool = True,
) -> int:
    """Run one worker process and return its exit code. For `probe` and `durable` see `run`."""
    parser = argparse.ArgumentParser(
        prog="python -m pbt.worker", description="Train members of a run."
    )
    parser.add_argument("run_dir", type=Path, help="directory of the run")
    parser.add_argument("--residents", type=int, default=16, help="tasks kept alive in memory")
    parser.add_argument("--beat", type=int, default=None, help=argparse.SUPPRESS)
    parser.add_argument("--exit-after", type=float, default=None, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    logging.basicConfig(
        level=logging.INFO, format=f"%(asctime)s worker {os.getpid()} %(levelname)s %(message)s"
    )
    process.dump_stacks_on_abort()
    with process.Stop().installed() as stop:
        if options.beat is not None:
            process.die_with_parent()
        beat = process.Beat(stop, options.beat, options.exit_after)
        try:
            with open_store(options.run_dir, stop, beat, _log.warning, durable) as run_store:
                outcome = run(
                    run_store,
                    options.run_dir,
                    resident_limit=options.residents,
                    stop=stop,
                    beat=beat,
                    probe=probe,
                    durable=durable,
                )
        except store.StoreError as error:
            _log.error("%s", error)
            return 128 + stop() if stop() else verdict.of_error(error)
    _log.info("%s", outcome.message)
    with contextlib.suppress(OSError):  # for benchmarks; nothing depends on it
        path = options.run_dir / "logs" / f"seconds-{os.getpid()}.json"
        path.write_text(json.dumps(outcome.seconds))
    return outcome.exit_code


if __name__ == "__main__":
    sys.exit(main())
