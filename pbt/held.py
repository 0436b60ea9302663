"""A member while a worker holds it: its lease, its files, and the one way to commit."""

import contextlib
import errno
import logging
import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from pbt import checkpoint
from pbt.member import Event, Lease, Member, Report, Version, VersionKind
from pbt.store import LostLease, Store

_log = logging.getLogger(__name__)

Written = TypeVar("Written")

DISK_FULL_PAUSES_S = (0.5, 1.0, 2.0, 4.0)
"""Pauses before writing to a full disk is tried again."""


class DiskFull(Exception):
    """A checkpoint could not be written; the message says how much is free and needed."""


class Clock:
    """Seconds of a worker's life by what it did."""

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
        """Count time under `what` that was measured elsewhere."""
        self.seconds[what] = self.seconds.get(what, 0.0) + seconds


@dataclass
class Desk:
    """What a worker works with, whichever member it holds."""

    store: Store
    checkpoints: Path
    probe: Callable[[str], None]
    durable: bool
    grace_s: float
    """Age from which a checkpoint that nobody names is deleted."""
    clock: Clock = field(default_factory=Clock)

    _collected_s: float = -math.inf

    def collect_if_due(self) -> None:
        """Delete checkpoints that nobody names any more, now and then."""
        if time.monotonic() - self._collected_s < min(10.0, self.grace_s / 4):
            return
        self._collected_s = time.monotonic()
        self.probe("collecting")
        with self.clock.on("collect"):
            checkpoint.collect(self.checkpoints, self.store.referenced_checkpoints, self.grace_s)


class Held:
    """The claim of one member, from `Store.claim` to a commit that releases it.

    Order is always files before rows: `publish`, then `commit` what names the published directory.
    """

    def __init__(self, desk: Desk, lease: Lease) -> None:
        self._desk = desk
        self._store, self._clock = desk.store, desk.clock
        self._lease = lease
        # Often enough to survive a few slow updates, seldom enough to cost nothing.
        self._renew_every_s = min(15.0, desk.store.config.lease_seconds / 4)
        self._renewed_s = time.monotonic()
        self._published_s = -math.inf

    @property
    def store(self) -> Store:
        """Where the member is."""
        return self._store

    @property
    def member(self) -> Member:
        """The member as it was last committed."""
        return self._lease.member

    def progress(self) -> None:
        """Say that something was achieved: renews the lease if that is due.

        Called from what makes progress, never from a timer, which would outlive a hang.

        Raises:
            LostLease: somebody else has taken the member over.
        """
        if time.monotonic() - self._renewed_s >= self._renew_every_s:
            with self._clock.on("claim"):
                self._store.renew(self._lease)
            self._renewed_s = time.monotonic()

    def open_verified(self, of: Member | Version) -> Path:
        """The directory of a checkpoint, digests checked.

        Raises:
            CheckpointError: it cannot be used.
        """
        with self._clock.on("load"):
            return checkpoint.open_verified(self._desk.checkpoints, *_key(of))

    @contextlib.contextmanager
    def pinned(self, donor: Member) -> Iterator[None]:
        """Keep a donor's checkpoint from being collected while it is copied.

        Raises:
            CheckpointError: it may be deleted already.
        """
        assert donor.checkpoint is not None
        seconds = max(60.0, self._store.config.lease_seconds)
        if not self._store.pin(donor.checkpoint, self._lease.owner, seconds):
            raise checkpoint.CheckpointError(
                f"member {donor.id}: {donor.checkpoint} is not kept any more"
            )
        try:
            yield
        finally:
            self._store.unpin(donor.checkpoint, self._lease.owner)

    def publish(self, member: Member, write: Callable[[Path], None]) -> str:
        """Write the files of what will be `member`; returns the checkpoint's name.

        Raises:
            DiskFull: there was no space, also not a little later.
        """

        def write_and_probe(directory: Path) -> None:
            write(directory)
            self._desk.probe("writing-checkpoint")

        return self._publish(
            lambda: checkpoint.publish(
                self._desk.checkpoints,
                member.id,
                member.version,
                write_and_probe,
                _manifest(member),
                durable=self._desk.durable,
            )
        )

    def publish_child(self, source: Member | Version, **changes: Any) -> Member:
        """Publish the source's files as the next version; returns the member to commit.

        Args:
            source: whose files.
            changes: how the member changes besides; its window starts again unless they say so.

        Raises:
            CheckpointError: the source is gone.
            DiskFull: there was no space, also not a little later.
        """
        # The score is the weights', not the member's: it comes with them.
        inherited = {"window": (), "counted_episodes": 0, "score": source.score}
        fresh: dict[str, Any] = {**inherited, **changes}
        child = replace(self.member, version=self.member.version + 1, **fresh)
        name = self._publish(
            lambda: checkpoint.child_of(
                self._desk.checkpoints,
                *_key(source),
                child.id,
                child.version,
                _manifest(child),
                durable=self._desk.durable,
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
        """Commit everything at once; returns the member as committed.

        Raises:
            LostLease: somebody else has taken the member over; nothing was changed.
            DiskFull: there was no space, also not a little later.
        """
        if kind is not None and time.monotonic() - self._published_s > self._desk.grace_s / 2:
            # We were stopped in between: the collector may have taken what nobody named yet.
            raise LostLease(f"member {member.id}: its checkpoint was published too long ago")

        def write() -> Lease:
            with self._clock.on("commit"):
                return self._store.commit(
                    self._lease, member, kind=kind, report=report, events=events, release=release
                )

        self._lease = self._with_space(write)
        self._renewed_s = time.monotonic()
        self._desk.probe("committed")
        return self._lease.member

    def release(self) -> None:
        """Give the member back as it was last committed."""
        with self._clock.on("commit"):
            self._store.release(self._lease)

    def crashed(self, error: str) -> None:
        """Give the member back and count a crash: after `max_attempts` in a row it is failed."""
        with self._clock.on("commit"):
            self._store.crash(self._lease, error)

    def _publish(self, publish: Callable[[], str]) -> str:
        def timed() -> str:
            with self._clock.on("publish"):
                return publish()

        self.progress()
        name = self._with_space(timed)
        self._published_s = time.monotonic()
        return name

    def _with_space(self, write: Callable[[], Written]) -> Written:
        for pause_s in (*DISK_FULL_PAUSES_S, None):
            try:
                return write()
            except Exception as error:
                if not is_disk_full(error):
                    raise
                message = self._space(error)
            if pause_s is not None:
                _log.warning("%s; trying again in %s s", message, pause_s)
                time.sleep(pause_s)
        raise DiskFull(message)

    def _space(self, error: Exception) -> str:
        """What is free, and what the member's last checkpoint took."""
        free = shutil.disk_usage(self._desk.checkpoints).free
        needed = "unknown"
        if self.member.checkpoint is not None:
            with contextlib.suppress(OSError):
                files = list((self._desk.checkpoints / self.member.checkpoint).iterdir())
                needed = f"{sum(file.stat().st_size for file in files):,}"
        return (
            f"no space for member {self.member.id} in {self._desk.checkpoints} ({error}):"
            f" {free:,} bytes free, {needed} needed"
        )


def is_disk_full(error: BaseException) -> bool:
    """Whether an error, or what caused it, was a full disk, quota or file size limit."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return True
    text = str(error).lower()
    if "no space left" in text or "disk is full" in text or "file too large" in text:
        return True
    return error.__cause__ is not None and is_disk_full(error.__cause__)


def _key(of: Member | Version) -> tuple[str, int, int]:
    """Name, member and version of a checkpoint, as `pbt.checkpoint` wants them."""
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
