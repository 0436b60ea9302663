"""Which command and which commit made a run: a line per start, in RUN_DIR/commands.jsonl.

Nothing reads it but reports. Only the command line is kept, never the environment.
"""

import contextlib
import dataclasses
import json
import shlex
import subprocess
import sys
import time
from pathlib import Path

FILE_NAME = "commands.jsonl"
_SOURCES = Path(__file__).resolve().parents[1]


@dataclasses.dataclass(frozen=True)
class Start:
    """One start of a command on a run: its creation, or a resumption."""

    command: str
    """As one could type it."""
    commit: str | None
    """Of the checkout that the code came from, `-dirty` with uncommitted changes; None: unknown."""
    started_s: float
    """Unix time."""


def record(run_dir: Path) -> None:
    """Append this process's command line; a run that cannot be written to says so elsewhere."""
    command = shlex.join(["python", *sys.orig_argv[1:]])
    start = Start(command, commit(), time.time())
    with contextlib.suppress(OSError), (run_dir / FILE_NAME).open("a", encoding="utf-8") as file:
        file.write(json.dumps(dataclasses.asdict(start)) + "\n")


def read(run_dir: Path) -> list[Start]:
    """All starts, oldest first; lines that are not ours are left out."""
    try:
        lines = (run_dir / FILE_NAME).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return []
    starts = []
    for line in lines:
        with contextlib.suppress(ValueError, TypeError, KeyError):
            found = json.loads(line)
            known = found["commit"]
            starts.append(
                Start(
                    str(found["command"]),
                    None if known is None else str(known),
                    float(found["started_s"]),
                )
            )
    return starts


def commit() -> str | None:
    """The commit of the checkout that this code runs from; None outside of one.

    With "-dirty" if tracked code differs from it; results, which commands write, do not count.
    """
    try:
        # Installed into a virtual environment that lies in somebody else's checkout: not ours.
        if Path(_git("rev-parse", "--show-toplevel")) != _SOURCES:
            return None
        described = _git("rev-parse", "--short=12", "HEAD")
        return described + (
            "-dirty" if _git("diff", "--name-only", "HEAD", "--", ".", ":!results") else ""
        )
    except (OSError, subprocess.SubprocessError):
        return None


def _git(*arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=_SOURCES, capture_output=True, text=True, timeout=10, check=True
    ).stdout.strip()
