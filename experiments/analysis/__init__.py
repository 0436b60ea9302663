"""What a run says, as numbers and words; imports neither torch nor matplotlib.

`history` reads a run. `curves`, `decisions`, `protocol`, `schedule`, `scores` and `tables` say what
follows from it, `comparison` what follows from several. `aggregates` has the statistics, `wording`
writes numbers for people, `provenance` keeps commands and commits, `tasks` the names of factories.
"""

from experiments.analysis import aggregates as aggregates
from experiments.analysis import arms as arms
from experiments.analysis import comparison as comparison
from experiments.analysis import curves as curves
from experiments.analysis import decisions as decisions
from experiments.analysis import files as files
from experiments.analysis import history as history
from experiments.analysis import outcome as outcome
from experiments.analysis import protocol as protocol
from experiments.analysis import provenance as provenance
from experiments.analysis import schedule as schedule
from experiments.analysis import scores as scores
from experiments.analysis import tables as tables
from experiments.analysis import tasks as tasks
from experiments.analysis import wording as wording
