"""The store under several threads and processes, and under kill -9 within a transaction."""

import inspect
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from pbt import run, space, store
from pbt.records import Event, Member, Report

REPOSITORY = Path(store.__file__).parents[1]


def train(run_store, lease, release=False, details=None):
    """Commit a slice of one step. Also runs in the child processes, from this source text."""
    before = lease.member
    version = before.version + 1
    after = replace(
        before,
        version=version,
        agent_steps=before.agent_steps + 1,
        checkpoint=f"{before.id}/{version}-{version:016x}",
    )
    report = Report(before.id, version, after.agent_steps, 1, 0.1, before.hyperparameters, (), {})
    events = [Event("no-exploit", before.id, version, after.agent_steps, details or {})]
    return run_store.commit(
        lease, after, kind="slice", report=report, events=events, release=release
    )


def contend(run_store, owner, place, wanted):
    """Claim and release the only member again and again, until its fence says that is enough.

    Returns the fences this owner got. Also runs in child processes, from this source text.
    """
    fences = []
    while not os.path.exists(f"{place}.enough"):
        lease = run_store.claim(owner)
        if lease is None:
            continue
        # Fails if anybody else is between the same two lines.
        os.close(os.open(f"{place}.held", os.O_CREAT | os.O_EXCL))
        fences.append(lease.fence)
        os.unlink(f"{place}.held")
        if lease.fence >= wanted:
            os.close(os.open(f"{place}.enough", os.O_CREAT))
        run_store.release(lease)
    return fences


CHILD = f"""
import os, signal, sys
from dataclasses import replace
from pbt import store
from pbt.store import schema
from pbt.records import Event, Report
{inspect.getsource(train)}
{inspect.getsource(contend)}
"""


@pytest.fixture
def create(tmp_path, databases):
    """Make a store of small members: create(population, **settings)."""

    def make(population, durable=False, **settings):
        config, first = beginning(population, **settings)
        return databases.create(databases.file(tmp_path), config, first, durable=durable)

    return make


def beginning(population, **settings):
    values = {"total_steps": 10**9, "report_interval": 1, "ready_interval": 10**9} | settings
    config = run.RunConfig(
        task="learner:make",
        space=space.Space({"lr": space.LogUniform(1e-5, 1.0)}, adapt=("lr",)),
        population=population,
        **values,
    )
    return config, [Member(i, 0, 0, {"lr": 0.1}) for i in range(population)]


