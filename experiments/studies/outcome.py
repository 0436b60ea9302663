"""`Outcome`: what a study keeps of a finished run, written once into its directory.

`outcome.json` is a projection like all others: delete it, and it is made again from the run. It is
made of the store, and of fresh episodes of the member with the best training score. These are
written where reports and comparisons find them, too (`experiments.scores`).
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

FILE_NAME = "outcome.json"
EPISODES = 30
"""Fresh episodes that score a run."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """A finished run, of which nothing more is to be known."""

    member: int
    """Chosen by training score."""
    training_score: float
    """Biased upward: it chose the member."""
    score: float
    """Mean of `EPISODES` fresh episodes of that member."""
    median_training_score: float
    """Of all members."""
    agent_steps: int
    """Of all members together."""
    seconds: float
    """Of training, summed over the members."""
    decisions: dict[str, int]
    """How often members copied, compared without copying, diverged, ..., by the kind of event."""
    protocol: str
    """How the fresh episodes were played."""
    curve: tuple[tuple[int, float | None, float | None], ...]
    """(agent steps per member, best and median training score of the members then)."""
    schedule: tuple[dict[str, float], ...]
    """Of the winner, through its lineage, as `experiments.schedule` has it."""

    def to_json(self) -> dict[str, Any]:
        """A JSON mapping that `from_json` takes back."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Outcome":
        """Inverse of `to_json`."""
        curve = tuple((row[0], row[1], row[2]) for row in values["curve"])
        return cls(**{**values, "curve": curve, "schedule": tuple(values["schedule"])})


def read(run_dir: Path) -> Outcome | None:
    """What is known of a run; None if it has not come to its end here."""
    try:
        return Outcome.from_json(json.loads((run_dir / FILE_NAME).read_text()))
    except (OSError, ValueError, KeyError, TypeError):
        return None
