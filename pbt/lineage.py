"""Lineages, hyperparameter schedules and family trees, as pure functions of a store's records.

A lineage follows the *weights*:

- A "slice" or "explore" comes from the member's version before it.
- An "exploit" comes from its donor if the run copies weights (`copy` "both" or "weights"), and
  otherwise from the member's version before it.
- A "reseed" always comes from its donor, because the weights that it replaces were broken.
- A "restore" comes from the member's own earlier version that could still be read.

A member's `agent_steps` are its own and never copied. A lineage therefore counts *training*, the
agent steps behind these weights: the donor's up to the copy, and the member's own after it. A slice
adds its steps, a copy adds none, and a restore goes back to what its source had. Steps of weights
that were replaced are in no lineage.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from pbt.records import Member, Report, Version, VersionKind
from pbt.run import Copy
from pbt.task import Episode

Key = tuple[int, int]
"""(member, version)."""


def weights_parent(version: Version, copy: Copy = "both") -> Key | None:
    """Return the version that `version` took its weights from; None for an initial draw."""
    if version.kind == "initial":
        return None
    copied = version.kind in ("reseed", "restore") or (
        version.kind == "exploit" and copy in ("both", "weights")
    )
    if copied and version.parent is not None:
        return version.parent
    return (version.member, version.version - 1)


class Step(NamedTuple):
    """One version on a lineage."""

    version: Version
    training: int
    """Agent steps behind these weights."""


class Segment(NamedTuple):
    """A part of a lineage inside one member, between two changes of weights."""

    member: int
    first_version: int
    last_version: int
    start: int
    """Agent steps behind the weights at the first version."""
    end: int
    """Agent steps behind the weights at the last version."""
    kind: VersionKind
    """Kind of the first version: initial, exploit, reseed or restore."""


class ScheduleRow(NamedTuple):
    """The hyperparameters in force from `agent_steps` on, until the next row.

    As CSV: `agent_steps,<one column per hyperparameter>,member,version`, with latent values. There
    is a row at the start, one for every copy or change, and a last one that repeats the values at
    the end of training. Steps increase from row to row, because values that nothing was trained
    with are left out.
    """

    agent_steps: int
    """Agent steps behind the weights, along the lineage."""
    hyperparameters: Mapping[str, float]
    member: int
    version: int


@dataclass
class Branch:
    """A member between two changes of its weights: one line of the family tree."""

    keys: list[Key]
    """The versions, oldest first. Never empty."""
    kind: VersionKind
    """Kind of the first version."""
    parent: Key | None
    """The version that the first one copied; None for an initial draw."""
    children: list["Branch"] = field(default_factory=list)
    """Branches copied from this one, by member and version."""
    alive: bool = False
    """Whether the last version is the member's present one."""

    @property
    def member(self) -> int:
        """Id of the member."""
        return self.keys[0][0]


