"""Tasks that a worker keeps alive in memory between its turns with their members."""

import logging
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

from pbt import task

_log = logging.getLogger(__name__)


@dataclass
class _Entry:
    task: task.Task
    version: int | None
    """The committed version that the task is at; None while it is dirty."""


class TaskCache:
    """At most `limit` live tasks by member id; the least recently used one goes first.

    A clean task is exactly at a committed version of its member. A dirty task is at none: it was
    just built, or half of a donor may be loaded. A dirty task is never handed out. It is kept only
    so that it is closed, and becomes clean when its member's next version is committed.
    """

    def __init__(self, limit: int) -> None:
        if limit < 1:
            raise ValueError(f"residents {limit} is too small: use 1 or more")
        self._limit = limit
        self._entries: OrderedDict[int, _Entry] = OrderedDict()  # least recently used first

    def versions(self) -> dict[int, int]:
        """Return the version of each clean task, by member."""
        return {
            member: entry.version
            for member, entry in self._entries.items()
            if entry.version is not None
        }

    def get(self, member: int, version: int) -> task.Task | None:
        """Return the member's task if it is alive and clean at that version."""
        entry = self._entries.get(member)
        if entry is None or entry.version != version:
            return None
        self._entries.move_to_end(member)
        return entry.task

    def is_dirty(self, member: int) -> bool:
        """Return whether the member's task is alive at no committed version."""
        return member in self._entries and self._entries[member].version is None

    def make_room(self, member: int) -> None:
        """Drop the member's own task, then the least recently used ones until one more fits."""
        self.drop(member)
        while len(self._entries) >= self._limit:
            self.drop(next(iter(self._entries)))

    def keep(self, member: int, version: int, live: task.Task) -> None:
        """Keep a task that is clean at the given committed version."""
        self._entries[member] = _Entry(live, version)
        self._entries.move_to_end(member)

    def keep_dirty(self, member: int, live: task.Task) -> None:
        """Keep a task that is at no committed version."""
        self._entries[member] = _Entry(live, None)
        self._entries.move_to_end(member)

    def drop(self, member: int) -> None:
        """Close the member's task if there is one; log what `close` raises."""
        entry = self._entries.pop(member, None)
        if entry is None:
            return
        try:
            entry.task.close()
        except Exception:
            _log.exception("member %d: its task did not close", member)

    def drop_stale(self, committed: Mapping[int, int]) -> None:
        """Close dirty tasks, and those whose members another worker has moved to a new version.

        Args:
            committed: Version of each member, by id.
        """
        for member, entry in list(self._entries.items()):
            if entry.version is None or committed.get(member) != entry.version:
                self.drop(member)

    def close(self) -> None:
        """Close all tasks."""
        for member in list(self._entries):
            self.drop(member)
