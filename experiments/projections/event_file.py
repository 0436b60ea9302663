"""TensorBoard event files that are only ever appended to, however often their writer dies.

One file per TensorBoard run. The file itself says how far it got: its reader gives the last
step of each tag, a torn last record (a crash, a full disk) is cut off, and points at or before
a tag's last step are skipped. So a writer that is given all points again from the beginning
writes what is missing.

No TensorBoard writer class is used: each keeps a thread and an open file per run, of which
there are 81 in a population of 80, and reports a full disk from that thread, some time later.
"""

import io
import itertools
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from tensorboard.backend.event_processing import event_file_loader
from tensorboard.compat.proto import event_pb2, summary_pb2, tensor_pb2, types_pb2
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import metadata as custom_scalar
from tensorboard.plugins.text import metadata as text
from tensorboard.summary.writer import record_writer

FILE_NAME = "events.out.tfevents.pbt"
"""Any name with "tfevents" in it is read by TensorBoard."""
_RECORD_FRAME_BYTES = 16
"""What a TFRecord adds to its payload: length (8), its checksum (4), the payload's checksum (4)."""


class Point(NamedTuple):
    """One value of one tag."""

    tag: str
    step: int
    value: float | str | layout_pb2.Layout
    """A scalar, Markdown text, or the layout of the custom scalars dashboard."""
    wall_time: float
    """Unix time, seconds."""


class EventFile:
    """The event file of one run: appends points that lie beyond each tag's last step."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / FILE_NAME
        self._size: int | None = None  # of the sound part; None until read
        self._last_steps: dict[str, int] = {}

    def is_as_left(self) -> bool:
        """Whether the file still is what was last read or written here."""
        try:
            return self._path.stat().st_size == self._size
        except OSError:
            return self._size == 0

    def read(self) -> None:
        """Read the cursor from the file, if there is one."""
        self._size, self._last_steps = 0, {}
        if not self._path.exists():
            return
        for record in event_file_loader.RawEventFileLoader(str(self._path)).Load():
            self._size += len(record) + _RECORD_FRAME_BYTES
            event = event_pb2.Event.FromString(record)
            for value in event.summary.value:
                self._last_steps[value.tag] = event.step

    def append(self, points: Iterable[Point]) -> None:
        """Write those points that go forward, in one piece; after an error the file is as before.

        Raises:
            OSError: nothing counts as written; call again.
        """
        if self._size is None:
            self.read()
        last_steps = dict(self._last_steps)
        fresh = []
        for point in points:
            if point.step > last_steps.get(point.tag, -1):
                last_steps[point.tag] = point.step
                fresh.append(point)
        if not fresh:
            return
        records = io.BytesIO()
        writer = record_writer.RecordWriter(records)
        if self._size == 0:
            version = event_pb2.Event(wall_time=fresh[0].wall_time, file_version="brain.Event:2")
            writer.write(version.SerializeToString())
        for (step, wall_time), group in itertools.groupby(fresh, lambda p: (p.step, p.wall_time)):
            summary = summary_pb2.Summary(value=[_value(point) for point in group])
            event = event_pb2.Event(wall_time=wall_time, step=step, summary=summary)
            writer.write(event.SerializeToString())
        self._write(records.getvalue())
        self._last_steps = last_steps

    def _write(self, data: bytes) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        size = self._size or 0
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT, 0o666)
        try:
            os.ftruncate(descriptor, size)  # a torn record, from a crash or from the try before
            written = 0
            while written < len(data):
                written += os.pwrite(descriptor, data[written:], size + written)
        except OSError:
            os.ftruncate(descriptor, size)
            raise
        finally:
            os.close(descriptor)
        self._size = size + len(data)


def distinct_steps(steps: Sequence[int], after: int) -> list[int]:
    """Move equal steps apart, backwards, as little as possible and to no less than `after` + 1."""
    moved: list[int] = []
    limit = sys.maxsize
    for step in sorted(steps, reverse=True):
        limit = max(min(step, limit - 1), after + 1)
        moved.append(limit)
    return moved[::-1]


def _value(point: Point) -> summary_pb2.Summary.Value:
    if isinstance(point.value, str):
        plugin, content = text.PLUGIN_NAME, point.value.encode()
    elif isinstance(point.value, layout_pb2.Layout):
        plugin, content = custom_scalar.PLUGIN_NAME, point.value.SerializeToString()
    else:
        return summary_pb2.Summary.Value(tag=point.tag, simple_value=point.value)
    return summary_pb2.Summary.Value(
        tag=point.tag,
        tensor=tensor_pb2.TensorProto(dtype=types_pb2.DT_STRING, string_val=[content]),
        metadata=summary_pb2.SummaryMetadata(
            plugin_data=summary_pb2.SummaryMetadata.PluginData(plugin_name=plugin)
        ),
    )
