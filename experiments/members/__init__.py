"""The suite's learners, which implement `pbt.task.Task`.

`learner` trains an agent in its environments, and `actor` steps the two. `scheduled` trains along a
schedule. `evaluation` plays fresh episodes, and `video` records one. `checks` refuses settings that
do not fit each other before a run exists, and `trust` what a run directory must not execute.
"""

from experiments.members import actor as actor
from experiments.members import checks as checks
from experiments.members import evaluation as evaluation
from experiments.members import learner as learner
from experiments.members import scheduled as scheduled
from experiments.members import trust as trust
from experiments.members import video as video
from experiments.members.learner import make_task as make_task
from experiments.members.scheduled import make_task as make_scheduled_task

__all__ = [
    "actor",
    "checks",
    "evaluation",
    "learner",
    "make_scheduled_task",
    "make_task",
    "scheduled",
    "trust",
    "video",
]
