"""A large population of an instant task: scale.py --members 1000 --workers 100 --slices 5 [--ray].

Real worker processes of `python -m pbt.worker`, started by `pbt.local` or through Ray, train the
toy of these tests on a PostgreSQL server of this script's own, which syncs each commit to the disk.
Every slice is one update that takes no time, so what is left is the engine and its store. Then all
is counted: the steps of each member, and the steps that the learners wrote down themselves.

With --costs, one connection measures the CPU seconds of each call to the store that grows with the
population or is made in every turn. They hardly depend on what else the machine does.
"""

import argparse
import collections
import contextlib
import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent
# The toy, this clone's packages, and the tests' PostgreSQL server.
sys.path[:0] = [
    *map(str, (HERE, HERE.parents[1])),
    *(str(HERE.parent / name) for name in ("experiments", "pbt")),
]

import psutil  # noqa: E402
import store_turns  # noqa: E402
from toy import UPDATE  # noqa: E402

import postgres_server  # noqa: E402
from pbt import claim, create, local, ray_places, run, space, storage, store  # noqa: E402

READY_SLICES = 2
COLLECTIONS = 5


def settings(folder: Path, members: int, slices: int) -> run.RunConfig:
    return run.RunConfig(
        task="instant:make_task",
        task_config={"log": str(folder / "steps.log"), "claims": str(folder / "claims")},
        space=space.Space({"rate": space.Uniform(0.05, 1.0)}, adapt=("rate",)),
        population=members,
        total_steps=slices * UPDATE,
        report_interval=UPDATE,
        ready_interval=READY_SLICES * UPDATE,
        exploit="truncation",
        window=1,
        min_episodes=1,
    )


def check(run_dir: Path, folder: Path) -> dict[str, int]:
    """Count all steps in three ways; fail if any is lost or was trained twice."""
    with store.Store.open(run_dir) as run_store:
        config = run_store.config
        members, versions = run_store.members(), run_store.versions()
        reports = [report for _, report in run_store.reports()]
        events = collections.Counter(event.kind for event in run_store.events())
    total, slices = config.total_steps, config.total_steps // UPDATE
    assert [member.agent_steps for member in members] == [total] * config.population
    assert {(member.state, member.owner) for member in members} == {("finished", None)}
    reported, trained = collections.Counter(), collections.Counter()
    for report in reports:
        reported[report.member] += report.slice_steps
    for words in map(str.split, (folder / "steps.log").read_text().splitlines()):
        if words[2] == "steps":
            trained[int(words[1])] += int(words[3])
    everyone = dict.fromkeys(range(config.population), total)
    assert reported == everyone
    assert trained == everyone, "a step was trained twice, or is not recorded"
    assert len(reports) == config.population * slices
    kinds = collections.Counter(version.kind for version in versions)
    assert kinds["slice"] == len(reports)
    assert kinds["initial"] == config.population
    assert kinds["exploit"] == events["exploit"]
    assert events["takeover"] == events["failed"] == events["restored"] == 0
    place = storage.of(run_dir)
    for member in members:
        place.open_verified(member.checkpoint, member.id, member.version)
    return {"slices": len(reports), "copies": kinds["exploit"], "rows": len(versions)}


