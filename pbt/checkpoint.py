"""Checkpoints: immutable directories, published atomically, verified before they are read.

    ROOT/<member>/<version>-<nonce>/manifest.json   whose, format, size and sha256 of each file, ...
    ROOT/<member>/<version>-<nonce>/<file>          what `Task.save` wrote: plain files only
    ROOT/<member>/.tmp-<nonce>/                     being written, or being deleted

The order is always files before rows, rows before deletion: a directory is published before the
store names it, and deleted only when no row and no pin names it any more. A directory that is
there under its own name is complete: it was written under another, synced, and renamed.
The nonce makes it impossible to meet the remains of an earlier try at the same version.

Nothing here knows what the files contain. No file is executed or unpickled.
"""

import contextlib
import hashlib
import io
import json
import math
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

FORMAT = 1
MANIFEST = "manifest.json"
_NAME = re.compile(r"(0|[1-9][0-9]{0,8})/(0|[1-9][0-9]{0,8})-([0-9a-f]{16})", re.ASCII)
_TEMPORARY = ".tmp-"
_RESERVED = ("format", "member", "version", "files")
# A manifest is a few kilobytes; without a limit, a damaged or hostile one could fill the memory.
_MANIFEST_LIMIT_BYTES = 4_000_000


class CheckpointError(Exception):
    """A checkpoint cannot be used; the message names the member, the file and what is wrong."""


def publish(
    root: Path,
    member: int,
    version: int,
    write: Callable[[Path], None],
    manifest: Mapping[str, Any],
    *,
    durable: bool = True,
) -> str:
    """Write a new checkpoint and make it visible, complete, in one step.

    Whatever `write` raises (disk full, say) propagates, and the temporary directory is removed.

    Args:
        root: the run's checkpoint directory; made if it is missing.
        member: whose state it is.
        version: which version the state will be when the store commits it.
        write: writes plain files (no directories) into the empty directory it is given.
        manifest: kept with the files, JSON: the hyperparameters, the parent, agent steps, ...
        durable: survive a power cut (fsync); False is for toys and tests.

    Returns:
        The checkpoint's name: its directory relative to `root`, with "/".

    Raises:
        ValueError: the manifest is not JSON or uses a reserved name; `write` left something else
            than plain files.
        OSError: the disk is full, ...
    """
    if reserved := [name for name in _RESERVED if name in manifest]:
        raise ValueError(f"manifest fields {', '.join(reserved)} are written by publish itself")

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
            with open(path, "rb") as file:
                files[entry.name] = {"sha256": _digest(file), "bytes": entry.stat().st_size}
                if durable:
                    os.fsync(file.fileno())
            # Children share these files by hard links: writing in place would change them all.
            path.chmod(0o444)
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
    """Publish a new checkpoint with the files of another one: an exploit, a restore, a fork.

    The directory and the manifest are new, the files are hard links (copies where links cannot be
    made): the child stays whole when the donor's checkpoint is collected. File sizes are checked
    here, digests when the child is opened: `open_verified` the donor first, as a worker that loads
    it does anyway.

    Args:
        root: the run's checkpoint directory.
        donor: name of the checkpoint to copy.
        donor_member: whose it must be.
        donor_version: which version it must be.
        member: whose state the child is.
        version: the child's version.
        manifest: as in `publish`, the child's own.
        donor_root: checkpoint directory of another run, if the donor is there.
        durable: as in `publish`.

    Returns:
        The child's name.

    Raises:
        CheckpointError: the donor's checkpoint is gone, of somebody else, or incomplete.
        OSError: the disk is full, ...
    """
    source_root = root if donor_root is None else donor_root
    source, files = _inspect(source_root, donor, donor_member, donor_version)

    def fill(directory: Path) -> dict[str, Any]:
        for name in files:
            try:
                _link_or_copy(source / name, directory / name, durable)
            except FileNotFoundError as error:  # collected under our hands
                raise CheckpointError(
                    f"member {donor_member}: {donor}/{name} is missing"
                ) from error
        return files

    return _publish(root, member, version, fill, manifest, durable)


def open_verified(root: Path, name: str, member: int, version: int) -> Path:
    """The directory of a checkpoint after everything about it was checked, digests included.

    Raises:
        CheckpointError: it is missing, torn, changed, somebody else's, or leads out of `root`.
    """
    directory, files = _inspect(root, name, member, version)
    for file_name, expected in files.items():
        try:
            with open(directory / file_name, "rb") as file:
                digest = _digest(file)
        except OSError as error:
            raise CheckpointError(
                f"member {member}: {name}/{file_name} cannot be read: {error.strerror}"
            ) from error
        if digest != expected["sha256"]:
            raise CheckpointError(
                f"member {member}: {name}/{file_name} is damaged: its sha256 is {digest}, "
                f"the manifest says {expected['sha256']}"
            )
    return directory


