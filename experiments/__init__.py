"""Commands, and the only place where agents, environments and the PBT engine meet.

From Python, `tune` trains a population of a `Learner` of one's own. `load_run` reads a run, and
`load_agent` and `load_learner` take a member out of it.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from experiments.members.own import Learner as Learner
    from experiments.runs import load_agent as load_agent
    from experiments.runs import load_learner as load_learner
    from experiments.runs import load_run as load_run
    from experiments.tuning import tune as tune

_DOORS = {
    "Learner": "experiments.members.own",
    "load_agent": "experiments.runs",
    "load_learner": "experiments.runs",
    "load_run": "experiments.runs",
    "tune": "experiments.tuning",
}
"""Modules of the names that users import from this package, imported when they are asked for."""


def __getattr__(name: str) -> Any:
    """Import what a user asks for. A worker process, which asks for nothing, stays small."""
    if name not in _DOORS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_DOORS[name]), name)
