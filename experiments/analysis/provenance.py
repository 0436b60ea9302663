"""The commands and commits that made a run, one line per start in RUN_DIR/commands.jsonl.

Only reports read it. The command line is recorded, environment variables never are.
"""

import contextlib
import dataclasses
import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

FILE_NAME = "commands.jsonl"
_SOURCES = Path(__file__).resolve().parents[2]
"""Root of the checkout."""


@dataclasses.dataclass(frozen=True)
class Start:
    """One start of a command on a run: its creation, or a resumption."""

    command: str
    """The command line, as a shell takes it."""
    commit: str | None
    """Commit of the code, see `commit`; None if unknown."""
    started_s: float
    """Unix time, in seconds."""
    directory: str | None = None
    """Working directory, from which paths in the command count; None in runs of before."""


def record(run_dir: Path) -> None:
    """Append this process's command line. A run that cannot be written to fails elsewhere."""
    start = Start(command(), commit(), time.time(), os.getcwd())
    with contextlib.suppress(OSError), (run_dir / FILE_NAME).open("a", encoding="utf-8") as file:
        file.write(json.dumps(dataclasses.asdict(start)) + "\n")


def command() -> str:
    """Return this process's command line as a shell takes it.

    Of the interpreter it has the name alone. Its directory is another one elsewhere.
    """
    return shlex.join([Path(sys.orig_argv[0]).name, *sys.orig_argv[1:]])


def read(run_dir: Path) -> list[Start]:
    """Read all starts, oldest first, without the lines that are no such record."""
    try:
        lines = (run_dir / FILE_NAME).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return []
    starts = []
    for line in lines:
        with contextlib.suppress(ValueError, TypeError, KeyError):
            found = json.loads(line)
            known, where = found["commit"], found.get("directory")
            starts.append(
                Start(
                    str(found["command"]),
                    None if known is None else str(known),
                    float(found["started_s"]),
                    None if where is None else str(where),
                )
            )
    return starts


def commands(run_dir: Path) -> str:
    """Return the different command lines of a run's starts, one a line, oldest first."""
    return "\n".join(dict.fromkeys(start.command for start in read(run_dir)))


def commit() -> str | None:
    """Return the commit of the checkout that this code runs from; None outside of a checkout.

    It ends in "-dirty" if tracked files differ from it, other than results, which commands write.
    """
    try:
        # The code may be installed in a virtual environment inside another project's checkout.
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
