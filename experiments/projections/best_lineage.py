"""The TensorBoard run of the best member's lineage, which is kept right while a run trains.

    <directory>/best-lineage-01, then best-lineage-02 in its place, ...

While the best member stays the best, its lineage grows and points are appended. If another member
becomes the best, the lineage has another past. Its points then go into a directory under a new
name, and the old directory is removed. A running TensorBoard drops a run that is gone, and finds
one under a new name. It would not notice other points under the old name, or would draw both.
"""

import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from experiments.projections import event_file
from experiments.projections.points import Point

NAME = "best-lineage"
"""Beginning of the run's name."""


def write(points: Iterable[Point], directory: Path) -> None:
    """Bring the best member's lineage up to date: there is one run, and it has these points.

    Whatever the last call left is gone on with, also if it was killed or the disk was full.

    Args:
        points: The points of `points.of_lineage`. Without any there is no run.
        directory: Directory of the TensorBoard files.

    Raises:
        OSError: A file could not be written. Call again.
    """
    data = event_file.encoded(points, {}, is_first=True)
    found = sorted(directory.glob(f"{NAME}*"), key=_number)
    if found and data and data.startswith(_content(found[-1])):
        current = found.pop()
    else:
        current = directory / f"{NAME}-{_number(found[-1]) + 1 if found else 1:02d}"
        if data:
            current.mkdir(parents=True)  # before the last one goes: a name must not come again
    for old in found:
        shutil.rmtree(old)
    if data:
        with (current / event_file.FILE_NAME).open("ab") as file:
            file.write(data[file.tell() :])


def _number(run: Path) -> int:
    """Return the number in a run's name; 0 for a run of earlier versions, which had none."""
    found = re.fullmatch(rf"{NAME}-(\d+)", run.name)
    return int(found[1]) if found else 0


def _content(run: Path) -> bytes:
    try:
        return (run / event_file.FILE_NAME).read_bytes()
    except FileNotFoundError:
        return b""