def start(script, *arguments, **keywords):
    return subprocess.Popen(
        [sys.executable, "-c", CHILD + script, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        text=True,
        **keywords,
    )


# Everybody wants the same member at the same time.


@pytest.mark.parametrize("times", [300, pytest.param(1_000, marks=pytest.mark.slow)])
def test_two_processes_claim_one_member_hundreds_of_times(create, times):
    path = create(1, max_attempts=10**6).path
    script = """
run_store = store.Store.open(sys.argv[1], durable=False)
print("ready", flush=True)
sys.stdin.readline()
print(*contend(run_store, sys.argv[2], sys.argv[1], int(sys.argv[3])))
"""
    children = [start(script, path, name, times, stdin=subprocess.PIPE) for name in ("one", "two")]
    for child in children:
        assert child.stdout.readline() == "ready\n"
    outputs = []
    readers = [
        threading.Thread(target=lambda child=child: outputs.append(child.communicate("go\n")[0]))
        for child in children
    ]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert [child.returncode for child in children] == [0, 0]
    fences = [[int(fence) for fence in output.split()] for output in outputs]
    assert sorted(fences[0] + fences[1]) == list(range(1, len(fences[0] + fences[1]) + 1))
    assert len(fences[0] + fences[1]) >= times
    assert all(fences)  # both won now and then, so they did contend


@pytest.mark.parametrize("times", [64, pytest.param(200, marks=pytest.mark.slow)])
def test_sixteen_threads_claim_one_member(create, times):
    path = create(1, max_attempts=10**6).path
    fences, failures = [], []
    barrier = threading.Barrier(16)

    def work(number):
        try:
            own = store.Store.open(path, durable=False)
            barrier.wait()
            fences.extend(contend(own, f"thread {number}", path, times))
            own.close()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert sorted(fences) == list(range(1, len(fences) + 1))
    assert len(fences) >= times


def test_sixteen_threads_share_out_a_population_of_sixteen(create):
    run_store = create(16)
    claimed = []
    barrier = threading.Barrier(16)

    def work(number):
        barrier.wait()
        claimed.append(run_store.claim(f"thread {number}").member.id)  # one store for all of them

    threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(claimed) == list(range(16))


# kill -9 inside a transaction.


def everything(run_store):
    return (
        run_store.members(),
        run_store.versions(),
        run_store.reports(),
        run_store.events(),
        run_store.referenced_checkpoints(),
    )


@pytest.mark.parametrize("size", [10, 12_000_000])
def test_a_kill_inside_a_commit_leaves_nothing_of_it(create, databases, size):
    """With more in it than SQLite's cache holds, some of its pages are in the file already."""
    run_store = create(2)
    lease = run_store.claim("one")
    run_store.release(lease)
    script = """
run_store = store.Store.open(sys.argv[1], durable=False)
lease = run_store.claim("killed")
insert = schema.insert_events
def insert_and_die(*arguments):
    insert(*arguments)
    print("inside", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
schema.insert_events = insert_and_die
print("claimed", flush=True)
train(run_store, lease, details={"x": "x" * int(sys.argv[2])})
"""
    child = start(script, run_store.path, size)
    assert child.stdout.readline() == "claimed\n"
    assert child.stdout.readline() == "inside\n"
    assert child.wait() == -signal.SIGKILL
    journal = run_store.path.with_name(f"{run_store.path.name}-journal")
    if size > 1_000_000 and databases.is_sqlite:
        assert journal.stat().st_size > 0
        assert run_store.path.stat().st_size > 4_000_000
    members, versions, reports, events, _ = everything(store.Store.open(run_store.path))
    assert (len(versions), reports, events) == (2, [], [])
    assert (members[0].version, members[0].owner, members[0].fence) == (0, "killed", 2)
    assert not journal.exists()
    lease = run_store.claim("next", dead_owners={"killed"})
    assert (lease.member.id, lease.fence) == (0, 3)


def test_a_kill_inside_a_claim_leaves_no_lease(create):
    run_store = create(1, max_attempts=1)
    run_store.claim("before")
    script = """
run_store = store.Store.open(sys.argv[1], durable=False)
def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
schema.insert_events = die
run_store.claim("killed", dead_owners={"before"})
"""
    before = everything(run_store)
    assert start(script, run_store.path).wait() == -signal.SIGKILL
    assert everything(run_store) == before


def test_a_kill_inside_create_leaves_no_run(tmp_path, create, databases):
    path = databases.file(tmp_path)
    script = """
from pbt import run, space
from pbt.records import Member
if sys.argv[2] == "filling":
    def die(*_):
        os.kill(os.getpid(), signal.SIGKILL)
    schema.insert_version = die
else:
    os.link = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
config = run.RunConfig(
    task="learner:make", space=space.Space({"lr": space.Uniform(0, 1)}), population=1,
    total_steps=10, report_interval=1, ready_interval=1,
)
url = sys.argv[3] if len(sys.argv) > 3 else None
store.Store.create(sys.argv[1], config, [Member(0, 0, 0, {"lr": 0.1})], url=url)
"""
    for when in ("filling", "naming"):
        url = [] if databases.is_sqlite else [databases.url]
        assert start(script, path, when, *url).wait() == -signal.SIGKILL
        assert not path.exists()
        with pytest.raises(store.NotARun):
            store.Store.open(path)
    assert len(create(3).members()) == 3


def test_kills_at_random_moments_lose_and_double_nothing(create, databases):
    """What a worker was told is committed is there; at most one commit more, and it is whole."""
    run_store = create(2, durable=True, max_attempts=10**6)
    script = """
run_store = store.Store.open(sys.argv[1])
while True:
    lease = run_store.claim(sys.argv[2], dead_owners=run_store.owners())
    lease = train(run_store, lease)
    print(lease.member.id, lease.member.version, flush=True)
    lease = train(run_store, lease, release=True)
    print(lease.member.id, lease.member.version, flush=True)
"""
    told = [0, 0]
    rng = random.Random(0)
    for trial in range(4):
        child = start(script, run_store.path, f"child {trial}")
        lines = [child.stdout.readline()]
        time.sleep(rng.uniform(0, 0.15))  # any moment will do: this is when, not whether
        child.send_signal(signal.SIGKILL)
        lines += child.communicate()[0].splitlines()
        for line in lines:
            if len(line.split()) == 2:
                member, version = map(int, line.split())
                told[member] = max(told[member], version)
        again = store.Store.open(run_store.path)
        versions = [member.version for member in again.members()]
        assert all(0 <= found - known <= 1 for found, known in zip(versions, told, strict=True))
        assert sum(versions) - sum(told) <= 1
        told = versions
    reports = [(report.member, report.version) for _, report in again.reports()]
    expected = [(i, version) for i in (0, 1) for version in range(1, told[i] + 1)]
    assert sorted(reports) == expected
    assert sorted((v.member, v.version) for v in again.versions() if v.version) == expected
    assert [member.agent_steps for member in again.members()] == told
    if databases.is_sqlite:
        connection = sqlite3.connect(run_store.path)
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        connection.close()


# Readers beside writers.


def test_readers_always_see_whole_commits_while_others_write(create):
    run_store = create(2, max_attempts=10**6)
    stop = threading.Event()
    failures = []

    def write(owner):
        try:
            own = store.Store.open(run_store.path, durable=False)
            while not stop.is_set():
                if lease := own.claim(owner):
                    train(own, lease, release=True)
            own.close()
        except BaseException as error:
            failures.append(error)

    writers = [threading.Thread(target=write, args=(f"writer {i}",)) for i in range(2)]
    for writer in writers:
        writer.start()
    try:
        for _ in range(60):
            members = {member.id: member.version for member in run_store.members()}
            versions = run_store.versions()
            events = len(run_store.events())
            reports = len(run_store.reports())
            for member, version in members.items():
                mine = [v.version for v in versions if v.member == member]
                assert mine == list(range(len(mine)))
                assert mine[-1] >= version
            assert len(versions) - 2 <= events <= reports
    finally:
        stop.set()
        for writer in writers:
            writer.join()
    assert failures == []
