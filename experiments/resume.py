"""Go on with a run as it was begun, without its flags.

    python -m experiments.resume results/runs/atari-Pong
    python -m experiments.resume results/runs/atari-Pong --workers 4
    python -m experiments.resume results/runs/atari-Pong --total-steps 1e6    # extends the run

The settings are those that the run stores. In a second terminal the command adds workers.
"""

import dataclasses
from pathlib import Path
from typing import NoReturn

import tyro

from experiments import cli, cluster, config, launch
from experiments.members import trust
from pbt import run, store


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Go on with a run as it was begun, without its flags."""

    run_dir: tyro.conf.Positional[Path]
    """Directory of the run, e.g. results/runs/atari-Pong."""
    workers: int | None = None
    """Number of worker processes; default: one per core, at most one per member, and on a cluster
    one per member."""
    total_steps: int | None = None
    """Steps of each member, as many as the run has or more; default: the run's."""
    trust: bool = False
    """Go on though the run names other code than the suite's and Gymnasium's: that code is
    executed."""
    where: cluster.Flags = cluster.THIS_MACHINE
    """Where the worker processes are."""


def prepare(arguments: Arguments) -> run.RunConfig:
    """Return the settings that the run goes on with, and change nothing.

    Raises:
        ValueError: The arguments make no sense, or the run names foreign code.
        pbt.store.StoreError: There is no run.
    """
    config.check_workers(arguments.workers)
    arguments.where.check()
    with store.Store.open(arguments.run_dir) as run_store:
        if not arguments.trust:
            trust.check_run(run_store)
        stored = run_store.config
    total_steps = arguments.total_steps or stored.total_steps
    if total_steps < stored.total_steps:
        raise ValueError(
            f"--total-steps {total_steps}: the run has {stored.total_steps}, which may only grow"
        )
    return dataclasses.replace(stored, total_steps=total_steps)


@cli.quiet
def main() -> NoReturn:
    """Parse the command line and go on with the run."""
    arguments = cli.read(Arguments, __doc__)
    try:
        run_config = prepare(arguments)
    except (ValueError, store.StoreError, OSError) as error:
        cli.fail(error)
    workers = arguments.where.num_workers(arguments.workers, run_config.population)
    launch.run_and_exit(arguments.run_dir, run_config, workers, where=arguments.where)


if __name__ == "__main__":
    main()
