"""`Claim`: a member while a worker holds it, from `Store.claim` to the commit that releases it."""

import contextlib
import functools
import logging
import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pbt import checkpoint, disk, owner, process, storage
from pbt.records import Event, Lease, Member, Report, Version, VersionKind
from pbt.store import LostLease, Store

_log = logging.getLogger(__name__)

_PAUSE_S = 0.2
_PUBLISH_ATTEMPTS = 4
"""Attempts to publish a checkpoint while its place is there at times and yet refuses it."""
COLLECTION_GRACE_S = 300.0
"""Age in seconds from which an unnamed checkpoint is deleted. A younger one may get its row yet."""


class Stopwatch:
    """Sums of the seconds that a worker spends on each kind of work."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def on(self, what: str) -> Iterator[None]:
        """Count the time inside under `what`."""
        started_s = time.perf_counter()
        try:
            yield
        finally:
            self.add(what, time.perf_counter() - started_s)

    def add(self, what: str, seconds: float) -> None:
        """Add seconds that were measured elsewhere."""
        self.seconds[what] = self.seconds.get(what, 0.0) + seconds


class CheckpointsAway(Exception):
    """The run's checkpoints were not there for a while. The message says what to do."""


@dataclass
class Context:
    """What a worker needs for any member that it claims."""

    store: Store
    run_dir: Path
    checkpoints: storage.Storage
    probe: Callable[[str], None]
    grace_s: float
    """Age in seconds from which a checkpoint that no row names is deleted."""
    stop: Callable[[], int] = lambda: 0
    """Returns the number of the signal that asked to stop, else 0."""
    beat: Callable[[], None] = lambda: None
    """Called while the worker waits for the checkpoints."""
    stopwatch: Stopwatch = field(default_factory=Stopwatch)
    longest_gap_s: float = 0.0
    """Longest time in seconds between two signs of progress that this worker has seen."""

    _collected_s: float = -math.inf

    @property
    def lease_s(self) -> float:
        """How long a lease lasts: longer for a worker that has seen long updates."""
        return max(self.store.config.lease_seconds, 3 * self.longest_gap_s)

    @functools.cached_property
    def identity(self) -> dict[str, Any]:
        """What the checkpoint directory is marked with."""
        return self.store.identity()

    def await_checkpoints(self, on_wait: Callable[[], None] = lambda: None) -> None:
        """Return when the run's checkpoints are there: the disk mounted, or the server reached.

        Args:
            on_wait: Called while they are not there.

        Raises:
            CheckpointsAway: They are still not there, or a signal asked to stop meanwhile.
        """
        began_s = time.monotonic()
        waiting = process.Waiting(_log.warning)
        while True:
            try:
                self.checkpoints.check_there(self.identity)
                return
            except checkpoint.NotThere as error:
                problem = str(error)
            waited_s = time.monotonic() - began_s
            if self.stop() or waited_s >= self.checkpoints.patience_s:
                raise CheckpointsAway(problem)
            waiting(problem, f"for up to {self.checkpoints.patience_s:.0f} s")
            self.beat()
            on_wait()
            time.sleep(min(self.checkpoints.longest_pause_s, max(_PAUSE_S, waited_s / 4)))

    def collect_if_due(self) -> None:
        """Delete checkpoints that nobody needs any more, as often as their place allows.

        One worker of each machine does it for all. A collection looks at everything, so those of N
        workers would cost N x N.
        """
        every_s = min(self.checkpoints.collect_every_s, self.grace_s / 4)
        if time.monotonic() - self._collected_s < every_s:
            return
        self._collected_s = time.monotonic()
        own = owner.current()
        if self.store.acquire(f"collector of {owner.machine(own)}", own, every_s):
            self.collect()

    def collect(self) -> None:
        """Delete checkpoints that nobody needs any more."""
        self.probe("collecting")
        with self.stopwatch.on("collect"):
            collect(self.store, self.checkpoints, self.grace_s)


