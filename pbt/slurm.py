"""Train a run on a SLURM cluster: submit a job array whose tasks each look after one worker.

SLURM chooses the machines and starts a task again whose machine is lost (`--requeue`). A task that
SLURM ends, at its time limit or for another job, completes its update and commits. The workers meet
in the run's store, so every machine must see the run's directory.
"""

import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from pbt import process, store, supervise, verdict

_POLL_S = 0.2
_ASK_S = 5.0
"""Seconds between two questions to SLURM."""
_GRACE_S = 120
"""Seconds before its time limit at which a task is asked to stop, longer than most updates."""
_JOB_NAME = "slurm-job"
"""File among the logs that says which job works on the run."""


def run(
    run_dir: Path,
    workers: int,
    *,
    cpus: int = 1,
    gpus: int = 0,
    options: Sequence[str] = (),
    on_tick: Callable[[store.Store], None] | None = None,
    say: Callable[[str], None] = supervise.print_at_once,
) -> int:
    """Submit an array of workers and watch the run until it is over; return the exit code.

    If the array of before is still in the queue, it is watched and nothing is submitted. A signal
    ends the watching alone; it does not reach the job.

    Args:
        run_dir: The run's directory, under the same path on all machines.
        workers: Number of the array's tasks, each with one worker process.
        cpus: Cores of each task, and its number of threads.
        gpus: GPUs of each task.
        options: Options of `sbatch` besides, such as "--partition=long".
        on_tick: See `pbt.local.run`.
        say: Shows a line to the user.

    Returns:
        The exit code of `pbt.local.run`.

    Raises:
        ValueError: There is no SLURM on this machine, or it does not take the job.
        store.NotARun: There is no run.
    """
    check()

    with supervise.supervised(run_dir, on_tick=on_tick, say=say) as watched:
        if watched.exit_code is None:
            if watched.store.path.name == store.FILE_NAME:
                say(
                    "the run is in an SQLite file, whose locks hold on one machine only: keep the "
                    "job on one (--sbatch=--nodelist=NAME), or begin with --store postgresql://..."
                )
            note = run_dir / "logs" / _JOB_NAME
            job = note.read_text().strip() if note.exists() else ""
            if job and _is_queued(job):
                say(f"job {job} works on the run already, so nothing was submitted")
            else:
                job = _submit(run_dir, workers, cpus, gpus, options)
                note.write_text(job)
                say(f"submitted job {job}: {workers} tasks; their logs are in {run_dir / 'logs'}")
            say(
                f"to end its workers cleanly: scancel --signal=TERM {job}. To join by hand, on any "
                f"machine: {shlex.join(_command(run_dir))}"
            )
            watched.exit_code = _watch(job, watched)
    return watched.exit_code


def check() -> None:
    """Raise `ValueError` with the way out unless SLURM's commands are there."""
    if shutil.which("sbatch") is None or shutil.which("squeue") is None:
        raise ValueError(
            "there is no SLURM on this machine (sbatch and squeue are missing): give the command "
            "on a login node of the cluster"
        )


def _command(run_dir: Path) -> list[str]:
    """Return the command that looks after one worker on the machine that it is given on."""
    return [sys.executable, "-m", "pbt.local", "--workers=1", "--", str(run_dir.absolute())]


def _submit(run_dir: Path, workers: int, cpus: int, gpus: int, options: Sequence[str]) -> str:
    """Submit the array; return the number of its job."""
    logs = run_dir.absolute() / "logs"
    logs.mkdir(exist_ok=True)
    command = _command(run_dir)
    command[3:3] = ["--stopped-is-success", "--log-name=worker-slurm-$SLURM_ARRAY_TASK_ID"]
    quoted = " ".join(part if "$" in part else shlex.quote(part) for part in command)
    # Without `exec` the shell would be who gets SLURM's signals.
    script = f"#!/bin/sh\nexec srun --ntasks=1 {quoted}\n"
    submitted = subprocess.run(
        [
            "sbatch",
            "--parsable",
            f"--job-name=pbt-{run_dir.name.replace(' ', '-')}",
            f"--array=0-{workers - 1}",
            f"--cpus-per-task={cpus}",
            *([f"--gpus-per-task={gpus}", "--ntasks=1"] if gpus else []),
            "--requeue",
            f"--signal=TERM@{_GRACE_S}",
            f"--output={logs}/slurm-%A-%a.log",
            "--open-mode=append",
            *options,
        ],
        input=script,
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "OMP_NUM_THREADS": str(cpus),
            "PYTHONPATH": process.python_path(),
        },
    )
    if submitted.returncode != 0:
        raise ValueError(f"SLURM does not take the job: {submitted.stderr.strip()}")
    return submitted.stdout.strip().partition(";")[0]  # a cluster's name may follow


def _is_queued(job: str) -> bool:
    """Return whether a task of the job waits or runs. In doubt it does."""
    asked = subprocess.run(
        ["squeue", "--noheader", f"--jobs={job}", "--format=%T"], capture_output=True, text=True
    )
    if asked.returncode != 0:
        return "Invalid job id" not in asked.stderr
    return bool(asked.stdout.strip())


def _watch(job: str, watched: supervise.Watched) -> int:
    """Show the run until the job has ended or somebody stops watching; return the exit code."""
    asked_s = time.monotonic()
    with process.Stop().installed() as stop:
        while not stop():
            if time.monotonic() - asked_s >= _ASK_S:
                asked_s = time.monotonic()
                if watched.ask(verdict.of):
                    # Tasks that wait would find nothing to do.
                    subprocess.run(["scancel", "--quiet", "--state=PENDING", job])
                    return 0
                if not _is_queued(job):
                    watched.say(
                        f"job {job} has ended before the run is over: see its logs in "
                        f"{watched.run_dir / 'logs'}; the same command submits another one"
                    )
                    return verdict.EXIT_DEAD
            watched.tick()
            time.sleep(_POLL_S)
    watched.say(f"job {job} goes on; the same command watches it again")
    return 128 + stop()
