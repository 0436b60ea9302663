"""The task factory's name in run directories of before it moved to `experiments.members`."""

from experiments.members import make_task as make_task
