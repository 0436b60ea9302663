"""Checkpoints in an object store, which renames and links nothing.

    URL/RUN.json                                   whose checkpoints these are
    URL/blobs/<sha256>                             files, each under its digest
    URL/<member>/<version>-<nonce>/manifest.json   the same manifest as in a directory
    URL/clock                                      written to ask the server for its time

The order is blobs, manifest, row. A manifest is complete when it appears, because its blobs came
before it, and names are never used twice. A child of an exploit is a new manifest with the digests
of its donor, so nothing is copied. Blobs go when no manifest names them any more.

On this machine, a cache has the form of a checkpoint directory. It begins with what was published
here. What others published is downloaded once by digest, and everything is verified before it is
used. The cache can be deleted at any time.
"""

import contextlib
import errno
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from pbt import bucket as buckets
from pbt import checkpoint, manifests
from pbt import files as file_system

_DIGEST = re.compile(r"[0-9a-f]{64}")
_BLOBS = "blobs"
_MOST_TEXT_BYTES = 100_000_000
"""Longest text that is taken for one that a machine of ours wrote."""


class Objects:
    """Checkpoints below a URL; see `pbt.storage.Storage`.

    Args:
        url: The URL, see `bucket.parse_url`.
        cache: Directory of the cache on this machine. It is made when it is needed.
    """

    patience_s = 600.0
    longest_pause_s = 5.0
    collect_every_s = 60.0
    late_s = 0.0

    def __init__(self, url: str, cache: Path) -> None:
        self.local = cache
        self._bucket = buckets.Bucket(url)
        self._named: dict[str, frozenset[str]] = {}
        """Digests that a manifest names, by checkpoint. Manifests never change."""

    def __str__(self) -> str:
        return self._bucket.place

    def mark(self, identity: Mapping[str, Any]) -> None:
        """See `Storage.mark`."""
        found = self._read_marker()
        if found == manifests.plain(identity):
            return
        if isinstance(found, dict):
            raise self._of_another_run()
        text = json.dumps(identity, indent=1, sort_keys=True) + "\n"
        self._bucket.write(checkpoint.MARKER, text.encode())

    def check_there(self, identity: Mapping[str, Any]) -> None:
        """See `Storage.check_there`."""
        found = self._read_marker()
        if found is None:
            raise checkpoint.NotThere(
                f"{self} has no {checkpoint.MARKER}, so the run's checkpoints are not there: "
                "see to the bucket, or put them back, and give the same command again"
            )
        if found != manifests.plain(identity):
            raise self._of_another_run()

    def is_there(self, identity: Mapping[str, Any]) -> bool:
        """See `Storage.is_there`."""
        try:
            self.check_there(identity)
        except checkpoint.NotThere:
            return False
        return True

    def adopt(self, identity: Mapping[str, Any], names: Collection[str]) -> bool:
        """See `Storage.adopt`."""
        try:
            if self._read_marker() is None and (
                not names or any(self._bucket.find(_manifest(name)) for name in names)
            ):
                self.mark(identity)
        except checkpoint.NotThere:
            return False
        return self.is_there(identity)

    def is_used(self) -> bool:
        """See `Storage.is_used`."""
        return self._bucket.find(checkpoint.MARKER) is not None or manifests.any_trained(
            self._names(self._bucket.list())
        )

    def publish(
        self,
        member: int,
        version: int,
        write: Callable[[Path], None],
        manifest: Mapping[str, Any],
    ) -> str:
        """See `Storage.publish`."""
        name = checkpoint.publish(self.local, member, version, write, manifest, durable=False)
        # A blob that is there already may be about to be swept, and writing makes it young.
        return self._upload(name, lambda key, size: False)

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
        """See `Storage.child_of`. Only blobs that are not there are written."""
        name = checkpoint.child_of(
            self.local,
            donor,
            donor_member,
            donor_version,
            member,
            version,
            manifest,
            donor_root=donor_root,
            durable=False,
        )

        def is_there(key: str, size: int) -> bool:
            found = self._bucket.find(key)
            return found is not None and found.size == size

        return self._upload(name, is_there)

    def open_verified(
        self,
        name: str,
        member: int,
        version: int,
        expected: Mapping[str, Any] | None = None,
    ) -> Path:
        """See `Storage.open_verified`. The directory is in the cache."""
        manifests.check_name(name, member, version)
        with contextlib.suppress(checkpoint.CheckpointError):
            return checkpoint.open_verified(self.local, name, member, version, expected)
        where = f"member {member}: {name}"
        raw = self._bucket.read(_manifest(name), manifests.LIMIT_BYTES)
        if raw is None:
            raise self._missing(where)
        content = manifests.decode(raw, f"{where}/{manifests.FILE_NAME}", member, version)
        manifests.check_row(content, name, expected or {})

        def write(directory: Path) -> None:
            for file_name, entry in content["files"].items():
                blob = self._blob(entry["sha256"], f"{where}/{file_name}")
                checkpoint.link_or_copy(blob, directory / file_name, durable=False)
            (directory / manifests.FILE_NAME).write_bytes(raw)

        self._forget(name)
        try:
            checkpoint.appear(self.local, name, write, durable=False)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # else another process has it
                raise
        return checkpoint.open_verified(self.local, name, member, version, expected)

    def collect(
        self,
        referenced: Callable[[], Collection[str]],
        grace_s: float,
        unneeded: Callable[[Collection[str]], Collection[str]] = lambda names: (),
    ) -> list[str]:
        """See `Storage.collect`: mark by manifests, and sweep blobs by the server's clock."""
        now_s = self._bucket.now()
        found = {
            one.key.rpartition("/")[0]: now_s - one.written_s
            for one in self._bucket.list()
            if one.key.endswith(f"/{manifests.FILE_NAME}")
        }
        ages_s = {name: age_s for name, age_s in found.items() if manifests.NAME.fullmatch(name)}
        keep = set(referenced())
        at_once = set(unneeded([name for name in ages_s if name not in keep]))
        removed = [
            name
            for name, age_s in ages_s.items()
            if name not in keep
            and (name in at_once or age_s >= grace_s)
            and self._bucket.delete_folder(name)
        ]
        self._sweep(grace_s, now_s)
        checkpoint.collect(self.local, keep, grace_s, unneeded)
        self._prune(grace_s)
        return removed

    def write_text(self, name: str, text: str) -> None:
        """See `Storage.write_text`."""
        self._bucket.write(name, text.encode())

    def read_text(self, name: str) -> str | None:
        """See `Storage.read_text`."""
        raw = self._bucket.read(name, _MOST_TEXT_BYTES)
        try:
            return None if raw is None or len(raw) > _MOST_TEXT_BYTES else raw.decode()
        except UnicodeDecodeError:
            return None

    def _sweep(self, grace_s: float, now_s: float) -> None:
        """Delete old blobs that no manifest names.

        A child that appears meanwhile has the blobs of a donor that is pinned, whose manifest is in
        the listing. Any other checkpoint that is being published has young blobs.
        """
        found = list(self._bucket.list())
        try:
            named = set().union(*map(self._digests, self._names(found)))
        except checkpoint.CheckpointError:  # nobody knows which blobs a damaged manifest named
            return
        for one in found:
            folder, _, digest = one.key.partition("/")
            if folder != _BLOBS or digest in named or now_s - one.written_s < grace_s:
                continue
            newest = self._bucket.find(one.key)
            if newest is not None and newest.written_s == one.written_s:  # not written again
                self._bucket.delete(one.key)

    def _digests(self, name: str) -> frozenset[str]:
        """Return the digests that a checkpoint's manifest names; none if it was deleted."""
        if name not in self._named:
            raw = self._bucket.read(_manifest(name), manifests.LIMIT_BYTES)
            if raw is None:
                return frozenset()
            member, version = map(int, name.partition("-")[0].split("/"))
            content = manifests.decode(raw, f"member {member}: {name}", member, version)
            digests = (entry["sha256"] for entry in content["files"].values())
            self._named[name] = frozenset(digests)
        return self._named[name]

    def _names(self, found: Iterable[buckets.Object]) -> list[str]:
        folders = (one.key.removesuffix(f"/{manifests.FILE_NAME}") for one in found)
        return [name for name in folders if manifests.NAME.fullmatch(name)]

    def _upload(self, name: str, is_there: Callable[[str, int], bool]) -> str:
        """Write blobs and manifest of a checkpoint in the cache; return its name."""
        directory = self.local / name
        try:
            raw = (directory / manifests.FILE_NAME).read_bytes()
            for file_name, entry in json.loads(raw)["files"].items():
                key = f"{_BLOBS}/{entry['sha256']}"
                if not is_there(key, entry["bytes"]):
                    self._bucket.write(key, directory / file_name)
                with contextlib.suppress(OSError):  # it is there, or links cannot be made
                    (self.local / _BLOBS).mkdir(exist_ok=True)
                    os.link(directory / file_name, self.local / key)
            self._bucket.write(_manifest(name), raw)
        except BaseException:
            self._forget(name)
            raise
        return name

    def _blob(self, digest: str, where: str) -> Path:
        """Return a verified file of the cache by its digest, downloaded if it is not there."""
        if not _DIGEST.fullmatch(digest):
            raise checkpoint.CheckpointError(f"{where} has no sha256 in the manifest: {digest!r}")
        path = self.local / _BLOBS / digest
        with contextlib.suppress(OSError):
            if checkpoint.digest(path) == digest:
                return path
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".tmp-{secrets.token_hex(8)}")
        try:
            for _ in range(2):  # what arrives changed may be whole where it is
                if not self._bucket.fetch(f"{_BLOBS}/{digest}", temporary):
                    raise self._missing(where)
                if (found := checkpoint.digest(temporary)) == digest:
                    temporary.chmod(0o444)
                    os.replace(temporary, path)
                    return path
        finally:
            temporary.unlink(missing_ok=True)
        raise checkpoint.CheckpointError(
            f"{where} is damaged: its sha256 is {found}, the manifest says {digest}"
        )

    def _prune(self, grace_s: float) -> None:
        """Delete downloads that no checkpoint in the cache links any more."""
        file_system.remove_old(self.local / _BLOBS, ".tmp-*")
        for path in (self.local / _BLOBS).glob("[0-9a-f]*"):
            with contextlib.suppress(OSError):  # another process was quicker
                status = path.stat()
                if status.st_nlink == 1 and time.time() - status.st_mtime >= grace_s:
                    path.unlink()

    def _forget(self, name: str) -> None:
        """Delete a checkpoint from the cache, if it is there."""
        doomed = (self.local / name).with_name(f".tmp-{secrets.token_hex(8)}")
        with contextlib.suppress(OSError):
            os.rename(self.local / name, doomed)
            shutil.rmtree(doomed, ignore_errors=True)

    def _read_marker(self) -> Any:
        """Return what RUN.json holds; None if it is missing or no JSON."""
        try:
            return json.loads(self._bucket.read(checkpoint.MARKER, 10_000) or b"")
        except ValueError:
            return None

    def _missing(self, what: str) -> checkpoint.CheckpointError:
        if self._bucket.find(checkpoint.MARKER) is not None:
            return checkpoint.Missing(f"{what} is missing in {self}")
        return checkpoint.NotThere(f"{what} is missing, and so is {self}/{checkpoint.MARKER}")

    def _of_another_run(self) -> checkpoint.NotThere:
        return checkpoint.NotThere(
            f"{self}/{checkpoint.MARKER} says that the checkpoints there are another run's: put "
            "this run's own checkpoints there, and give the same command again"
        )


def _manifest(name: str) -> str:
    return f"{name}/{manifests.FILE_NAME}"
