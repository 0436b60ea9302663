"""Files that readers see old or new, never half written."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def aside(path: Path) -> Iterator[Path]:
    """Yield another name to write a file under, and rename the file to `path` at the end.

    After an error, `path` is as it was before and the half-written file is deleted.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def replace(path: Path, content: str) -> None:
    """Write a text file aside, then rename it to `path`."""
    with aside(path) as partial:
        # A lone surrogate, which a name may have, is no UTF-8.
        partial.write_text(content, encoding="utf-8", errors="backslashreplace")
