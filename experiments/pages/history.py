"""A run as its store shows it at one moment: what figures and tables are made from."""

from dataclasses import dataclass

from pbt import lineage, run, space
from pbt import store as stores
from pbt.member import Event, Member, Report, Version


@dataclass(frozen=True)
class History:
    """All records of a run at one moment, and what follows from them."""

    name: str
    """For titles."""
    config: run.RunConfig
    members: list[Member]
    versions: list[Version]
    reports: list[Report]
    events: list[Event]
    tree: lineage.Tree
    best: Member | None
    """By training score; None before anybody has one."""
    lineage: list[lineage.Step]
    """Of the best member's newest weights; empty without one."""

    @classmethod
    def read(cls, store: stores.Store, name: str) -> "History":
        """Read a run that may be training: what is not yet in all its tables is left out."""
        config = store.config
        # In this order: whatever one refers to was committed with it or before it.
        events = store.events()
        reports = [report for _, report in store.reports()]
        versions = store.versions()
        members = store.members()
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
        """Hyperparameters that differ between members or in time: the adapted ones first."""
        dimensions = self.config.space.dimensions
        free = [n for n, d in dimensions.items() if not isinstance(d, space.Constant)]
        return sorted(free, key=lambda name: name not in self.config.space.adapt)

    @property
    def ranked(self) -> list[Member]:
        """All members, the highest training score of their present weights first."""

        def rank(member: Member) -> tuple[bool, float, int]:
            score = self.tree.scores[self.tree.newest(member.id)]
            return (score is None, -(score or 0.0), member.id)

        return sorted(self.members, key=rank)