def collect(
    run_store: Store, checkpoints: storage.Storage, grace_s: float = COLLECTION_GRACE_S
) -> None:
    """Delete checkpoints that nobody needs any more, unless their place is another run's or away.

    Args:
        run_store: The run's store.
        checkpoints: Where the run's checkpoints are.
        grace_s: Age in seconds from which a checkpoint is deleted that no row named yet.
    """
    if checkpoints.is_there(run_store.identity()):
        with contextlib.suppress(checkpoint.NotThere):  # the next collection does it
            checkpoints.collect(
                run_store.referenced_checkpoints,
                grace_s,
                run_store.unneeded_checkpoints,
            )


class Claim:
    """One member, its lease and its checkpoints.

    Files always come before rows: `publish` a checkpoint, then `commit` the version that names it.
    """

    def __init__(self, context: Context, lease: Lease) -> None:
        self._context = context
        self.store, self._stopwatch = context.store, context.stopwatch
        self._lease = lease
        self._progress_s = time.monotonic()
        # Often enough to survive a few slow updates, seldom enough to cost nothing.
        self._renew_every_s = min(15.0, context.store.config.lease_seconds / 4)
        self._renewed_s = time.monotonic()
        self._published_s = -math.inf

    @property
    def member(self) -> Member:
        """The member as it was last committed."""
        return self._lease.member

    def progress(self) -> None:
        """Renew the lease if it is due.

        Call it after each unit of real progress, never from a timer. A timer would outlive a hang.

        Raises:
            LostLease: Another worker has taken the member over.
        """
        self._note_progress()
        if self._progress_s - self._renewed_s >= self._renew_every_s:
            with self._stopwatch.on("claim"):
                self.store.renew(self._lease, self._context.lease_s)
            self._renewed_s = time.monotonic()

    def open_verified(self, of: Member | Version) -> Path:
        """Return the directory of a checkpoint after its digests were checked.

        Raises:
            CheckpointsAway: The run's checkpoints are not there.
            checkpoint.NotThere: The disk does not give out this checkpoint, which may be whole.
            CheckpointError: It cannot be used, or is not what the row says.
        """
        expected = {
            "agent_steps": of.agent_steps,
            "hyperparameters": dict(of.hyperparameters),
        }
        context = self._context
        late_until_s: float | None = None
        while True:
            context.await_checkpoints(self.progress)
            try:
                with self._stopwatch.on("load"):
                    return context.checkpoints.open_verified(*_key(of), expected)
            except checkpoint.NotThere:
                if context.checkpoints.is_there(context.identity):
                    raise  # the rest is there, so it is this checkpoint that cannot be read
            except checkpoint.Missing:
                if late_until_s is None:
                    late_until_s = time.monotonic() + self._late_s(of)
                if time.monotonic() >= late_until_s:
                    raise
                context.beat()
                self.progress()
                time.sleep(_PAUSE_S)

    @contextlib.contextmanager
    def pinned(self, donor: Member) -> Iterator[None]:
        """Keep a donor's checkpoint from being collected while it is copied.

        Raises:
            CheckpointError: It may be deleted already.
        """
        assert donor.checkpoint is not None
        seconds = max(60.0, self.store.config.lease_seconds)
        if not self.store.pin(donor.checkpoint, self._lease.owner, seconds):
            raise checkpoint.CheckpointError(
                f"member {donor.id}: {donor.checkpoint} is not kept any more"
            )
        try:
            yield
        finally:
            self.store.unpin(donor.checkpoint, self._lease.owner)

    def publish(self, member: Member, write: Callable[[Path], None]) -> str:
        """Write the files of a new version, and return the checkpoint's name.

        Args:
            member: The new version, not yet committed.
            write: Writes the files into the directory that it is given.

        Raises:
            disk.DiskFull: There was no space, and there was none a few seconds later.
        """

        def write_and_probe(directory: Path) -> None:
            write(directory)
            self._context.probe("writing-checkpoint")

        return self._publish(
            lambda: self._context.checkpoints.publish(
                member.id, member.version, write_and_probe, _manifest(member)
            )
        )

    def publish_child(self, source: Member | Version, **changes: Any) -> Member:
        """Publish the files of `source` as the member's next version; return it, not yet committed.

        Args:
            source: The version whose files and score the child takes over.
            changes: Fields of the child that differ from the member. Its window starts again unless
                they say otherwise.

        Raises:
            CheckpointError: The source is gone.
            disk.DiskFull: There was no space, and there was none a few seconds later.
        """
        # A score belongs to weights, so it is copied with them.
        inherited = {"window": (), "counted_episodes": 0, "score": source.score}
        fresh: dict[str, Any] = {**inherited, **changes}
        child = replace(self.member, version=self.member.version + 1, **fresh)
        name = self._publish(
            lambda: self._context.checkpoints.child_of(
                *_key(source), child.id, child.version, _manifest(child)
            )
        )
        return replace(child, checkpoint=name)

    def commit(
        self,
        member: Member,
        kind: VersionKind | None,
        *,
        report: Report | None = None,
        events: Sequence[Event] = (),
        release: bool = False,
    ) -> Member:
        """Commit a new state, its report and its events at once; return the member as committed.

        Raises:
            LostLease: Another worker has taken the member over; nothing was changed.
            disk.DiskFull: There was no space, and there was none a few seconds later.
        """
        if kind is not None and time.monotonic() - self._published_s > self._context.grace_s / 2:
            # This process was suspended: a collector may have deleted what no row named yet.
            raise LostLease(f"member {member.id}: its checkpoint was published too long ago")

        def write() -> Lease:
            with self._stopwatch.on("commit"):
                return self.store.commit(
                    self._lease,
                    member,
                    kind=kind,
                    report=report,
                    events=events,
                    release=release,
                    lease_seconds=self._context.lease_s,
                )

        self._lease = disk.retry(write, self._space, self._context.collect)
        self._note_progress()
        self._renewed_s = self._progress_s
        self._context.probe("committed")
        return self._lease.member

    def release(self) -> None:
        """Give the member back as it was last committed."""
        with self._stopwatch.on("commit"):
            self.store.release(self._lease)

    def crashed(self, error: str) -> None:
        """Give the member back and count a crash, after which it rests or has failed."""
        with self._stopwatch.on("commit"):
            self.store.crash(self._lease, error)

    def _publish(self, publish: Callable[[], str]) -> str:
        def timed() -> str:
            with self._stopwatch.on("publish"):
                return publish()

        self.progress()
        context = self._context
        for attempts_left in reversed(range(_PUBLISH_ATTEMPTS)):
            # On a disk that is not mounted, it would be written below the mount point.
            context.await_checkpoints(self.progress)
            try:
                name = disk.retry(timed, self._space, context.collect)
                break
            except checkpoint.NotThere as error:
                if not attempts_left:
                    raise CheckpointsAway(str(error)) from error
                _log.warning("member %d: publishing again: %s", self.member.id, error)
        self._published_s = time.monotonic()
        return name

    def _late_s(self, of: Member | Version) -> float:
        """Return for how long a committed checkpoint may still be invisible on this machine."""
        if not (late_s := self._context.checkpoints.late_s):
            return 0.0
        committed = self.store.version(of.id, of.version) if isinstance(of, Member) else of
        return late_s - (self.store.now() - committed.created_s)

    def _note_progress(self) -> None:
        now_s = time.monotonic()
        context = self._context
        context.longest_gap_s = max(context.longest_gap_s, now_s - self._progress_s)
        self._progress_s = now_s

    def _space(self, error: Exception) -> str:
        """Say how much space is free, and how much the member's last checkpoint took."""
        local = self._context.checkpoints.local
        free = shutil.disk_usage(local if local.is_dir() else self._context.run_dir).free
        needed = "unknown"
        if self.member.checkpoint is not None:
            with contextlib.suppress(OSError):
                files = list((local / self.member.checkpoint).iterdir())
                needed = f"{sum(file.stat().st_size for file in files):,}"
        return (
            f"no space for member {self.member.id} in {self._context.checkpoints} ({error}):"
            f" {free:,} bytes free, {needed} needed"
        )


def _key(of: Member | Version) -> tuple[str, int, int]:
    """Return name, member and version of a checkpoint, as `pbt.checkpoint` takes them."""
    if of.checkpoint is None:
        raise checkpoint.CheckpointError(f"version {of.version} of a member has no checkpoint")
    member = of.id if isinstance(of, Member) else of.member
    return of.checkpoint, member, of.version


def _manifest(member: Member) -> Mapping[str, Any]:
    return {
        "agent_steps": member.agent_steps,
        "hyperparameters": dict(member.hyperparameters),
        "parent": None if member.parent is None else list(member.parent),
    }
