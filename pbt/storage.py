"""Where a run's checkpoints are: in its directory, in a folder elsewhere, or in an object store.

A file in the run's directory, `run.checkpoints`, names the place if it is not `checkpoints` beside
it. It holds no secret.
"""

import functools
import json
import os
import secrets
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Protocol

from pbt import bucket, checkpoint, objects
from pbt import files as file_system

FILE_NAME = "run.checkpoints"
"""The file that says where a run's checkpoints are, unless they are in its directory."""
DIRECTORY = "checkpoints"
"""The directory of checkpoints in a run's."""
CACHE = "checkpoints-cache"
"""The cache of an object store in a run's directory."""
_LATE_S = 60.0


class Storage(Protocol):
    """Where a run's checkpoints are. Its text names the place."""

    patience_s: float
    """Seconds for which a place that is away is waited for."""
    longest_pause_s: float
    """Longest pause in seconds between two looks for it."""
    collect_every_s: float
    """Seconds between two collections of a worker."""

    @property
    def late_s(self) -> float:
        """Seconds for which what another machine published may be invisible on this one."""

    @property
    def local(self) -> Path:
        """The directory on this machine that holds what was published or opened here, by name."""

    def mark(self, identity: Mapping[str, Any]) -> None:
        """Write whose checkpoints these are, see `checkpoint.mark`."""

    def check_there(self, identity: Mapping[str, Any]) -> None:
        """Raise `NotThere` unless the place can be read and is the run's."""

    def is_there(self, identity: Mapping[str, Any]) -> bool:
        """Return whether `check_there` finds nothing wrong."""

    def adopt(self, identity: Mapping[str, Any], names: Collection[str]) -> bool:
        """Mark the place of a run that is not marked yet, see `checkpoint.adopt`."""

    def is_used(self) -> bool:
        """Return whether the place is marked, or holds a version of a trained member."""

    def publish(
        self,
        member: int,
        version: int,
        write: Callable[[Path], None],
        manifest: Mapping[str, Any],
    ) -> str:
        """Write a new checkpoint, which appears complete or not at all, see `checkpoint.publish`.

        Raises:
            NotThere: The place is away. Nothing has appeared.
        """

    def child_of(
        self,
        donor: str,
        donor_member: int,
        donor_version: int,
        member: int,
        version: int,
        manifest: Mapping[str, Any],
        *,
        donor_root: Path | None = None,
    ) -> str:
        """Publish a checkpoint with the files of another one, see `checkpoint.child_of`.

        Call `open_verified` on the donor first. For the donor of another run, `donor_root` is the
        `local` directory of that run's storage.
        """

    def open_verified(
        self,
        name: str,
        member: int,
        version: int,
        expected: Mapping[str, Any] | None = None,
    ) -> Path:
        """Check a checkpoint and return a directory with its files, see `checkpoint.open_verified`.

        Raises:
            NotThere: The place is away. This is no damage.
            CheckpointError: The checkpoint is missing, damaged or of another member.
        """

    def collect(
        self,
        referenced: Callable[[], Collection[str]],
        grace_s: float,
        unneeded: Callable[[Collection[str]], Collection[str]] = lambda names: (),
    ) -> list[str]:
        """Delete checkpoints that no row names, see `checkpoint.collect`."""

    def write_text(self, name: str, text: str) -> None:
        """Write a small file beside the checkpoints. It replaces one that is there, whole.

        Raises:
            NotThere: The place is away.
        """

    def read_text(self, name: str) -> str | None:
        """Return what `write_text` wrote, perhaps on another machine; None without such a file.

        Raises:
            NotThere: The place is away.
        """


