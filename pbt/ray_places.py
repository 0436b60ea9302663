"""Train a run on a Ray cluster: one Ray task per worker.

Ray chooses the machine of each task, starts it again if the machine is lost, and asks its
autoscaler for machines while tasks wait. Each task looks after one worker process as `pbt.local`
does. The workers meet in the run's store, so every machine must see the run's directory, and the
run's database if it is elsewhere.
"""

import contextlib
import importlib
import os
import socket
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

from pbt import local, process, store, supervise, verdict

_POLL_S = 0.2
_ANSWER_S = 10.0
"""Seconds within which a cluster must answer."""


class Stopped(Exception):
    """Somebody else than the launcher stopped a worker, such as a machine that is given back."""


def run(
    run_dir: Path,
    workers: int,
    *,
    cpus: float = 1.0,
    gpus: float = 0.0,
    on_tick: Callable[[store.Store], None] | None = None,
    say: Callable[[str], None] = supervise.print_at_once,
) -> int:
    """Work on a run with Ray tasks until it is over; return the exit code.

    It uses the cluster that RAY_ADDRESS names or that runs on this machine. Without one it starts a
    cluster of this machine alone, which ends with the call. A signal to stop ends as in
    `pbt.local.run`: each worker completes its update and commits.

    Args:
        run_dir: The run's directory, under the same path on all machines.
        workers: Number of Ray tasks, each with one worker process.
        cpus: Cores that Ray reserves for each task. A whole number is also its number of threads.
        gpus: GPUs that Ray reserves for each task; 0.5 puts two tasks on one GPU.
        on_tick: See `pbt.local.run`.
        say: Shows a line to the user.

    Returns:
        The exit code of `pbt.local.run`.

    Raises:
        ValueError: Ray is not installed, or the cluster cannot be reached, or it has several
            machines and the run is in an SQLite file.
        store.NotARun: There is no run.
    """
    ray = load()
    check_reachable()

    with supervise.supervised(run_dir, on_tick=on_tick, say=say) as watched:
        if watched.exit_code is None:
            with _connected(ray, cpus * workers, say):
                machines = {node["NodeManagerHostname"] for node in ray.nodes() if node["Alive"]}
                _check_machines(machines, watched.store.path)
                _warn_of_want(ray, cpus, gpus, say)
                place = ray.remote(_place).options(
                    num_cpus=cpus,
                    num_gpus=gpus,
                    max_retries=-1,
                    retry_exceptions=[Stopped],
                    scheduling_strategy="SPREAD",
                )
                tasks = [place.remote(str(run_dir.absolute()), index) for index in range(workers)]
                watched.exit_code = _watch(ray, tasks, watched)
    return watched.exit_code


def load() -> Any:
    """Return the module `ray`; raise `ValueError` with the way out if it is not installed."""
    try:
        return importlib.import_module("ray")
    except ImportError:
        raise ValueError(
            "Ray is not installed: pip install -c constraints.txt -e '.[ray]', on every machine of "
            "the cluster"
        ) from None


def check_reachable() -> None:
    """Raise `ValueError` if RAY_ADDRESS names a cluster that does not answer.

    Ray itself would try for minutes.
    """
    address = os.environ.get("RAY_ADDRESS", "")
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdecimal():  # another word of Ray's, such as "auto"
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_S).close()
    except (OSError, OverflowError) as error:
        raise ValueError(
            f"RAY_ADDRESS={address} does not answer ({error}): start the cluster, or unset it for "
            "one of this machine alone"
        ) from None


def _place(run_dir: str, index: int) -> int:
    """Look after one worker, in a process of Ray's; return its exit code."""
    # What it says goes into the log of Ray's process.
    exit_code = local.run(Path(run_dir), 1, log_name=f"worker-ray-{index}-{socket.gethostname()}")
    if exit_code > 128:
        raise Stopped(f"stopped by signal {exit_code - 128}")
    return exit_code


@contextlib.contextmanager
def _connected(ray: Any, cpus: float, say: Callable[[str], None]) -> Iterator[None]:
    """Be connected to a cluster inside, one of this machine alone if there is no other."""
    settings: dict[str, Any] = {
        "include_dashboard": False,
        "log_to_driver": False,
        "logging_level": "warning",
        "runtime_env": {"env_vars": {"PYTHONPATH": process.python_path()}},
    }
    if ray.is_initialized():  # a script or notebook did it
        yield
        return
    try:
        try:
            ray.init(address="auto", **{**settings, "include_dashboard": None})
            found = "the Ray cluster"
        except ConnectionError:
            if os.environ.get("RAY_ADDRESS"):
                raise
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # ask nobody, send nothing
            # Ray would let every other process of the machine go first.
            os.environ.setdefault("RAY_worker_niceness", "0")
            ray.init(num_cpus=max(1, round(cpus)), **settings)
            found = "a Ray cluster of this machine alone"
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ValueError(f"no Ray cluster can be reached ({error})") from error
    try:
        say(f"on {found}, {_described(ray)}")
        yield
    finally:
        ray.shutdown()


def _check_machines(machines: Collection[str], store_path: Path) -> None:
    """Refuse several machines for a run in a file whose locks hold on one machine only."""
    if len(machines) > 1 and store_path.name == store.FILE_NAME:
        raise ValueError(
            f"the cluster has {len(machines)} machines, and SQLite's locks hold on one machine "
            f"only: begin the run with --store postgresql://... (it is in {store_path})"
        )


def _described(ray: Any) -> str:
    nodes = [node for node in ray.nodes() if node["Alive"]]
    total = ray.cluster_resources()
    gpus = f", {total['GPU']:g} GPUs" if total.get("GPU") else ""
    return f"machines: {len(nodes)}, cores: {total.get('CPU', 0):g}{gpus}"


def _warn_of_want(ray: Any, cpus: float, gpus: float, say: Callable[[str], None]) -> None:
    """Say if no machine of the cluster is large enough for one worker."""
    for node in ray.nodes():
        has = node["Resources"]
        if node["Alive"] and has.get("CPU", 0) >= cpus and has.get("GPU", 0) >= gpus:
            return
    say(
        f"no machine of the cluster has {cpus:g} cores and {gpus:g} GPUs, as each worker needs "
        "now; waiting for one"
    )


def _watch(ray: Any, tasks: list[Any], watched: supervise.Watched) -> int:
    """Wait until all tasks have ended; return the worst of their exit codes."""
    worst, asked = 0, False
    waiting = list(tasks)

    def kill() -> None:
        for task in waiting:
            ray.cancel(task, force=True)

    with process.Stop(kill).installed() as stop:
        while waiting:
            if stop() and not asked:
                asked = True
                watched.say("stopping after the updates that run; once more kills the workers")
                for task in waiting:
                    ray.cancel(task)
            done, waiting = ray.wait(waiting, timeout=_POLL_S)
            for task in done:
                worst = max(worst, _exit_code(ray, task, watched))
            watched.tick()
    return 128 + stop() if stop() else worst


def _exit_code(ray: Any, task: Any, watched: supervise.Watched) -> int:
    try:
        return int(ray.get(task))
    except ray.exceptions.TaskCancelledError:
        return 0
    except ray.exceptions.RayError as error:
        watched.say(f"a worker's task failed: {str(error).strip().splitlines()[-1]}")
        return verdict.EXIT_DEAD