class Tree:
    """The family tree of all versions of a run.

    Args:
        versions: All versions, in any order.
        copy: What the run copies at an exploit.

    Raises:
        ValueError: A version's parent is missing, or is its own descendant.
    """

    def __init__(self, versions: Iterable[Version], copy: Copy = "both") -> None:
        self.versions: dict[Key, Version] = {(v.member, v.version): v for v in versions}
        self._newest: dict[int, int] = {}
        for member, number in self.versions:
            self._newest[member] = max(number, self._newest.get(member, 0))
        self.parents: dict[Key, Key | None] = {
            key: weights_parent(version, copy) for key, version in self.versions.items()
        }
        self.training: dict[Key, int] = {}
        """Agent steps behind the weights of each version."""
        self.scores: dict[Key, float | None] = {}
        """Last training score of these weights, or of those that they came from."""
        self.earned: dict[Key, Key | None] = {}
        """Version that had this score. If too few episodes have ended since, it is an earlier one,
        perhaps of another member."""
        for key in self.versions:
            self._measure(key)

    def lineage(self, member: int, version: int | None = None) -> list[Step]:
        """Return the versions behind a member's weights, oldest first.

        Args:
            member: Id of the member.
            version: Version of the member; None for the newest.

        Raises:
            ValueError: There is no such version.
        """
        key: Key | None = self.newest(member) if version is None else (member, version)
        steps = []
        while key is not None:
            if key not in self.versions:
                raise ValueError(f"there is no version {key[1]} of member {key[0]}")
            steps.append(Step(self.versions[key], self.training[key]))
            key = self.parents[key]
        return steps[::-1]

    def newest(self, member: int) -> Key:
        """Return the member's newest version."""
        return (member, self._newest[member])

    def branches(self) -> list[Branch]:
        """Return the tree as branches by member and version, those of initial draws first."""
        branch_of: dict[Key, Branch] = {}
        branches = []
        for key in sorted(self.versions):
            version, parent = self.versions[key], self.parents[key]
            if parent is not None and parent == (key[0], key[1] - 1) and parent in branch_of:
                branch_of[key] = branch_of[parent]
                branch_of[key].keys.append(key)
            else:
                branch_of[key] = Branch([key], version.kind, parent)
                branches.append(branch_of[key])
        for branch in branches:
            if branch.parent is not None:
                branch_of[branch.parent].children.append(branch)
            branch.alive = branch.keys[-1] == self.newest(branch.member)
        return sorted(branches, key=lambda branch: (branch.parent is not None, branch.keys[0]))

    def _measure(self, key: Key) -> None:
        """Fill `training`, `scores` and `earned` for `key` and its ancestors."""
        # Iterative, because a lineage may be longer than Python's recursion limit.
        path: list[Key] = []
        at: Key | None = key
        seen = set()
        while at is not None and at not in self.training:
            if at not in self.versions or at in seen:
                raise ValueError(
                    f"the history is broken: version {path[-1][1]} of member {path[-1][0]} comes "
                    f"from version {at[1]} of member {at[0]}, which "
                    + ("is its own descendant" if at in seen else "is not in the store")
                )
            seen.add(at)
            path.append(at)
            at = self.parents[at]
        for at in reversed(path):
            version, parent = self.versions[at], self.parents[at]
            if version.score is not None:
                self.scores[at], self.earned[at] = version.score, at
            elif parent is not None:
                self.scores[at], self.earned[at] = self.scores[parent], self.earned[parent]
            else:
                self.scores[at], self.earned[at] = None, None
            if parent is None:
                self.training[at] = version.agent_steps
            else:
                is_slice = version.kind == "slice"
                own = version.agent_steps - self.versions[parent].agent_steps if is_slice else 0
                self.training[at] = self.training[parent] + own


def segments(lineage: Sequence[Step]) -> list[Segment]:
    """Cut a lineage where the weights moved to another member; oldest first."""
    cut: list[Segment] = []
    for version, training in lineage:
        last = cut[-1] if cut else None
        if last and (version.member, version.version) == (last.member, last.last_version + 1):
            cut[-1] = last._replace(last_version=version.version, end=training)
        else:
            number = version.version
            cut.append(Segment(version.member, number, number, training, training, version.kind))
    return cut


def schedule(lineage: Sequence[Step]) -> list[ScheduleRow]:
    """Return the hyperparameters in force along a lineage, see `ScheduleRow`."""
    rows: list[ScheduleRow] = []
    for position, (version, training) in enumerate(lineage):
        row = ScheduleRow(training, version.hyperparameters, version.member, version.version)
        last_row = rows[-1] if rows else None
        changed = (
            last_row is None
            or row.member != last_row.member
            or version.kind != "slice"
            or dict(row.hyperparameters) != dict(last_row.hyperparameters)
        )
        is_end = position == len(lineage) - 1
        if changed or is_end:
            if last_row is not None and last_row.agent_steps == row.agent_steps:
                rows.pop()  # nothing was trained with it
            rows.append(row)
    return rows


def episodes(lineage: Sequence[Step], reports: Iterable[Report]) -> list[Episode]:
    """Return the episodes that were played on the way to these weights.

    Args:
        lineage: A lineage from `Tree.lineage`.
        reports: Reports of all members, in any order.

    Returns:
        The episodes of the lineage's slices in order. Their `agent_steps` are those behind the
        weights when the episode finished. Episodes that began before a copy have `counted` False.
    """
    report_of = {(report.member, report.version): report for report in reports}
    found = []
    for version, training in lineage:
        if report := report_of.get((version.member, version.version)):
            shift = training - version.agent_steps
            found += [e._replace(agent_steps=e.agent_steps + shift) for e in report.episodes]
    return found


def best_member(members: Iterable[Member], tree: Tree) -> Member | None:
    """Return the member whose present weights have the highest training score, if any has one.

    `Member.score` will not do, because it may outlive the weights that earned it. A diverged or
    failed member takes part with its last sound version, whose checkpoint still exists. Ties go to
    the member with more agent steps, then to the lower id.
    """
    scored = [
        (score, member.agent_steps, -member.id, member)
        for member in members
        if (score := tree.scores[tree.newest(member.id)]) is not None
    ]
    return max(scored, key=lambda entry: entry[:3])[3] if scored else None