class Directory:
    """Checkpoints in a directory, see `pbt.checkpoint`.

    Args:
        root: The directory.
        durable: Whether files survive a power cut (fsync).
    """

    patience_s = 60.0
    longest_pause_s = 0.2
    collect_every_s = 10.0

    def __init__(self, root: Path, durable: bool = True) -> None:
        self.local = root
        self._durable = durable

    def __str__(self) -> str:
        return str(self.local)

    @functools.cached_property
    def late_s(self) -> float:
        """See `Storage.late_s`: the time for which network file systems cache a directory."""
        return _LATE_S if file_system.is_on_network(self.local) else 0.0

    def mark(self, identity: Mapping[str, Any]) -> None:
        """See `Storage.mark`."""
        checkpoint.mark(self.local, identity, durable=self._durable)

    def check_there(self, identity: Mapping[str, Any]) -> None:
        """See `Storage.check_there`."""
        checkpoint.check_there(self.local, identity)

    def is_there(self, identity: Mapping[str, Any]) -> bool:
        """See `Storage.is_there`."""
        return checkpoint.is_there(self.local, identity)

    def adopt(self, identity: Mapping[str, Any], names: Collection[str]) -> bool:
        """See `Storage.adopt`."""
        return checkpoint.adopt(self.local, identity, names, durable=self._durable)

    def is_used(self) -> bool:
        """See `Storage.is_used`."""
        return checkpoint.is_used(self.local)

    def publish(
        self,
        member: int,
        version: int,
        write: Callable[[Path], None],
        manifest: Mapping[str, Any],
    ) -> str:
        """See `Storage.publish`."""
        return checkpoint.publish(
            self.local, member, version, write, manifest, durable=self._durable
        )

    def child_of(
        self,
        donor: str,
        donor_member: int,
        donor_version: int,
        member: int,
        version: int,
        manifest: Mapping[str, Any],
        *,
        donor_root: Path | None = None,
    ) -> str:
        """See `Storage.child_of`."""
        return checkpoint.child_of(
            self.local,
            donor,
            donor_member,
            donor_version,
            member,
            version,
            manifest,
            donor_root=donor_root,
            durable=self._durable,
        )

    def open_verified(
        self,
        name: str,
        member: int,
        version: int,
        expected: Mapping[str, Any] | None = None,
    ) -> Path:
        """See `Storage.open_verified`."""
        return checkpoint.open_verified(self.local, name, member, version, expected)

    def collect(
        self,
        referenced: Callable[[], Collection[str]],
        grace_s: float,
        unneeded: Callable[[Collection[str]], Collection[str]] = lambda names: (),
    ) -> list[str]:
        """See `Storage.collect`."""
        return checkpoint.collect(self.local, referenced, grace_s, unneeded)

    def write_text(self, name: str, text: str) -> None:
        """See `Storage.write_text`."""
        try:
            _replace(self.local / name, text)
        except OSError as error:
            raise checkpoint.NotThere(f"{self} cannot be written to ({error})") from error

    def read_text(self, name: str) -> str | None:
        """See `Storage.read_text`."""
        try:
            return (self.local / name).read_text(encoding="utf-8")
        except (FileNotFoundError, UnicodeDecodeError):
            return None
        except OSError as error:
            raise checkpoint.NotThere(f"{self} cannot be read ({error})") from error


def check_url(url: str | None) -> None:
    """Raise `ValueError` unless checkpoints can be kept there; None is the run's directory."""
    if url is not None:
        _parse(url)


def of(run_dir: Path, url: str | None = None, *, durable: bool = True) -> Storage:
    """Return where a run's checkpoints are. Nothing is connected to.

    Args:
        run_dir: The run's directory.
        url: A folder or a URL for a run that is not there yet. None: what the run's directory says.
        durable: Whether files survive a power cut (fsync).

    Raises:
        ValueError: The URL, or the file that holds it, cannot be used.
    """
    place = _parse(url) if url is not None else _recorded(run_dir)
    if place is None:
        return Directory(run_dir / DIRECTORY, durable)
    if "://" in place:
        return objects.Objects(place, run_dir / CACHE)
    return Directory(Path(place), durable)


def place(run_dir: Path) -> str:
    """Return where a run's checkpoints are: a folder or URL, or `checkpoints` in its directory.

    Raises:
        checkpoint.NotThere: The file that says it cannot be used.
    """
    return _recorded(run_dir) or DIRECTORY


def check_same(run_dir: Path, url: str) -> None:
    """Raise `ValueError` unless the checkpoints of a run that is there are at this place."""
    found = _recorded(run_dir) or str((run_dir / DIRECTORY).absolute())
    if _parse(url) != found:
        raise ValueError(
            f"{run_dir}: the run's checkpoints are in {found} and not in {_parse(url)}: leave "
            "--checkpoints out"
        )


def record(run_dir: Path, url: str | None) -> None:
    """Write where the checkpoints of a new run are; None is what the run's directory says.

    Raises:
        OSError: The file cannot be written.
    """
    if url is None:
        return
    _replace(run_dir / FILE_NAME, json.dumps({"url": _parse(url)}) + "\n")
    file_system.sync_directory(run_dir)


def below(url: str, name: str) -> str:
    """Return the folder or URL of this name below another one."""
    if "://" not in url:
        return str(Path(url) / name)
    place, question, parameters = url.partition("?")
    return f"{place.rstrip('/')}/{name}{question}{parameters}"


def _replace(path: Path, text: str) -> None:
    """Write a text file aside, then rename it to `path`."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _parse(url: str) -> str:
    """Return a URL, or the absolute path of a folder."""
    if "://" in url:
        return bucket.parse_url(url)
    if not url.strip():
        raise ValueError(
            "checkpoints need a place: name a folder, or a URL such as s3://bucket/run"
        )
    return str(Path(url).expanduser().absolute())


def _recorded(run_dir: Path) -> str | None:
    path = run_dir / FILE_NAME
    try:
        url = json.loads(path.read_text(encoding="utf-8"))["url"]
        if not isinstance(url, str):
            raise ValueError
        return _parse(url)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        said = f" ({error})" if str(error) else ""
        raise checkpoint.NotThere(
            f'{path} does not say where the checkpoints are{said}: it must hold {{"url": "..."}}'
        ) from None
