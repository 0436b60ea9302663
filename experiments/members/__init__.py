"""The suite's learners behind `pbt.task.Task`: agents in environments, translators, GANs.

`learner` builds an agent and its environments and trains them, `actor` steps them, and `scheduled`
trains along a schedule. `checks` refuses settings that do not fit. `evaluation` chooses and scores
members by fresh samples, which `episodes` plays. `goal_use` plays with other goals than a FeUdal
Network's own. `video` records an episode, and `trust` says what a run may execute. A worker process
imports this package, so only what training needs is imported here.
"""

from experiments.members.learner import make_task as make_task
from experiments.members.scheduled import make_task as make_scheduled_task

__all__ = ["make_scheduled_task", "make_task"]
