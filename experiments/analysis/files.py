"""Text files that readers see old or new, never half written."""

import os
from pathlib import Path


def replace(path: Path, content: str) -> None:
    """Write a text file under another name, then rename it to `path`."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        partial.write_text(content, encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