def verify(root: Path, name: str, member: int, version: int) -> None:
    """Check a checkpoint completely. Raises `CheckpointError` as `open_verified` does."""
    open_verified(root, name, member, version)


def collect(
    root: Path,
    referenced: Collection[str] | Callable[[], Collection[str]],
    grace_s: float,
) -> list[str]:
    """Delete checkpoints that nobody names, and remains of interrupted writes and deletions.

    Several collectors may run at once, and one that was killed is finished by the next. Links are
    never followed, and what does not look like a checkpoint is left alone.

    Args:
        root: the run's checkpoint directory.
        referenced: names to keep. Better the store's method than its result: it is called after
            the directory was listed, so what is published and committed meanwhile is safe however
            short the grace time.
        grace_s: nothing younger is touched: a published directory is not yet in the store, and a
            temporary one is being written.

    Returns:
        Names of the checkpoints deleted by this call.
    """
    now = time.time()
    found = list(_candidates(root))
    keep = set(referenced() if callable(referenced) else referenced)
    removed = []
    for name, directory in found:
        if name in keep or _age_s(directory, now) < grace_s:
            continue
        doomed = directory
        if name is not None:
            # Under its own name a checkpoint is complete or absent, also while it is deleted.
            doomed = directory.with_name(f"{_TEMPORARY}{secrets.token_hex(8)}")
            try:
                os.rename(directory, doomed)
            except FileNotFoundError:  # another collector was quicker
                continue
            removed.append(name)
        shutil.rmtree(doomed, ignore_errors=True)
    return removed


def _publish(
    root: Path,
    member: int,
    version: int,
    fill: Callable[[Path], dict[str, Any]],
    manifest: Mapping[str, Any],
    durable: bool,
) -> str:
    nonce = secrets.token_hex(8)
    name = f"{member}/{version}-{nonce}"
    if not _NAME.fullmatch(name):
        raise ValueError(f"member {member!r}, version {version!r} are no small natural numbers")
    home = root / str(member)
    new_home = not home.is_dir()
    home.mkdir(parents=True, exist_ok=True)
    if durable and new_home:
        _sync_directory(root)
    temporary = home / f"{_TEMPORARY}{nonce}"
    temporary.mkdir()
    try:
        content: dict[str, Any] = {"format": FORMAT, "member": member, "version": version}
        content |= {"files": fill(temporary), **manifest}
        path = temporary / MANIFEST
        with open(path, "wb") as file:
            file.write(_encode(content))
            file.flush()
            if durable:
                os.fsync(file.fileno())
        path.chmod(0o444)
        if durable:
            _sync_directory(temporary)
        os.rename(temporary, root / name)
    except BaseException:
        # Give the space back at once: the disk may be full.
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    if durable:
        _sync_directory(home)
    return name


def _directory(root: Path, name: str, member: int, version: int) -> Path:
    """The directory of a checkpoint, surely below `root`."""
    match = _NAME.fullmatch(name) if isinstance(name, str) else None
    if match is None:
        raise CheckpointError(f"member {member}: {name!r} is no name of a checkpoint")
    if (int(match[1]), int(match[2])) != (member, version):
        raise CheckpointError(f"{name} is not a checkpoint of member {member} version {version}")
    directory = root
    for part in name.split("/"):
        directory = directory / part
        try:
            mode = directory.lstat().st_mode
        except OSError as error:
            raise CheckpointError(f"member {member}: {name} is missing") from error
        if not stat.S_ISDIR(mode):  # a link, also to a directory, is not one
            raise CheckpointError(
                f"member {member}: {name} is not a directory but a link or a file"
            )
    return directory


def _inspect(
    root: Path, name: str, member: int, version: int
) -> tuple[Path, dict[str, dict[str, Any]]]:
    """Check all but the digests. Returns the directory and the manifest's files."""
    directory = _directory(root, name, member, version)
    files = _parse_manifest(directory, name, member, version)["files"]
    present: dict[str, os.stat_result] = {}
    try:
        for entry in os.scandir(directory):
            if not entry.is_file(follow_symlinks=False):
                raise CheckpointError(f"member {member}: {name}/{entry.name} is no plain file")
            present[entry.name] = entry.stat(follow_symlinks=False)
    except OSError as error:
        raise CheckpointError(f"member {member}: {name} cannot be read: {error}") from error
    del present[MANIFEST]
    if extra := sorted(set(present) - set(files)):
        raise CheckpointError(f"member {member}: {name}/{extra[0]} is not in the manifest")
    for file_name, expected in files.items():
        if file_name not in present:
            raise CheckpointError(f"member {member}: {name}/{file_name} is missing")
        if (size := present[file_name].st_size) != expected["bytes"]:
            raise CheckpointError(
                f"member {member}: {name}/{file_name} is damaged: it has {size} bytes, "
                f"the manifest says {expected['bytes']}"
            )
    return directory, files


