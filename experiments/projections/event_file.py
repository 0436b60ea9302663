"""TensorBoard event files that are only ever appended to, even if their writer is killed.

There is one file per TensorBoard run, and it says itself how far it got. A new writer reads the
last step of each tag from the file, cuts off a torn last record (a crash, a full disk), and skips
points at or before a tag's last step. A writer that is given all points again therefore writes only
what is missing.

Files are appended to because a running TensorBoard follows only files that grow. If a launcher
deleted its files and wrote new ones, TensorBoard would show no further points until it is
restarted: one of its two readers loses a new file under the old name, the other one a file under a
new name.

TensorBoard's own writers are not used. Each keeps a thread and an open file, which is one per
member here, and reports a full disk from that thread some time later.
"""

import io
import itertools
import os
import struct
from collections.abc import Iterable
from pathlib import Path

from tensorboard.backend.event_processing import event_file_loader
from tensorboard.compat.proto import event_pb2, summary_pb2, tensor_pb2, types_pb2
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import metadata as custom_scalar
from tensorboard.plugins.text import metadata as text
from tensorboard.summary.writer import record_writer

from experiments.analysis import wording
from experiments.projections import points

FILE_NAME = "events.out.tfevents.pbt"
"""Any name with "tfevents" in it is read by TensorBoard."""
_RECORD_FRAME_BYTES = 16
"""Bytes that a TFRecord adds to its payload: length (8) and the checksums of both (4 each)."""


class EventFile:
    """The event file of one TensorBoard run, in which the steps of each tag only go up.

    Args:
        directory: Directory of the run. Made when there is something to write.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / FILE_NAME
        self._size: int | None = None  # bytes of whole records; None until read
        self._last_steps: dict[str, int] = {}

    def is_unchanged(self) -> bool:
        """Return whether the file has the size that it had after the last read or write."""
        try:
            return self._path.stat().st_size == self._size
        except OSError:
            return self._size == 0

    def read(self) -> None:
        """Read the last step of each tag from the file, if there is one."""
        self._size, self._last_steps = 0, {}
        if not self._path.exists():
            return
        for record in event_file_loader.RawEventFileLoader(str(self._path)).Load():
            self._size += len(record) + _RECORD_FRAME_BYTES
            event = event_pb2.Event.FromString(record)
            for value in event.summary.value:
                self._last_steps[value.tag] = event.step

    def append(self, new: Iterable[points.Point]) -> None:
        """Append the points that lie beyond their tag's last step, and skip the others.

        Raises:
            OSError: Nothing was written and the file is as before. Call again.
        """
        if self._size is None:
            self.read()
        last_steps = dict(self._last_steps)
        if data := encoded(new, last_steps, is_first=self._size == 0):
            self._write(data)
            self._last_steps = last_steps

    def _write(self, data: bytes) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        size = self._size or 0
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT, 0o666)
        try:
            os.ftruncate(descriptor, size)  # cut off a torn record
            written = 0
            while written < len(data):
                written += os.pwrite(descriptor, data[written:], size + written)
        except OSError:
            os.ftruncate(descriptor, size)
            raise
        finally:
            os.close(descriptor)
        self._size = size + len(data)


def encoded(new: Iterable[points.Point], last_steps: dict[str, int], is_first: bool) -> bytes:
    """Return the records of the points beyond their tag's last step, and move the last steps on.

    Args:
        new: The points.
        last_steps: Last step by tag. Changed.
        is_first: Whether these records begin a file.
    """
    fresh = points.beyond(
        (point._replace(tag=wording.printable(point.tag)) for point in new), last_steps
    )
    if not fresh:
        return b""
    records = io.BytesIO()
    writer = record_writer.RecordWriter(records)
    if is_first:
        version = event_pb2.Event(wall_time=fresh[0].wall_time, file_version="brain.Event:2")
        writer.write(version.SerializeToString())
    for (step, wall_time), group in itertools.groupby(fresh, lambda p: (p.step, p.wall_time)):
        summary = summary_pb2.Summary(value=[_value(point) for point in group])
        event = event_pb2.Event(wall_time=wall_time, step=step, summary=summary)
        writer.write(event.SerializeToString())
    return records.getvalue()


def _value(point: points.Point) -> summary_pb2.Summary.Value:
    """Encode a value.

    It is a scalar, a Markdown text, a PNG file, a layout of the custom scalars dashboard, or a
    summary of one value that another plugin made.
    """
    if isinstance(point.value, summary_pb2.Summary):
        return point.value.value[0]
    if isinstance(point.value, bytes):
        width, height = struct.unpack(">II", point.value[16:24])  # of the header chunk, IHDR
        image = summary_pb2.Summary.Image(
            width=width, height=height, encoded_image_string=point.value
        )
        return summary_pb2.Summary.Value(tag=point.tag, image=image)
    if isinstance(point.value, str):
        plugin, content = text.PLUGIN_NAME, point.value.encode(errors="backslashreplace")
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
