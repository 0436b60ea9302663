"""Objects by key below a URL: an S3-compatible bucket, or a folder that is treated like one.

Objects appear whole, and nothing is renamed or linked. Credentials come from the environment, as
the AWS tools read them. They are never in the URL, stored or printed.
"""

import functools
import queue
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib import parse

from pbt import manifests

SCHEMES = ("s3", "file")
# Parameters of Arrow that say where a server is. None of them is a secret.
_PARAMETERS = ("allow_bucket_creation", "endpoint_override", "region", "scheme")
_ANSWER_S = 20.0
"""Seconds for which a server may be silent. Its client tries three times within 10."""
_SLOWEST_BYTES_PER_S = 1_000_000


class Object(NamedTuple):
    """An object as a listing shows it."""

    key: str
    size: int
    """Bytes."""
    written_s: float
    """Unix time in seconds by the server's clock, in whole seconds on S3."""


def parse_url(text: str) -> str:
    """Return the URL of a folder of objects, such as s3://bucket/folder.

    Raises:
        ValueError: It is no such URL, or it holds a secret. The message never repeats one.
    """
    form = "s3://BUCKET/FOLDER"
    try:
        url = parse.urlsplit(text)
        names = {name for name, _ in parse.parse_qsl(url.query, keep_blank_values=True)}
    except ValueError:
        raise ValueError(f"the URL of checkpoints has the form {form}") from None
    if url.scheme not in SCHEMES:
        raise ValueError(f"checkpoints are on {url.scheme!r}: use {form}, or a folder")
    if "@" in url.netloc:
        raise ValueError(
            "the URL of checkpoints holds a key, which others could read: leave it out, and set "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    if unknown := sorted(names - set(_PARAMETERS)):
        raise ValueError(
            f"the URL of checkpoints has the parameter {unknown[0]!r}: use only "
            f"{', '.join(_PARAMETERS)}"
        )
    folder = url.path.strip("/")
    if (
        not folder
        or ".." in folder.split("/")
        or url.fragment
        or (url.scheme == "s3") != bool(url.netloc)
    ):
        raise ValueError(f"the URL of checkpoints names no folder: use {form}")
    return parse.urlunsplit((url.scheme, url.netloc, url.path.rstrip("/"), url.query, ""))


class Bucket:
    """Access to the objects below a URL. Each method raises `NotThere` if the server is away.

    Args:
        url: The URL, see `parse_url`.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.place = url.partition("?")[0]

    @functools.cached_property
    def _opened(self) -> tuple[Any, str]:
        """The file system, and the path of the folder in it."""
        try:
            from pyarrow import fs
        except ImportError as error:
            raise manifests.NotThere(
                f"{self.place} needs pyarrow: pip install -c constraints.txt -e '.[object-store]'"
            ) from error
        url = self.url
        if url.startswith("s3:"):  # small objects then take one request in place of three
            url += ("&" if "?" in url else "?") + "allow_delayed_open=true"
        try:
            system, folder = fs.FileSystem.from_uri(url)
        except (OSError, ValueError) as error:
            raise self._away(error) from error
        return system, folder

    def read(self, key: str, limit: int) -> bytes | None:
        """Return the first bytes of an object, at most one more than `limit`; None without one."""
        system, folder = self._opened

        def read() -> bytes:
            with system.open_input_stream(f"{folder}/{key}") as stream:
                return bytes(stream.read(limit + 1))

        try:
            return bytes(self._answer(read))
        except FileNotFoundError:
            return None

    def fetch(self, key: str, path: Path) -> bool:
        """Write an object into a file; return False if there is none.

        Raises:
            OSError: The file cannot be written.
        """
        system, folder = self._opened
        try:
            source = self._answer(lambda: system.open_input_stream(f"{folder}/{key}"))
        except FileNotFoundError:
            return False
        with open(path, "wb") as target:
            while piece := self._answer(lambda: source.read(1 << 20)):
                target.write(piece)
        source.close()
        return True

    def write(self, key: str, content: bytes | Path) -> None:
        """Write an object, from bytes or from a file. It replaces one that is there."""
        import pyarrow as pa

        system, folder = self._opened
        # All bytes are in one buffer before the stream opens: closing it completes the object.
        if isinstance(content, Path) and content.stat().st_size:
            with pa.memory_map(str(content)) as mapped:
                buffer = mapped.read_buffer()
        else:
            buffer = content.read_bytes() if isinstance(content, Path) else content
        path = f"{folder}/{key}"

        def write() -> None:
            if self.url.startswith("file:"):
                system.create_dir(path.rpartition("/")[0], recursive=True)
            with system.open_output_stream(path) as stream:
                stream.write(buffer)

        self._answer(write, len(buffer))

    def find(self, key: str) -> Object | None:
        """Return an object; None if there is none."""
        system, folder = self._opened
        found = self._answer(lambda: system.get_file_info(f"{folder}/{key}"))
        return _object(found, key) if found.is_file else None

    def list(self, below: str = "") -> Iterator[Object]:
        """Yield the objects whose keys begin with a folder's name."""
        from pyarrow import fs

        system, folder = self._opened
        base = f"{folder}/{below}".rstrip("/")
        wanted = fs.FileSelector(base, allow_not_found=True, recursive=True)
        for one in self._answer(lambda: system.get_file_info(wanted)):
            if one.is_file:
                yield _object(one, one.path[len(folder) + 1 :])

    def delete(self, key: str) -> bool:
        """Delete an object; return False if it was not there."""
        return self._delete("delete_file", key)

    def delete_folder(self, key: str) -> bool:
        """Delete all objects below a key; return False if there were none."""
        return self._delete("delete_dir", key)

    def now(self) -> float:
        """Return the Unix time in seconds by the clock that stamps objects."""
        self.write("clock", b"")
        found = self.find("clock")
        if found is None:
            raise self._away(OSError("an object that was written is not there"))
        return found.written_s

    def _delete(self, how: str, key: str) -> bool:
        system, folder = self._opened
        try:
            self._answer(lambda: getattr(system, how)(f"{folder}/{key}"))
            return True
        except FileNotFoundError:
            return False

    def _answer(self, call: Callable[[], Any], size: int = 0) -> Any:
        """Return what a call to the server returns.

        A server that falls silent would hold a call for longer than a worker may be without
        progress. So it runs in a thread, which is given up after a while.

        Args:
            call: The call.
            size: Bytes that it writes.

        Raises:
            FileNotFoundError: There is no such object.
            NotThere: The server is away, refuses, or has given no answer.
        """
        answers: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()

        def run() -> None:
            try:
                answers.put((call(), None))
            except BaseException as error:
                answers.put((None, error))

        threading.Thread(target=run, daemon=True).start()
        patience_s = _ANSWER_S + size / _SLOWEST_BYTES_PER_S
        try:
            answer, error = answers.get(timeout=patience_s)
        except queue.Empty:
            raise self._away(OSError(f"no answer for {patience_s:.0f} s")) from None
        if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
            raise self._away(error) from error
        if error is not None:
            raise error
        return answer

    def _away(self, error: BaseException) -> manifests.NotThere:
        said = re.sub(r" \(Request ID: [^)]*\)", "", " ".join(str(error).split()))
        return manifests.NotThere(
            f"{self.place} cannot be used ({said}): see to the server, the network and the "
            "credentials (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE)"
        )


def _object(found: Any, key: str) -> Object:
    return Object(key, found.size, found.mtime_ns / 1e9)