def _parse_manifest(directory: Path, name: str, member: int, version: int) -> dict[str, Any]:
    where = f"member {member}: {name}/{MANIFEST}"
    path = directory / MANIFEST
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            raise CheckpointError(f"{where} is no plain file")
        with open(path, "rb") as file:
            raw = file.read(_MANIFEST_LIMIT_BYTES + 1)
    except FileNotFoundError as error:
        raise CheckpointError(f"{where} is missing") from error
    except OSError as error:
        raise CheckpointError(f"{where} cannot be read: {error.strerror}") from error
    if len(raw) > _MANIFEST_LIMIT_BYTES:
        raise CheckpointError(f"{where} is larger than {_MANIFEST_LIMIT_BYTES} bytes")
    try:
        content = json.loads(raw)
        digest = content.pop("digest")
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{where} is damaged: not a manifest") from error
    found = content.get("format")
    if isinstance(found, int) and found > FORMAT:
        raise CheckpointError(
            f"{where} has format {found}, this code reads up to {FORMAT}: update this code"
        )
    try:
        intact = raw == _encode(content)  # holds the digest: any changed bit shows
    except ValueError:
        intact = False
    if not intact:
        raise CheckpointError(f"{where} is damaged: its digest is not {digest!r}")
    if (found, content.get("member"), content.get("version")) != (FORMAT, member, version):
        raise CheckpointError(
            f"{where} is of member {content.get('member')!r} version {content.get('version')!r} "
            f"format {found!r}, wanted was version {version}, format {FORMAT}"
        )
    if not isinstance(files := content.get("files"), dict):
        raise CheckpointError(f"{where} lists no files")
    for file_name, entry in files.items():
        if file_name in ("", ".", "..", MANIFEST) or "/" in file_name or "\0" in file_name:
            raise CheckpointError(f"{where} names the file {file_name!r}, which no checkpoint may")
        if (
            not isinstance(entry, dict)
            or not isinstance(entry.get("sha256"), str)
            or not isinstance(entry.get("bytes"), int)
        ):
            raise CheckpointError(f"{where} has no digest or size of {file_name!r}")
    return dict(content)


def _encode(content: Mapping[str, Any]) -> bytes:
    """A manifest's bytes: canonical JSON with a digest of itself.

    Raises:
        ValueError: a value is not JSON, or not finite.
    """

    def text(values: Mapping[str, Any]) -> bytes:
        try:
            # Through JSON once more: names that were no strings sort differently as strings.
            plain = json.loads(json.dumps(values, allow_nan=False))
            return json.dumps(plain, indent=1, sort_keys=True).encode()
        except (TypeError, ValueError) as error:
            raise ValueError(f"a manifest's values must be finite JSON: {error}") from None

    digest = hashlib.sha256(text(content)).hexdigest()
    return text({**content, "digest": digest}) + b"\n"


def _digest(file: io.BufferedReader) -> str:
    return hashlib.file_digest(file, "sha256").hexdigest()


def _link_or_copy(source: Path, target: Path, durable: bool) -> None:
    """Hard-link a plain file, or copy it where links cannot be made (another disk, FAT, ...)."""
    try:
        os.link(source, target, follow_symlinks=False)
    except FileNotFoundError:
        raise
    except OSError:
        # Whatever the reason was: if copying cannot help either, its error says so.
        with open(source, "rb") as reader, open(target, "xb") as writer:
            shutil.copyfileobj(reader, writer, 1 << 20)
            writer.flush()
            if durable:
                os.fsync(writer.fileno())
        target.chmod(0o444)


def _sync_directory(path: Path) -> None:
    """Make the names in a directory survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _candidates(root: Path) -> Iterator[tuple[str | None, Path]]:
    """All checkpoints (with their names) and temporary directories (with None) below `root`."""
    for home in _directories(root):
        if not re.fullmatch("[0-9]+", home.name, re.ASCII):
            continue
        for directory in _directories(home):
            name = f"{home.name}/{directory.name}"
            if _NAME.fullmatch(name):
                yield name, directory
            elif directory.name.startswith(_TEMPORARY):
                yield None, directory


def _directories(path: Path) -> list[Path]:
    """Real directories (not links) in a directory, which may be gone."""
    try:
        with os.scandir(path) as entries:
            return sorted(
                Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)
            )
    except (FileNotFoundError, NotADirectoryError):
        return []


def _age_s(directory: Path, now: float) -> float:
    """Seconds since anything in a directory was written; minus infinity if it is gone.

    The files count too: while one large file is written, its directory does not change.
    """
    try:
        newest = directory.lstat().st_mtime
        with os.scandir(directory) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    newest = max(newest, entry.stat(follow_symlinks=False).st_mtime)
    except FileNotFoundError:
        return -math.inf
    return now - newest
