"""The suite's learners behind `pbt.task.Task`: agents in environments.

`learner` builds an agent and its environments and trains them, `actor` steps them, `scheduled`
trains along a schedule, `evaluation` plays fresh episodes, `video` records one.
"""

from experiments.members import actor as actor
from experiments.members import evaluation as evaluation
from experiments.members import learner as learner
from experiments.members import scheduled as scheduled
from experiments.members import video as video
from experiments.members.learner import make_task as make_task
from experiments.members.scheduled import make_task as make_scheduled_task

__all__ = [
    "actor",
    "evaluation",
    "learner",
    "make_scheduled_task",
    "make_task",
    "scheduled",
    "video",
]
