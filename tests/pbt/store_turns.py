"""Turns per second of a store on both databases: python tests/pbt/store_turns.py [--json FILE].

A turn is what a worker does to the store for one slice: owners and versions, a claim, and a commit
that releases. Connections are threads, each with a store of its own, in up to four processes. The
server runs on the same machine and, like SQLite, syncs each commit to the disk.
"""

import argparse
import json
import multiprocessing
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / "experiments"), str(Path(__file__).parents[2])]

import postgres_server as postgres_servers  # noqa: E402
from pbt import run, space, store  # noqa: E402
from pbt.records import Member, Report  # noqa: E402

MOST_PROCESSES = 4


def create(directory, url, population):
    config = run.RunConfig(
        task="nowhere:make_task",
        space=space.Space({"lr": space.LogUniform(1e-5, 1.0)}, adapt=("lr",)),
        population=population,
        total_steps=10**9,
        report_interval=1,
        ready_interval=10**9,
    )
    members = [Member(i, 0, 0, {"lr": 0.1}) for i in range(population)]
    return store.Store.create(store.file_for(directory, url), config, members, url=url)


def turn(run_store, owner):
    """Take one turn; returns the seconds that its claim took."""
    run_store.owners_and_versions([])
    began_s = time.perf_counter()
    lease = run_store.claim(owner)
    claim_s = time.perf_counter() - began_s
    if lease is not None:
        old = lease.member
        new = replace(
            old,
            version=old.version + 1,
            agent_steps=old.agent_steps + 1,
            checkpoint=f"{old.id}/{old.version + 1}-x",
        )
        report = Report(new.id, new.version, new.agent_steps, 1, 0.1, {"lr": 0.1}, (), {})
        run_store.commit(lease, new, kind="slice", report=report, release=True)
    return claim_s


def take_turns(path, threads, seconds, barrier, results):
    """Take turns in some threads for some seconds, in a process of its own."""

    def work(number):
        with store.Store.open(path) as own:
            turn(own, f"worker {number}")
            barrier.wait()
            ends_s = time.monotonic() + seconds
            while time.monotonic() < ends_s:
                claims_s.append(turn(own, f"worker {number}"))

    claims_s = []
    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    results.put(claims_s)


def measure(path, connections, seconds):
    """Return turns per second, and the 99th percentile of the seconds of a claim."""
    context = multiprocessing.get_context("spawn")
    processes = min(MOST_PROCESSES, connections)
    barrier, results = context.Barrier(connections), context.Queue()
    started = [
        context.Process(
            target=take_turns,
            args=(path, connections // processes, seconds, barrier, results),
        )
        for _ in range(processes)
    ]
    for process in started:
        process.start()
    claims_s = sorted(claim_s for _ in started for claim_s in results.get())
    for process in started:
        process.join()
    return len(claims_s) / seconds, claims_s[int(0.99 * (len(claims_s) - 1))]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--members", type=int, nargs="+", default=[40, 1_000])
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    options = parser.parse_args()
    figures = []
    server = postgres_servers.Server(fsync=True)
    try:
        for population in options.members:
            for connections in options.connections:
                for name, url in (("SQLite", None), ("PostgreSQL", server.url)):
                    with tempfile.TemporaryDirectory() as directory:
                        path = create(Path(directory), url, population).path
                        turns, p99_s = measure(path, connections, options.seconds)
                    figures.append([name, population, connections, turns, p99_s])
                    print(
                        f"{name:>10}: {population:>6,} members, {connections:>3} connections: "
                        f"{turns:6.1f} turns/s, p99 of a claim {p99_s:.2f} s",
                        flush=True,
                    )
    finally:
        server.close()
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
