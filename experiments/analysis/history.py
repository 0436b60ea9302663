"""The records of a run at one moment: figures and tables are made from them."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from experiments.analysis import selection, units, wording
from experiments.analysis.schedule import Schedule, followed
from experiments.analysis.selection import Selection
from pbt import lineage, run, space
from pbt import store as stores
from pbt.lineage import ScheduleRow
from pbt.records import Event, Member, Report, Version


@dataclass(frozen=True)
class History:
    """All records of a run at one moment, and what follows from them."""

    name: str
    """Name of the run, for titles."""
    config: run.RunConfig
    members: list[Member]
    versions: list[Version]
    reports: list[Report]
    events: list[Event]
    tree: lineage.Tree
    best: Member | None
    """See `experiments.analysis.selection`; None before any member has a score."""
    lineage: list[lineage.Step]
    """Lineage of the best member's newest weights; empty without a best member."""
    selection: Selection | None = None
    """The choice of the best member by fresh episodes, if there was one."""
    damaged: list[str] = field(default_factory=list)
    """Damaged rows of reports and events, which are left out, one line each."""

    @classmethod
    def read(cls, store: stores.Store, name: str) -> "History":
        """Read a run, which may be training.

        Every version that a member, a report or an event names is among `versions`. Damaged reports
        and events are left out.

        Raises:
            pbt.store.StoreError: The run cannot be read, or a member or a version is damaged.
        """
        config = store.config
        # Versions are read last, since the other records refer to versions that were committed
        # with them or before them.
        damaged: list[str] = []
        events = store.events(damaged=damaged)
        numbered = store.reports(damaged=damaged)
        members = store.members()
        versions = store.versions()
        tree = lineage.Tree(versions, config.copy)
        for member in members:
            if (member.id, member.version) not in tree.versions:
                raise stores.StoreError(
                    f"{store.path} is damaged: version {member.version} of member {member.id} is "
                    "in the table member, and not in the table version"
                )
        reports = []
        for row, report in numbered:
            found = tree.versions.get((report.member, report.version))
            if found is None or (found.kind, found.agent_steps) != ("slice", report.agent_steps):
                damaged.append(f"table report, row {row}: it is of no slice that was committed")
            else:
                reports.append(report)
        for event in [e for e in events if (e.member, e.version) not in tree.versions]:
            damaged.append(f"table event, row {event.id}: it is of no version that was committed")
            events.remove(event)
        chosen = selection.read(store.path.parent, members)
        best = selection.best_member(chosen, members, tree)
        return cls(
            name=name,
            config=config,
            members=members,
            versions=versions,
            reports=reports,
            events=events,
            tree=tree,
            best=best,
            lineage=[] if best is None else tree.lineage(best.id),
            selection=chosen,
            damaged=damaged,
        )

    @property
    def units(self) -> units.Units:
        """The words for steps and scores of these learners."""
        return units.of(self.config)

    @property
    def damage(self) -> str | None:
        """How many damaged rows were left out, and the first one; None if there are none."""
        if not self.damaged:
            return None
        rows = wording.counted(len(self.damaged), "damaged row")
        return f"{rows} of the store left out; the first: {self.damaged[0]}"

    @property
    def varied(self) -> list[str]:
        """Hyperparameters that differ between members or over time, the adapted ones first."""
        dimensions = self.config.space.dimensions
        free = [n for n, d in dimensions.items() if not isinstance(d, space.Constant)]
        return sorted(free, key=lambda name: name not in self.config.space.adapt)

    @property
    def followed(self) -> Schedule | None:
        """The schedule that all members of a replay follow; None for any other run."""
        return followed(self.config)

    @property
    def scheduled(self) -> list[str]:
        """The hyperparameters that a figure of `schedule` shows."""
        return self.varied if self.followed is None else list(self.followed.names)

    @property
    def schedule(self) -> list[ScheduleRow]:
        """The hyperparameters that trained the best member's weights; empty without such a member.

        For a replay, the rows of its schedule that the weights have reached.
        """
        found = lineage.schedule(self.lineage)
        if self.followed is None or not found:
            return found
        last = found[-1]
        begun = [steps for steps, _ in self.followed.rows if steps < last.agent_steps]
        rows = []
        for steps in [*begun, last.agent_steps]:
            version = max(s.version.version for s in self.lineage if s.training <= steps)
            rows.append(ScheduleRow(steps, self.followed.at(steps), last.member, version))
        return rows

    def used(self, row: ScheduleRow) -> Mapping[str, float]:
        """Return the values that the learner used at a row of `schedule`, integers rounded."""
        if self.followed is not None:
            return self.followed.used(row.agent_steps)
        return self.config.space.used(row.hyperparameters)

    @property
    def ranked(self) -> list[Member]:
        """All members, the highest training score of their present weights first."""

        def rank(member: Member) -> tuple[bool, float, int]:
            score = self.tree.scores[self.tree.newest(member.id)]
            return (score is None, -(score or 0.0), member.id)

        return sorted(self.members, key=rank)
