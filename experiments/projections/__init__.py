"""What people look at while a run trains: TensorBoard files and a live table."""

from experiments.projections import progress as progress
from experiments.projections import tensorboard as tensorboard
