"""What a run says, as numbers and words; imports neither torch nor matplotlib.

`history` reads a run. `curves`, `decisions`, `protocol`, `schedule`, `scores` and `tables` say what
follows from it, `comparison` what follows from several. `aggregates` has the statistics, `wording`
writes numbers for people, `provenance` keeps commands and commits, `tasks` the names of factories.

Nothing is imported here, so that a worker process imports only the modules that training needs.
"""
