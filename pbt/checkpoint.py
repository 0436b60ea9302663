"""Checkpoints: immutable directories, published atomically, verified before they are read.

    ROOT/RUN.json                                   whose checkpoints these are
    ROOT/<member>/<version>-<nonce>/manifest.json   member, size and sha256 of each file, ...
    ROOT/<member>/<version>-<nonce>/<file>          plain files, written by `Task.save`
    ROOT/<member>/.tmp-<nonce>/                     a directory that is being written or deleted

The order is always files before rows, rows before deletion. A directory is published before the
store names it, and deleted only after no row and no pin names it any more. A published directory is
complete, because it is written and synced under another name and then renamed. The nonce keeps it
apart from the remains of an earlier attempt at the same version.

RUN.json tells a disk that is not mounted from checkpoints that were lost. Without it nothing is
known about any checkpoint, so none counts as damaged.

This module does not know what the files contain. It executes and unpickles nothing.
"""

import contextlib
import fcntl
import hashlib
import json
import math
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from pbt import files as file_system
from pbt import manifests

FORMAT = manifests.FORMAT
MANIFEST = manifests.FILE_NAME
MARKER = "RUN.json"
_TEMPORARY = ".tmp-"

CheckpointError = manifests.CheckpointError
NotThere = manifests.NotThere
Missing = manifests.Missing


def mark(root: Path, identity: Mapping[str, Any], *, durable: bool = True) -> None:
    """Make a run's checkpoint directory, and write into it whose it is. Do nothing if it is there.

    Args:
        root: The run's checkpoint directory.
        identity: JSON that tells the run from all others, see `Store.identity`.
        durable: Whether it survives a power cut (fsync). False is for toys and tests.

    Raises:
        NotThere: The directory is marked as another run's.
        OSError: The directory cannot be written.
    """
    root.mkdir(parents=True, exist_ok=True)
    found = _read_marker(root)
    if found == manifests.plain(identity):
        return
    if isinstance(found, dict):
        raise NotThere(_of_another_run(root))
    temporary = root / f"{_TEMPORARY}{MARKER}-{secrets.token_hex(8)}"
    try:
        temporary.write_text(json.dumps(identity, indent=1, sort_keys=True) + "\n")
        _seal(temporary, durable)
        os.replace(temporary, root / MARKER)
    finally:
        temporary.unlink(missing_ok=True)
    if durable:
        file_system.sync_directory(root)
        file_system.sync_directory(root.parent)


def check_there(root: Path, identity: Mapping[str, Any]) -> None:
    """Check that a run's checkpoint directory can be read, and is that run's.

    Args:
        root: The run's checkpoint directory.
        identity: As given to `mark`.

    Raises:
        NotThere: It is not there, or is marked as another run's. The message says what to do.
    """
    try:
        found = _read_marker(root)
    except OSError as error:
        raise NotThere(
            f"{root} is not there ({error.strerror or error}): mount its disk or put the directory "
            "back, and give the same command again"
        ) from error
    if found is None:
        raise NotThere(
            f"{root} is not there, or is empty: there is no {MARKER} in it. Mount its disk or put "
            "the checkpoints back, and give the same command again"
        )
    if found != manifests.plain(identity):
        raise NotThere(_of_another_run(root))


def is_there(root: Path, identity: Mapping[str, Any]) -> bool:
    """Return whether `check_there` finds nothing wrong."""
    try:
        check_there(root, identity)
    except NotThere:
        return False
    return True


def adopt(
    root: Path, identity: Mapping[str, Any], names: Collection[str], *, durable: bool = True
) -> bool:
    """Mark the checkpoint directory of a run that was made before directories were marked.

    Args:
        root: The run's checkpoint directory.
        identity: As given to `mark`.
        names: Checkpoints that the store keeps. Without any the run has not trained yet. Otherwise
            one of them has to be there, because an empty directory may be an unused mount point.
        durable: As for `mark`.

    Returns:
        Whether the directory is there and marked as this run's.
    """
    try:
        if not names or any((root / name).is_dir() for name in names):
            mark(root, identity, durable=durable)
    except (OSError, NotThere):
        return False
    return is_there(root, identity)


def is_used(root: Path) -> bool:
    """Return whether a checkpoint directory is marked, or holds a version of a trained member.

    Versions 0 without a mark are the remains of the killed creation of a fork, which publishes
    its checkpoints before the store exists.
    """
    versions = (
        match[2] for name, _ in _candidates(root) if (match := manifests.NAME.fullmatch(name or ""))
    )
    return (root / MARKER).exists() or any(version != "0" for version in versions)


