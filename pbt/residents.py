"""Tasks that a worker keeps alive in memory between its turns with their members."""

import logging
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

from pbt import task

_log = logging.getLogger(__name__)


@dataclass
class _Resident:
    task: task.Task
    version: int


class Residents:
    """At most `limit` living tasks by member id, each exactly at a committed version of its member.

    A task that no longer is must be dropped: after an error, a lost lease, a commit by others.
    """

    def __init__(self, limit: int) -> None:
        if limit < 1:
            raise ValueError(f"residents {limit} is too small: use 1 or more")
        self._limit = limit
        self._residents: OrderedDict[int, _Resident] = OrderedDict()  # least recently used first

    def versions(self) -> dict[int, int]:
        """The version that each living task is at."""
        return {member: resident.version for member, resident in self._residents.items()}

    def get(self, member: int, version: int) -> task.Task | None:
        """The member's task if it is alive at that version."""
        resident = self._residents.get(member)
        if resident is None or resident.version != version:
            return None
        self._residents.move_to_end(member)
        return resident.task

    def make_room(self, member: int) -> None:
        """Drop the member's own stale task, and the least recently used ones over the limit."""
        self.drop(member)
        while len(self._residents) >= self._limit:
            self.drop(next(iter(self._residents)))

    def keep(self, member: int, version: int, living: task.Task) -> None:
        """Say that the member's task is alive and at that version."""
        self._residents[member] = _Resident(living, version)
        self._residents.move_to_end(member)

    def drop(self, member: int) -> None:
        """Close the member's task, if there is one; what `close` raises is only logged."""
        resident = self._residents.pop(member, None)
        if resident is None:
            return
        try:
            resident.task.close()
        except Exception:
            _log.exception("member %d: its task did not close", member)

    def drop_moved(self, committed: Mapping[int, int]) -> None:
        """Close the tasks whose members have meanwhile moved to another version elsewhere."""
        for member, version in self.versions().items():
            if committed.get(member) != version:
                self.drop(member)

    def close(self) -> None:
        """Close all."""
        for member in list(self._residents):
            self.drop(member)
