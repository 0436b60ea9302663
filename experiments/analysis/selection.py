"""The choice of a run's best member: by fresh episodes if they were played, else by training score.

A training score is the mean of ten episodes, and the highest of several is high by luck as well. At
the end of a run the few best by training score play as many fresh episodes each. The winner is the
run's best member, and other fresh episodes score it. `experiments.members.evaluation` plays them.
"""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

from experiments.analysis import files
from pbt import lineage
from pbt.records import Member

CANDIDATES = 4
"""Number of members that play for the choice, those with the highest training scores."""
EPISODES = 16
"""Number of fresh episodes that each of them plays."""


@dataclass(frozen=True)
class Candidate:
    """A member that played for the choice."""

    member: int
    """The member's number."""
    version: int
    """Version of its checkpoint."""
    training_score: float
    """Mean of the training episodes that made it a candidate."""
    mean: float
    """Mean return of the fresh episodes."""


@dataclass(frozen=True)
class Selection:
    """The candidates of a run, the one with the highest training score first."""

    candidates: tuple[Candidate, ...]

    def text(self, samples: str) -> str:
        """Return how the best member was chosen by such samples, in words."""
        return (
            f"chosen by {EPISODES} other fresh {samples} each of the {len(self.candidates)} "
            "members with the highest training scores"
        )

    @property
    def chosen(self) -> Candidate:
        """The candidate with the highest mean; of equal ones the higher training score."""
        return max(self.candidates, key=lambda one: (one.mean, one.training_score))


def path(run_dir: Path) -> Path:
    """Return the path of the file that keeps a run's selection."""
    return run_dir / "report" / "selection.json"


def write(run_dir: Path, selection: Selection) -> None:
    """Write a run's selection to `path`."""
    path(run_dir).parent.mkdir(exist_ok=True)
    files.replace(path(run_dir), json.dumps(asdict(selection), indent=2) + "\n")


def read(run_dir: Path, members: list[Member]) -> Selection | None:
    """Return a run's selection if it is about the members' present weights, else None.

    Args:
        run_dir: Directory of the run.
        members: All members of the run, as they are now.
    """
    versions = {member.id: member.version for member in members}
    try:
        values = json.loads(path(run_dir).read_text(encoding="utf-8"))
        candidates = tuple(Candidate(**one) for one in values["candidates"])
        known = [one for one in candidates if versions[one.member] == one.version]
        numbers = [number for one in candidates for number in (one.mean, one.training_score)]
        if not candidates or len(known) < len(candidates) or not all(map(math.isfinite, numbers)):
            return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return Selection(candidates)


def ranked(members: list[Member], tree: lineage.Tree) -> list[tuple[Member, float]]:
    """Return the members whose present weights have a training score, and it, highest first.

    Ties go to the member with more agent steps, then to the lower id, as in
    `pbt.lineage.best_member`.
    """
    scored = [
        (member, score)
        for member in members
        if (score := tree.scores[tree.newest(member.id)]) is not None
    ]
    return sorted(scored, key=lambda one: (-one[1], -one[0].agent_steps, one[0].id))


def best_member(
    selection: Selection | None, members: list[Member], tree: lineage.Tree
) -> Member | None:
    """Return the run's best member, or None before any member has a score."""
    if selection is not None:
        return next(member for member in members if member.id == selection.chosen.member)
    return lineage.best_member(members, tree)
