"""Runs of one study that several machines train, which share only a database and a bucket.

A run has the same path below `--run-dir` on every machine: <environment>/<settings>-seed-<seed>.
This path is its name in the database and its folder below the URL of the checkpoints. Small files
that a study reads from a run's directory also lie in that folder, in one object.
"""

import contextlib
import dataclasses
import json
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from experiments.analysis import files, outcome, provenance
from pbt import owner, process, storage, store

LEASE_S = 300.0
"""Seconds after which a run is free if the process that trains it does not renew its lease. Longer
than a slow update takes, and about as long as fresh episodes do."""
_RENEW_S = 60.0
_POLL_S = 2.0
_LEASE = "study"
_FILES = "files.json"
_KNOWN = re.compile(r"commands\.jsonl|outcome\.json|report/(selection|evaluation-\d+-\d+)\.json")


@dataclasses.dataclass(frozen=True)
class Places:
    """Where the runs of a study are kept."""

    store: str | None = None
    """The PostgreSQL database of all runs; None for a SQLite file in each run's directory."""
    checkpoints: str | None = None
    """Folder or URL below which each run's checkpoints are; None for the runs' directories."""

    def checkpoints_of(self, run: str) -> str | None:
        """Return folder or URL of a run's checkpoints."""
        return None if self.checkpoints is None else storage.below(self.checkpoints, run)

    def outcome_of(self, run: str) -> outcome.Outcome | None:
        """Return the outcome of a run that any machine has finished, as far as it was sent.

        Raises:
            pbt.checkpoint.CheckpointError: The place of the checkpoints is away.
        """
        if self.checkpoints is None:
            return None
        text = _read(storage.of(Path(run), self.checkpoints_of(run))).get(outcome.FILE_NAME)
        return None if text is None else outcome.parse(text)

    def send(self, run_dir: Path) -> None:
        """Write the small files of a run's directory beside its checkpoints.

        Raises:
            pbt.checkpoint.CheckpointError: The place of the checkpoints is away.
        """
        if self.checkpoints is None:
            return
        paths = [run_dir / provenance.FILE_NAME, run_dir / outcome.FILE_NAME]
        paths += sorted((run_dir / "report").glob("*.json"))
        texts = {
            str(path.relative_to(run_dir)): path.read_text(encoding="utf-8")
            for path in paths
            if path.exists()
        }
        storage.of(run_dir).write_text(_FILES, json.dumps(texts, indent=1) + "\n")

    def receive(self, run_dir: Path) -> None:
        """Write into a run's directory what the last machine has sent, if any.

        Raises:
            pbt.checkpoint.CheckpointError: The place of the checkpoints is away.
        """
        if self.checkpoints is None:
            return
        for name, text in _read(storage.of(run_dir)).items():
            (run_dir / name).parent.mkdir(exist_ok=True)
            files.replace(run_dir / name, text)

    @contextlib.contextmanager
    def alone(self, run_dir: Path, wait: bool) -> Iterator[Callable[[], None] | None]:
        """Hold the right to train a run in a database. A machine that is lost loses it in minutes.

        Args:
            run_dir: The run's directory.
            wait: Whether to wait until no other process has the right.

        Yields:
            A function to call while training makes progress; None if another process has the right.
            For runs in SQLite files, which one machine trains, it does nothing.
        """
        if self.store is None:
            yield lambda: None
            return
        with store.Store.open(run_dir, busy_timeout_s=_POLL_S) as run_store:
            lease = _Lease(run_store)
            while not (held := lease.take()) and wait:
                time.sleep(_POLL_S)
            try:
                yield lease.renew if held else None
            finally:
                if held:
                    with contextlib.suppress(store.StoreError):
                        run_store.give_up(_LEASE, lease.owner)


IN_DIRECTORIES = Places()
"""The runs' own directories, which one machine sees, or a file system of several shows to all."""


class _Lease:
    """The right of this process to train a run."""

    def __init__(self, run_store: store.Store) -> None:
        self.owner = owner.current()
        self._store = run_store
        self._waiting = process.Waiting(lambda line: print(line, file=sys.stderr))
        self._taken_s = 0.0

    def take(self) -> bool:
        """Take or renew the lease; return False if another process has it or nobody can say."""
        self._taken_s = time.monotonic()
        try:
            gone = owner.gone([self._store.holder(_LEASE)])
            return self._store.acquire(_LEASE, self.owner, LEASE_S, gone)
        except store.StoreBusy as error:
            self._waiting(error.problem, error.way_out)
            return False

    def renew(self) -> None:
        """Renew the lease if it is time.

        If it was lost to another machine, both train the run. The store allows for that, but such a
        run does not repeat exactly.
        """
        if time.monotonic() - self._taken_s > _RENEW_S:
            self.take()


def _read(place: storage.Storage) -> Mapping[str, str]:
    """Return the files that were sent, by name, without what no machine of ours sends."""
    try:
        found = json.loads(place.read_text(_FILES) or "{}")
        return {name: str(text) for name, text in found.items() if _KNOWN.fullmatch(name)}
    except (ValueError, AttributeError, RecursionError):
        return {}
