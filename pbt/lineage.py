"""Who descends from whom: lineages, hyperparameter schedules and family trees.

Pure functions of the records in a store. A lineage follows the *weights*:

- a "slice" and an "explore" come from the member's version before it;
- an "exploit" comes from its donor, if the run copies weights (`copy` "both" or "weights"), and
  otherwise ("hyperparameters", "none") from the member's version before it;
- a "reseed" always comes from its donor: what it replaces was broken;
- a "restore" comes from the member's own earlier version that was still readable.

A member's `agent_steps` are its own and never copied. A lineage therefore counts *training*:
the agent steps that are really behind these weights, the donor's up to the copy and the
member's own from there on. A slice adds its own steps, a copy adds none, and a restore falls
back to what its source had. Steps whose weights were replaced are in no lineage.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from pbt.records import Member, Report, Version, VersionKind
from pbt.task import Episode

Key = tuple[int, int]
"""(member, version)."""
CopyMode = Literal["both", "weights", "hyperparameters", "none"]


def weights_parent(version: Version, copy: CopyMode = "both") -> Key | None:
    """The version that `version` took its weights from; None for an initial draw."""
    if version.kind == "initial":
        return None
    copies = {
        "exploit": copy in ("both", "weights"),
        "reseed": True,
        "restore": True,
    }
    if version.parent is not None and copies.get(version.kind, False):
        return version.parent
    return (version.member, version.version - 1)


class Step(NamedTuple):
    """One version on a lineage."""

    version: Version
    training: int
    """Agent steps behind these weights."""


class Segment(NamedTuple):
    """A stretch of a lineage inside one member, between two changes of weights."""

    member: int
    first_version: int
    last_version: int
    start: int
    """Agent steps of training behind the weights at its first version."""
    end: int
    """The same at its last version."""
    kind: VersionKind
    """How it began: initial, exploit, reseed or restore."""


class ScheduleRow(NamedTuple):
    """From `agent_steps` on, and until the next row, these hyperparameters were in force.

    As a CSV: `agent_steps,<one column per hyperparameter>,member,version`, latent values (an
    integer hyperparameter is rounded where it is used), one row at the start, one for every
    copy or change, and a last one that repeats the values at the end of training. Steps go up
    from row to row: values that nothing was trained with are left out.
    """

    agent_steps: int
    """Along the lineage: the training behind the weights, not the member's own steps."""
    hyperparameters: Mapping[str, float]
    member: int
    version: int


@dataclass
class Branch:
    """A member between two changes of its weights: an edge bundle of the family tree."""

    keys: list[Key]
    """Its versions, oldest first; never empty."""
    kind: VersionKind
    parent: Key | None
    """The version it was copied from; None for an initial draw."""
    children: list["Branch"] = field(default_factory=list)
    """Branches copied from this one, in order of commit."""
    alive: bool = False
    """Whether its last version is the member's present one."""

    @property
    def member(self) -> int:
        """Whose it is."""
        return self.keys[0][0]


class Tree:
    """The family tree of all versions of a run.

    Args:
        versions: all of them; order does not matter.
        copy: what the run copies on exploit.

    Raises:
        ValueError: a version's parent is missing or its own descendant.
    """

    def __init__(self, versions: Iterable[Version], copy: CopyMode = "both") -> None:
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
        """The last training score of these weights, or of those that they came from."""
        self.earned: dict[Key, Key | None] = {}
        """The version at which that score was: an earlier one, or another member's, where too few
        episodes have ended since."""
        for key in self.versions:
            self._measure(key)

    def lineage(self, member: int, version: int | None = None) -> list[Step]:
        """The versions behind a member's weights, oldest first.

        Args:
            member: whose.
            version: which of its versions; None for the newest.
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
        """The member's newest version."""
        return (member, self._newest[member])

    def branches(self) -> list[Branch]:
        """The tree as branches, the initial draws first by member, then by member and version."""
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
        """Fill `training` for `key` and its ancestors; iterative, as lineages may be long."""
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
            inherited = None if parent is None else self.scores[parent]
            self.scores[at] = inherited if version.score is None else version.score
            earlier = None if parent is None else self.earned[parent]
            self.earned[at] = earlier if version.score is None else at
            if parent is None:
                self.training[at] = version.agent_steps
            elif version.kind == "slice":
                own = version.agent_steps - self.versions[parent].agent_steps
                self.training[at] = self.training[parent] + own
            else:
                self.training[at] = self.training[parent]


def segments(lineage: Sequence[Step]) -> list[Segment]:
    """The lineage cut where its weights changed hands, oldest first."""
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
    """The hyperparameters in force along a lineage: see `ScheduleRow`."""
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
    """The episodes played on the way to these weights, on the lineage's own axis.

    Args:
        lineage: from `Tree.lineage`.
        reports: of all members, in any order.

    Returns:
        The episodes of the lineage's slices in order, `agent_steps` being the training behind
        the weights when they finished. Those that did not count (begun before a copy, so partly
        played by other weights) are among them, with `counted` False.
    """
    report_of = {(report.member, report.version): report for report in reports}
    found = []
    for version, training in lineage:
        report = report_of.get((version.member, version.version))
        if report is None:
            continue
        shift = training - version.agent_steps
        found += [e._replace(agent_steps=e.agent_steps + shift) for e in report.episodes]
    return found


def best_member(members: Iterable[Member], tree: Tree) -> Member | None:
    """The member whose present weights have the highest training score; None if none has one yet.

    Not its own `score`, which outlives the weights that earned it when these are replaced. A
    member that diverged or failed takes part with its last sound version: its checkpoint
    stands. Ties go to the further member, then to the lower number.
    """
    scored = []
    for member in members:
        score = tree.scores[tree.newest(member.id)]
        if score is not None:
            scored.append((score, member.agent_steps, -member.id, member))
    return max(scored, key=lambda entry: entry[:3])[3] if scored else None