def publish(
    root: Path,
    member: int,
    version: int,
    write: Callable[[Path], None],
    manifest: Mapping[str, Any],
    *,
    durable: bool = True,
) -> str:
    """Write a new checkpoint, which appears complete or not at all.

    What `write` raises, such as a full disk, propagates after the files were removed.

    Args:
        root: The run's checkpoint directory. It is made if it is missing.
        member: Id of the member.
        version: Version at which the store will commit the state.
        write: Writes plain files, no directories, into the empty directory that it is given.
        manifest: JSON to keep with the files, such as the hyperparameters and the parent.
        durable: Whether the files survive a power cut (fsync). False is for toys and tests.

    Returns:
        The checkpoint's name: its directory relative to `root`, with "/".

    Raises:
        ValueError: The manifest is not JSON or uses a reserved name, or `write` left something
            else than plain files.
        OSError: The files cannot be written.
    """
    manifests.check_fields(manifest)

    def fill(directory: Path) -> dict[str, Any]:
        write(directory)
        files = {}
        for entry in sorted(os.scandir(directory), key=lambda entry: entry.name):
            if not entry.is_file(follow_symlinks=False) or entry.name == MANIFEST:
                raise ValueError(
                    f"member {member} saved {entry.name!r}: a checkpoint holds plain files only, "
                    f"none of them called {MANIFEST}"
                )
            path = directory / entry.name
            files[entry.name] = {"sha256": digest(path), "bytes": entry.stat().st_size}
            _seal(path, durable)
        return files

    return _publish(root, member, version, fill, manifest, durable)


def child_of(
    root: Path,
    donor: str,
    donor_member: int,
    donor_version: int,
    member: int,
    version: int,
    manifest: Mapping[str, Any],
    *,
    donor_root: Path | None = None,
    durable: bool = True,
) -> str:
    """Publish a new checkpoint with the files of another one, for an exploit, a restore or a fork.

    The directory and the manifest are new. The files are hard links, or copies where links cannot
    be made, so the child stays complete when the donor's checkpoint is deleted. Only file sizes are
    checked, so call `open_verified` on the donor first.

    Args:
        root: The run's checkpoint directory.
        donor: Name of the checkpoint to copy.
        donor_member: Member that it must be of.
        donor_version: Version that it must be of.
        member: Id of the child's member.
        version: The child's version.
        manifest: The child's own manifest, see `publish`.
        donor_root: Checkpoint directory of the donor's run, if that is another run.
        durable: Whether the files survive a power cut, see `publish`.

    Returns:
        The child's name.

    Raises:
        CheckpointError: The donor's checkpoint is missing, incomplete or of another member.
        OSError: The files cannot be written.
    """
    source, files, _ = _inspect(donor_root or root, donor, donor_member, donor_version)

    def fill(directory: Path) -> dict[str, Any]:
        for name in files:
            try:
                link_or_copy(source / name, directory / name, durable)
            except FileNotFoundError as error:  # it was collected meanwhile
                where = f"member {donor_member}: {donor}/{name}"
                raise _missing(donor_root or root, where) from error
        return files

    return _publish(root, member, version, fill, manifest, durable)


def open_verified(
    root: Path,
    name: str,
    member: int,
    version: int,
    expected: Mapping[str, Any] | None = None,
) -> Path:
    """Check a checkpoint completely, digests included, and return its directory.

    Args:
        root: The run's checkpoint directory.
        name: The checkpoint's name.
        member: Member that it must be of.
        version: Version that it must be of.
        expected: What the store's row says. A field that the manifest has too must be equal.

    Raises:
        NotThere: The disk or the whole directory is not there. This is no damage.
        CheckpointError: It is missing, incomplete, changed, of another member, or outside `root`.
    """
    directory, files, manifest = _inspect(root, name, member, version)
    manifests.check_row(manifest, name, expected or {})
    for file_name, entry in files.items():
        where = f"member {member}: {name}/{file_name}"
        try:
            found = digest(directory / file_name)
        except OSError as error:
            raise _unreadable(root, name, where, error) from error
        if found != entry["sha256"]:
            raise CheckpointError(
                f"{where} is damaged: its sha256 is {found}, the manifest says {entry['sha256']}"
            )
    return directory


