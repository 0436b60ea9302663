"""The former module of the task factory, which older run directories name."""

from experiments.members import make_task as make_task
