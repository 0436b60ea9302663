"""Controlled comparisons: definitions, the runs they need, their tables and results."""

from experiments.studies import conclude as conclude
from experiments.studies import defaults as defaults
from experiments.studies import definitions as definitions
from experiments.studies import plan as plan
from experiments.studies import results as results
from experiments.studies import schedules as schedules
from experiments.studies import tables as tables