def collect(
    root: Path,
    referenced: Collection[str] | Callable[[], Collection[str]],
    grace_s: float,
    unneeded: Callable[[Collection[str]], Collection[str]] = lambda names: (),
) -> list[str]:
    """Delete checkpoints that no row names, and remains of interrupted writes and deletions.

    Several collectors may run at once. The next one completes what a killed one began. Links are
    never followed, and anything that does not look like a checkpoint is left alone. Files of a
    killed writer are deleted at once, since its lock ended with it. A living writer's stay.

    Args:
        root: The run's checkpoint directory.
        referenced: Names to keep, or better the store's method that returns them. The method is
            called after the directory was listed, so a checkpoint that is committed meanwhile is
            safe, however short the grace time.
        grace_s: Age in seconds from which a checkpoint may be deleted. A younger one may not be in
            the store yet.
        unneeded: Returns those of the names that need no grace, because no row can name them any
            more. Called like `referenced`, see `Store.unneeded_checkpoints`.

    Returns:
        Names of the checkpoints that this call deleted.
    """
    found = list(_candidates(root))
    now = file_system.now_in(root)
    keep = set(referenced() if callable(referenced) else referenced)
    at_once = set(unneeded([name for name, _ in found if name is not None and name not in keep]))
    removed = []
    for name, directory in found:
        if name is None:
            _remove_abandoned(directory, now)
            continue
        if name in keep or (name not in at_once and _age_s(directory, now) < grace_s):
            continue
        # Under its own name a checkpoint is always complete, so rename it before deleting it.
        doomed = directory.with_name(f"{_TEMPORARY}{secrets.token_hex(8)}")
        try:
            os.rename(directory, doomed)
        except OSError:  # another collector was quicker, or nothing can be deleted here
            continue
        removed.append(name)
        shutil.rmtree(doomed, ignore_errors=True)
    file_system.remove_old(root, f"{_TEMPORARY}*")  # of `mark`
    return removed


def _read_marker(root: Path) -> Any:
    """Return what RUN.json holds; None if it is missing or no JSON."""
    try:
        return json.loads((root / MARKER).read_bytes())
    except (FileNotFoundError, ValueError):
        return None


def _of_another_run(root: Path) -> str:
    return (
        f"{root / MARKER} says that the checkpoints there are another run's: put this run's own "
        "checkpoints there, and give the same command again"
    )


def _missing(root: Path, what: str) -> CheckpointError:
    """Return the error for something that is missing, by whether the rest is there."""
    if (root / MARKER).exists():
        return Missing(f"{what} is missing")
    return NotThere(f"{what} is missing, and so is {root / MARKER}")


def _unreadable(root: Path, name: str, where: str, error: OSError) -> CheckpointError:
    """Return the error for something that the file system does not give out."""
    if isinstance(error, FileNotFoundError):
        return _missing(root, where)
    return NotThere(
        f"{where} cannot be read ({error.strerror or error}): see to the disk. If it is well, "
        f"delete {root / name}, and the member goes back to its version before"
    )


def _publish(
    root: Path,
    member: int,
    version: int,
    fill: Callable[[Path], dict[str, Any]],
    manifest: Mapping[str, Any],
    durable: bool,
) -> str:
    """Publish the files that `fill` makes; it returns their manifest entries."""
    name = manifests.new_name(member, version)

    def write(directory: Path) -> None:
        content: dict[str, Any] = {"format": FORMAT, "member": member, "version": version}
        content |= {"files": fill(directory), **manifest}
        (directory / MANIFEST).write_bytes(manifests.encode(content))
        _seal(directory / MANIFEST, durable)

    appear(root, name, write, durable)
    return name


def appear(root: Path, name: str, write: Callable[[Path], None], durable: bool) -> None:
    """Make a checkpoint's directory, which appears complete or not at all.

    Args:
        root: The run's checkpoint directory. It is made if it is missing.
        name: The checkpoint's name.
        write: Writes all files, the manifest too, into the empty directory that it is given. What
            it raises propagates after the files were removed.
        durable: As for `publish`.
    """
    home = (root / name).parent
    is_new_home = not home.is_dir()
    home.mkdir(parents=True, exist_ok=True)
    if durable and is_new_home:
        file_system.sync_directory(root)
    temporary = home / f"{_TEMPORARY}{secrets.token_hex(8)}"
    lock = _make_locked(temporary)
    try:
        write(temporary)
        if durable:
            file_system.sync_directory(temporary)
        os.rename(temporary, root / name)
    except BaseException:
        # Free the space at once, because the disk may be full.
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    finally:
        os.close(lock)
    if durable:
        file_system.sync_directory(home)


