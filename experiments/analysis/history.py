"""The records of a run at one moment: figures and tables are made from them."""

from collections.abc import Mapping
from dataclasses import dataclass

from experiments.analysis.schedule import Schedule, followed
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
    """The member with the highest training score; None before any member has a score."""
    lineage: list[lineage.Step]
    """Lineage of the best member's newest weights; empty without a best member."""

    @classmethod
    def read(cls, store: stores.Store, name: str) -> "History":
        """Read a run, which may be training.

        Every version that a member, a report or an event names is among `versions`.
        """
        config = store.config
        # Versions are read last, since the other records refer to versions that were committed
        # with them or before them.
        events = store.events()
        reports = [report for _, report in store.reports()]
        members = store.members()
        versions = store.versions()
        tree = lineage.Tree(versions, config.copy)
        best = lineage.best_member(members, tree)
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
        )

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