def figures(run_dir: Path, folder: Path) -> dict[str, object]:
    """Return turns per second, seconds of claims, and how workers spent their time."""
    found = [json.loads(path.read_text()) for path in (folder / "claims").glob("*.json")]
    claims_s = sorted(claim_s for one in found for claim_s in one["claims_s"])
    seconds: collections.Counter[str] = collections.Counter()
    for path in (run_dir / "logs").glob("seconds-*.json"):
        seconds.update(json.loads(path.read_text()))
    with store.Store.open(run_dir) as run_store:
        times_s = sorted(report.created_s for _, report in run_store.reports())
    tenth = len(times_s) // 10  # the first and last tenth have fewer workers at work
    middle = times_s[tenth : len(times_s) - tenth]
    return {
        "workers_seen": len(found),
        "turns_per_s": (len(middle) - 1) / (middle[-1] - middle[0]),
        "first_to_last_turn_s": times_s[-1] - times_s[0],
        "claims": len(claims_s),
        "claim_median_s": claims_s[len(claims_s) // 2],
        "claim_p99_s": claims_s[int(0.99 * (len(claims_s) - 1))],
        "claim_longest_s": claims_s[-1],
        "worker_memory_mb": max(one["memory_mb"] for one in found),
        "worker_seconds": {name: round(spent_s, 1) for name, spent_s in seconds.most_common()},
    }


def cost(call: Callable[[], object], times: int, server: psutil.Process) -> dict[str, float]:
    """Return the CPU milliseconds of a call, in this process and in the server, and its wall time.

    The kernel counts the CPU time of processes in steps of 10 ms.
    """
    call()
    began_s, server_s, wall_s = time.process_time(), cpu_s(server), time.monotonic()
    for _ in range(times):
        call()
    spent = {
        "client_ms": time.process_time() - began_s,
        "server_ms": cpu_s(server) - server_s,
        "wall_ms": time.monotonic() - wall_s,
    }
    return {name: round(1_000 * seconds / times, 2) for name, seconds in spent.items()}


def costs(population: int, url: str, server: psutil.Process) -> dict[str, object]:
    """Return what a turn costs, and what a ready member and a collection of checkpoints read."""
    with tempfile.TemporaryDirectory() as directory:
        run_store = store_turns.create(Path(directory), url, population)
        with run_store:
            return {
                "members": population,
                "turn": cost(lambda: store_turns.turn(run_store, "worker"), 100, server),
                "all members": cost(run_store.members, 5, server),
                "names to keep": cost(run_store.referenced_checkpoints, 5, server),
            }


def cpu_s(process: psutil.Process) -> float:
    """Return the CPU seconds of a process, its children, and those of both that have ended."""
    spent_s = sum(process.cpu_times()[:4])
    for child in process.children():
        with contextlib.suppress(psutil.NoSuchProcess):
            spent_s += sum(child.cpu_times()[:2])
    return spent_s


def collection(run_dir: Path, server: psutil.Process) -> dict[str, float]:
    """Return the cost of one collection of checkpoints, which each worker does at times."""
    place = storage.of(run_dir)
    with store.Store.open(run_dir) as run_store:
        return cost(lambda: claim.collect(run_store, place), COLLECTIONS, server)


def postmaster(server: postgres_server.Server) -> psutil.Process:
    return psutil.Process(int((server.data / "postmaster.pid").read_text().split()[0]))


def measure(options: argparse.Namespace, folder: Path, server_: postgres_server.Server) -> dict:
    run_dir = folder / "run"
    (folder / "claims").mkdir()
    config = settings(folder, options.members, options.slices)
    create.create_run(run_dir, config, url=server_.url).close()
    os.environ["PYTHONPATH"] = str(HERE)
    loads, free_gb, asked_s = [], [], -math.inf

    def look(_: store.Store) -> None:
        nonlocal asked_s
        if time.monotonic() - asked_s > 10:
            asked_s = time.monotonic()
            loads.append(round(os.getloadavg()[0], 1))
            free_gb.append(round(psutil.virtual_memory().available / 1e9, 1))

    server = postmaster(server_)
    load_before = round(os.getloadavg()[0], 1)
    began_s, began_cpu_s, server_cpu_s = time.monotonic(), sum(os.times()[2:4]), cpu_s(server)
    launch = ray_places.run if options.ray else local.run
    exit_code = launch(run_dir, options.workers, on_tick=look)
    assert exit_code == 0, exit_code
    return {
        "members": options.members,
        "workers": options.workers,
        "through": "Ray" if options.ray else "pbt.local",
        "wall_s": round(time.monotonic() - began_s, 1),
        "workers_cpu_s": round(sum(os.times()[2:4]) - began_cpu_s, 1),
        "server_cpu_s": round(cpu_s(server) - server_cpu_s, 1),
        "load_before": load_before,
        "load_during": loads,
        "free_memory_gb": free_gb,
        **check(run_dir, folder),
        **figures(run_dir, folder),
        "collection": collection(run_dir, server),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--members", type=int, default=1_000)
    parser.add_argument("--workers", type=int, default=100)
    parser.add_argument("--slices", type=int, default=5, help="slices of each member")
    parser.add_argument("--ray", action="store_true", help="through a Ray cluster of this machine")
    parser.add_argument("--costs", type=int, nargs="+", help="populations whose costs to measure")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    options = parser.parse_args()
    server = postgres_server.Server(fsync=True)
    try:
        if options.costs:
            found = [costs(members, server.url, postmaster(server)) for members in options.costs]
        else:
            with tempfile.TemporaryDirectory() as directory:
                found = measure(options, Path(directory), server)
    finally:
        server.close()
    text = json.dumps(found, indent=1)
    print(text)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