def _make_locked(directory: Path) -> int:
    """Make a directory that no collector deletes while this process lives.

    Returns:
        A descriptor that holds the lock. The kernel releases it when the process ends.
    """
    while True:
        directory.mkdir(exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
            # A file system without locks makes collectors wait for the age instead.
            with contextlib.suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if directory.exists():
                return descriptor
            os.close(descriptor)  # a collector held the lock first, and has deleted it


def _remove_abandoned(directory: Path, now: float) -> None:
    """Delete a temporary directory unless its writer lives."""
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        is_abandoned = True
    except BlockingIOError:
        is_abandoned = False
    except OSError:  # no locks here
        is_abandoned = _age_s(directory, now) > file_system.OLD_S
    try:
        if is_abandoned:
            shutil.rmtree(directory, ignore_errors=True)
    finally:
        os.close(descriptor)


def _directory(root: Path, name: str, member: int, version: int) -> Path:
    """Return the directory of a checkpoint, which is certainly below `root`."""
    manifests.check_name(name, member, version)
    directory = root
    for part in name.split("/"):
        directory = directory / part
        try:
            mode = directory.lstat().st_mode
        except OSError as error:
            raise _unreadable(root, name, f"member {member}: {name}", error) from error
        if not stat.S_ISDIR(mode):  # a link to a directory is none either
            raise CheckpointError(
                f"member {member}: {name} is not a directory but a link or a file"
            )
    return directory


def _inspect(
    root: Path, name: str, member: int, version: int
) -> tuple[Path, dict[str, dict[str, Any]], dict[str, Any]]:
    """Check all but the digests; return the directory, its files' entries and the manifest."""
    directory = _directory(root, name, member, version)
    where = f"member {member}: {name}"
    sizes: dict[str, int] = {}
    try:
        for entry in os.scandir(directory):
            if not entry.is_file(follow_symlinks=False):
                raise CheckpointError(f"{where}/{entry.name} is no plain file")
            sizes[entry.name] = entry.stat(follow_symlinks=False).st_size
        if sizes.pop(MANIFEST, None) is None:
            raise CheckpointError(f"{where}/{MANIFEST} is missing")
        with open(directory / MANIFEST, "rb") as file:
            raw = file.read(manifests.LIMIT_BYTES + 1)
    except OSError as error:
        raise _unreadable(root, name, where, error) from error
    manifest = manifests.decode(raw, f"{where}/{MANIFEST}", member, version)
    files = manifest["files"]
    if extra := sorted(set(sizes) - set(files)):
        raise CheckpointError(f"{where}/{extra[0]} is not in the manifest")
    for file_name, expected in files.items():
        if file_name not in sizes:
            raise CheckpointError(f"{where}/{file_name} is missing")
        if sizes[file_name] != expected["bytes"]:
            raise CheckpointError(
                f"{where}/{file_name} is damaged: it has {sizes[file_name]} bytes, "
                f"the manifest says {expected['bytes']}"
            )
    return directory, files, manifest


def digest(path: Path) -> str:
    """Return the sha256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _seal(path: Path, durable: bool) -> None:
    """Sync a file if wanted, and make it read-only.

    Children share files by hard links, so writing to one would change them all.
    """
    if durable:
        with open(path, "rb") as file:
            os.fsync(file.fileno())
    path.chmod(0o444)


def link_or_copy(source: Path, target: Path, durable: bool) -> None:
    """Hard-link a plain file, or copy it where links cannot be made (another disk, FAT, ...)."""
    try:
        os.link(source, target, follow_symlinks=False)
    except FileNotFoundError:
        raise
    except OSError:
        shutil.copyfile(source, target)  # if this cannot help either, its error says why
        _seal(target, durable)


def _candidates(root: Path) -> Iterator[tuple[str | None, Path]]:
    """Yield checkpoints with their names, and temporary directories with None."""
    for home in _directories(root):
        if not re.fullmatch("[0-9]+", home.name, re.ASCII):
            continue
        for directory in _directories(home):
            name = f"{home.name}/{directory.name}"
            if manifests.NAME.fullmatch(name):
                yield name, directory
            elif directory.name.startswith(_TEMPORARY):
                yield None, directory


def _directories(path: Path) -> list[Path]:
    """Return the directories, but no links, in a directory; none if it cannot be read."""
    try:
        with os.scandir(path) as entries:
            return sorted(
                Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)
            )
    except OSError:
        return []


def _age_s(directory: Path, now: float) -> float:
    """Return the seconds since anything in a directory was written; -infinity if nobody can tell.

    The files count too, because a directory does not change while a large file is written.
    """
    try:
        newest = directory.lstat().st_mtime
        with os.scandir(directory) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    newest = max(newest, entry.stat(follow_symlinks=False).st_mtime)
    except OSError:
        return -math.inf
    return now - newest
