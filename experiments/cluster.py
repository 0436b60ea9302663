"""Where the worker processes of a run are: on this machine, on a Ray cluster, or in SLURM jobs."""

import dataclasses
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import tyro

from experiments.analysis import wording
from pbt import local, ray_places, slurm, store


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cluster:
    """Where worker processes run, and what each may use."""

    cluster: Literal["ray", "slurm"] | None = None
    """Where workers run; default: on this machine. All machines must see the run's directory. "ray"
    uses the cluster of RAY_ADDRESS, or one of this machine. "slurm" submits a job array."""
    cpus_per_worker: float = 1.0
    """With `--cluster`: cores, and so threads, of each worker."""
    gpus_per_worker: float = 0.0
    """With `--cluster`: GPUs of each worker; on Ray, 0.5 puts two workers on one."""
    sbatch: str = ""
    """With `--cluster slurm`: options of sbatch besides, as in --sbatch="--partition=long
    --time=12:00:00"."""

    def check(self) -> None:
        """Refuse settings that make no sense, or a cluster that cannot be used from here.

        Raises:
            ValueError: One line with the way out.
        """
        if self.cluster is None:
            for name, usual in (("cpus_per_worker", 1.0), ("gpus_per_worker", 0.0), ("sbatch", "")):
                if getattr(self, name) != usual:
                    flag = f"--{name.replace('_', '-')}"
                    raise ValueError(f"{flag}: only with --cluster ray or --cluster slurm")
            return
        if self.cluster != "slurm" and self.sbatch:
            raise ValueError(f"--sbatch={self.sbatch}: only with --cluster slurm")
        if not self.cpus_per_worker > 0:
            raise ValueError(f"--cpus-per-worker {self.cpus_per_worker:g}: use more than 0")
        if not self.gpus_per_worker >= 0:
            raise ValueError(f"--gpus-per-worker {self.gpus_per_worker:g}: use 0 or more")
        if self.cluster == "ray":
            ray_places.load()
            ray_places.check_reachable()
            return
        for name in ("cpus_per_worker", "gpus_per_worker"):
            if (value := getattr(self, name)) != round(value):
                flag = f"--{name.replace('_', '-')}"
                raise ValueError(f"{flag} {value:g}: SLURM gives whole ones, use {value + 1:.0f}")
        slurm.check()

    def num_workers(self, wanted: int | None, population: int) -> int:
        """Return the number of worker processes to start.

        Args:
            wanted: The number that the user gave. None is one per core of this machine and at most
                one per member, or on a cluster one per member.
            population: Number of members.
        """
        if wanted is not None:
            return wanted
        return population if self.cluster else min(local.available_cores(), population)

    def described(self, workers: int) -> str:
        """Return how many workers there are and where, such as "8 workers on Ray"."""
        where = {None: "", "ray": " on Ray", "slurm": " in SLURM jobs"}
        return wording.counted(workers, "worker") + where[self.cluster]

    def run(
        self, run_dir: Path, workers: int, on_tick: Callable[[store.Store], None] | None = None
    ) -> int:
        """Work on a run until it is over; see `pbt.local.run`.

        Raises:
            ValueError: The cluster cannot be reached or does not take the job.
            pbt.store.NotARun: There is no run.
        """
        if self.cluster == "ray":
            return ray_places.run(
                run_dir,
                workers,
                cpus=self.cpus_per_worker,
                gpus=self.gpus_per_worker,
                on_tick=on_tick,
            )
        if self.cluster == "slurm":
            return slurm.run(
                run_dir,
                workers,
                cpus=round(self.cpus_per_worker),
                gpus=round(self.gpus_per_worker),
                options=shlex.split(self.sbatch),
                on_tick=on_tick,
            )
        return local.run(run_dir, workers, on_tick=on_tick)


THIS_MACHINE = Cluster()
Flags = Annotated[tyro.conf.OmitArgPrefixes[Cluster], tyro.conf.arg(name="cluster")]
"""Type of the field `where` of the commands that train a population."""
