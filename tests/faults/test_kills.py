"""kill -9 at each point of a step, and what is left of it."""

import os
import random
import signal
import subprocess

import psutil
import pytest

from pbt import verdict, worker

POINTS = {
    "A1": "before-claim:kill:6",
    "A2": "after-claim:kill:6",
    "A3 load": "loading:kill:1",
    "A3 train": "training:kill:27",
    "A4": "writing-checkpoint:kill:6",
    "A5": "published:kill:6",
    "A6 update": "sql:kill:INSERT INTO version",
    "A6 report": "sql:kill:INSERT INTO report",
    "A6 exploit": "sql:kill:INSERT INTO event",
    "A7": "committed:kill:6",
    "A8": "decided:kill:1",
    "A9": "copying:kill:1",
    "A10": "explored:kill:1",
    "A11": "collecting:kill:1",
}


def test_every_probe_is_killed_at():
    assert {point.split(":")[0] for point in POINTS.values()} - {"sql"} == set(worker.PROBES)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def url(request):
    if request.param == "postgresql":
        return request.getfixturevalue("postgres_server").url
    return None


@pytest.mark.parametrize("row", POINTS)
def test_kill_at(row, toy_run, url):
    # Two tasks in memory for four members: loading happens all the time.
    run = toy_run(url=url)
    run.work_until(4)  # every member has a checkpoint, as in the middle of a run
    before = run.store.members()
    child = run.spawn("child.py", "--residents", "2", fault=POINTS[row])
    output, _ = child.communicate(timeout=60)
    assert child.returncode == -signal.SIGKILL, output

    # The next process finds a state that keeps the promise, and goes on from it.
    run.check()
    committed = run.store.members()
    assert all(new.version >= old.version for new, old in zip(committed, before, strict=True))
    assert run.repeated_steps() <= run.config.report_interval
    assert run.work(resident_limit=2).exit_code == 0
    run.assert_complete()
    assert run.repeated_steps() <= run.config.report_interval  # I5: one kill, one interval
    assert run.events("exploit")
    if row.startswith("A3") or row in ("A2", "A4", "A5", "A6 report"):
        assert [event.details["because"] for event in run.events("takeover")] == [
            "its process is gone"
        ]


def test_killed_again_and_again_a_member_fails_and_is_replaced(toy_run, tmp_path):
    """A13: three kills at the same point of the same member, then it is not tried for ever."""
    fault = {"member": 2, "times": 3, "marks": str(tmp_path)}
    run = toy_run(task_config={"kill": fault}, lease_seconds=2.0)
    said = []
    assert run.launch(2, say=said.append, hang_s=60.0) == 0
    run.assert_complete()
    gone = [event.details["because"] == "its process is gone" for event in run.events("takeover")]
    assert gone == [True] * 3
    # The launcher need not mention the last one, if the other worker ends the run at once.
    assert sum("was killed by SIGKILL" in line for line in said) >= 2
    assert said[-1].startswith("finished: 4 members trained 400 steps each")
    [failed] = run.events("failed")
    assert (failed.member, failed.details["attempts"]) == (2, 3)
    assert "killed, or hung" in failed.details["error"]
    [reseed] = run.events("reseed")
    assert (reseed.member, reseed.details["state"]) == (2, "failed")
    assert run.repeated_steps() == 0  # it was killed before its first update was done


def test_a_member_whose_worker_is_always_killed_costs_its_steps_and_says_so(toy_run, tmp_path):
    """Three kills by the system's out-of-memory killer lost it for good, with exit code 0."""
    fault = {"member": 2, "times": 3, "marks": str(tmp_path)}
    run = toy_run(task_config={"kill": fault}, exploit="none", lease_seconds=2.0)
    said = []
    assert run.launch(2, say=said.append, hang_s=60.0) == verdict.EXIT_UNSPENT
    assert "3 of 4 members" in said[-1]
    assert "left 400 steps unspent" in said[-1]
    assert run.store.member(2).state == "failed"
    run.check()
    # The same command tries it again, and there is more memory now.
    assert run.launch(2, say=said.append, hang_s=60.0) == 0
    run.assert_complete()
    [revived] = run.events("revived")
    assert (revived.member, revived.details["state"]) == (2, "failed")


def test_a_killed_and_resumed_random_search_equals_an_uninterrupted_one(toy_run):
    """I11: nothing depends on what was lost."""
    settings = {"exploit": "none", "total_steps": 300}
    whole, torn = toy_run("whole", **settings), toy_run("torn", **settings)
    assert whole.work().exit_code == 0
    for fault in ("training:kill:15", "published:kill:2", "sql:kill:INSERT INTO report"):
        child = torn.spawn("child.py", fault=fault)
        child.communicate(timeout=60)
        assert child.returncode == -signal.SIGKILL
    assert torn.work().exit_code == 0
    whole.assert_complete()
    torn.assert_complete()
    assert torn.results() == whole.results()
    assert [m.score for m in torn.store.members()] == [m.score for m in whole.store.members()]
    assert 0 < torn.repeated_steps() <= 3 * torn.config.report_interval
    assert whole.repeated_steps() == 0


def test_killing_only_the_launcher_ends_its_workers(toy_run, wait_until):
    """A12: no orphans, and what they had done is kept."""
    run = toy_run(total_steps=100_000, report_interval=2_000, task_config={"update_s": 0.01})
    launcher = run.spawn("launch.py", "2")
    wait_until(lambda: len({line.split()[0] for line in _lines(run)}) == 2 and _steps(run) > 300)
    workers = {int(line.split()[0]) for line in _lines(run)}
    os.kill(launcher.pid, signal.SIGKILL)
    launcher.communicate()
    wait_until(lambda: not any(_alive(pid) for pid in workers), 15)
    run.check()
    assert run.repeated_steps() == 0  # asked by the parent's death, not killed: they committed
    assert sum(member.agent_steps for member in run.store.members()) > 300


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_kills_at_random_times(seed, toy_run):
    """A12: ten kills of any worker at any time, then the whole run at once, then to the end."""
    rng = random.Random(seed)
    run = toy_run(
        total_steps=3_000, max_attempts=100, task_config={"update_s": 0.002}, lease_seconds=5.0
    )
    kills = 0
    while kills < 10:
        launcher = run.spawn("launch.py", "3")
        for _ in range(rng.randint(1, 4)):
            try:
                launcher.wait(timeout=rng.uniform(0.5, 4.0))
                break
            except subprocess.TimeoutExpired:
                children = psutil.Process(launcher.pid).children()
                if children:
                    rng.choice(children).kill()
                    kills += 1
        children = psutil.Process(launcher.pid).children() if launcher.poll() is None else []
        for process in [launcher, *children]:
            process.kill()
            kills += 1
        psutil.wait_procs(children, timeout=10)
    assert run.launch(2) == 0
    run.assert_complete()
    assert run.repeated_steps() <= kills * run.config.report_interval


def _lines(run):
    return run.log.read_text().splitlines() if run.log.exists() else []


def _steps(run):
    return sum(int(line.split()[3]) for line in _lines(run) if " steps " in line)


def _alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
