"""Faults that are no member's own: what all members need is not there, or is slow, for a while."""

import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pbt import owner, storage, store, verdict

HERE = Path(__file__).parent


@pytest.fixture
def broken(tmp_path):
    """A file that breaks the toy as long as it is there."""
    return tmp_path / "broken"


def test_crashes_of_all_members_for_a_moment_fail_nobody(toy_run, tmp_path):
    """Memory of the GPU that another program took for a second failed the whole population."""
    fault = {"member": None, "times": 12, "marks": str(tmp_path)}
    run = toy_run(exploit="none", lease_seconds=0.3, task_config={"crash": fault})
    assert run.work().exit_code == 0
    run.assert_complete()
    assert len(run.events("crashed")) == 12
    assert not run.events("failed")


def test_a_typo_ends_the_run_and_once_mended_the_same_command_goes_on(toy_run, broken):
    run = toy_run(exploit="none", lease_seconds=0.3, task_config={"broken": str(broken)})
    run.work_until(4)
    before = [(m.version, m.agent_steps, m.state) for m in run.store.members()]
    broken.touch()
    said = []
    assert run.launch(2, say=said.append, hang_s=60.0) == verdict.EXIT_DEAD
    [line] = [line for line in said if "crash alike" in line]
    assert line.startswith("all 4 members")
    assert "the learner has a typo" in line
    assert [(m.version, m.agent_steps, m.state) for m in run.store.members()] == before
    assert not run.events("failed")
    run.check()
    # Still broken: it says so again. Mended: it goes on.
    assert run.launch(2, say=said.append, hang_s=60.0) == verdict.EXIT_DEAD
    broken.unlink()
    assert run.launch(2, say=said.append, hang_s=60.0) == 0
    run.assert_complete()


def test_one_member_that_crashes_among_others_that_train_still_fails(toy_run, tmp_path):
    fault = {"member": 1, "times": 100, "marks": str(tmp_path)}
    run = toy_run(exploit="none", lease_seconds=0.2, task_config={"crash": fault})
    assert run.work().exit_code == verdict.EXIT_UNSPENT
    assert [member.state for member in run.store.members()].count("failed") == 1
    assert len(run.events("crashed")) == 3


def test_checkpoints_that_are_away_are_not_damaged(toy_run, monkeypatch):
    """A disk that was not mounted wrote off the whole population."""
    monkeypatch.setattr(storage.Directory, "patience_s", 0.3)
    run = toy_run()
    run.work_until(6)
    before = run.store.members(), run.store.versions(), run.store.events()
    away = run.checkpoints.with_name("elsewhere")
    run.checkpoints.rename(away)
    for mount_point in (False, True):
        if mount_point:
            run.checkpoints.mkdir()
        outcome = run.work()
        assert outcome.exit_code == verdict.EXIT_DEAD
        assert "is not there" in outcome.message
        assert before == (run.store.members(), run.store.versions(), run.store.events())
    assert not list(run.checkpoints.iterdir())
    run.checkpoints.rmdir()
    away.rename(run.checkpoints)
    assert run.work().exit_code == 0
    run.assert_complete()


def test_checkpoints_of_another_run_are_left_alone(toy_run, monkeypatch):
    monkeypatch.setattr(storage.Directory, "patience_s", 0.3)
    run, other = toy_run("mine"), toy_run("theirs")
    run.work_until(4)
    other.work_until(4)
    shutil.rmtree(run.checkpoints)
    run.checkpoints.symlink_to(other.checkpoints)
    before = sorted(other.checkpoints.glob("*/*"))
    assert run.work(grace_s=0.0).exit_code == verdict.EXIT_DEAD
    assert {member.state for member in run.store.members()} == {"active"}
    assert sorted(other.checkpoints.glob("*/*")) == before
    other.check()


@pytest.mark.parametrize("when", ["before-claim", "after-claim", "training"])
def test_workers_wait_for_checkpoints_that_are_away_for_a_moment(when, toy_run):
    run = toy_run()
    run.work_until(4)
    away = run.checkpoints.with_name("elsewhere")
    timers = []

    def probe(name):
        if name == when and not timers:
            run.checkpoints.rename(away)
            timers.append(threading.Timer(0.5, lambda: away.rename(run.checkpoints)))
            timers[0].start()

    assert run.work(probe=probe).exit_code == 0
    timers[0].join()
    run.assert_complete()
    assert not run.events("restored", "failed", "crashed", "takeover")
    assert run.repeated_steps() == 0


def test_a_signal_ends_the_waiting(toy_run):
    run = toy_run()
    run.checkpoints.rename(run.checkpoints.with_name("elsewhere"))
    beats = []
    outcome = run.work(beat=lambda: beats.append(1), stop=lambda: 15 if len(beats) > 1 else 0)
    assert outcome.exit_code == 143


def test_updates_longer_than_the_lease_lose_nobody(toy_run):
    """The idle worker took the last members from each other, until their attempts were used up."""
    run = toy_run(
        population=2,
        total_steps=40,
        report_interval=20,
        ready_interval=20,
        lease_seconds=0.5,
        exploit="none",
        task_config={"update_s": 0.8},
    )
    assert run.launch(3, hang_s=60.0) == 0
    run.assert_complete()
    assert not run.events("failed", "crashed")
    assert all(event.details["attempts"] <= 1 for event in run.events("takeover"))


def test_a_worker_that_saw_a_long_update_asks_for_a_longer_lease(toy_run):
    run = toy_run(
        population=1,
        total_steps=40,
        report_interval=40,
        lease_seconds=0.3,
        task_config={"update_s": 0.5},
    )
    lasted = []

    def probe(name):
        if name == "training":
            lasted.append(run.store.member(0).lease_expires_s - run.store.now())

    assert run.work(probe=probe).exit_code == 0
    assert min(lasted[1:]) > 0.5  # more than another update


def test_a_process_of_another_container_is_not_taken_for_dead(toy_run):
    """Two containers on one host may have the same host name and boot, and see different ids."""
    run = toy_run(population=2)
    host, boot, namespace, *process = owner.current().split("/")
    other = "/".join((host, boot, f"{int(namespace) + 1}", f"{2**22 + 1}", process[1]))
    lease = run.store.claim(other)
    assert run.work(stop=lambda: 15 if _others_finished(run, lease) else 0).exit_code == 143
    assert run.store.member(lease.member.id).owner == other
    assert not run.events("takeover")
    run.store.renew(lease)


@pytest.mark.slow  # the test above has another container's owner, and no container
def test_terminals_in_two_containers_share_a_run(toy_run):
    """Each took the other's processes for dead, and its members until all had failed."""
    inside = ["unshare", "--pid", "--fork", "--mount-proc"]
    if os.geteuid() != 0:
        inside[1:1] = ["--user", "--map-root-user"]
    try:
        subprocess.run([*inside, "true"], check=True, capture_output=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        pytest.skip("this system allows no process namespaces")
    run = toy_run(population=3, total_steps=200, task_config={"update_s": 0.05, "workers": 3})
    paths = os.pathsep.join([str(HERE), *filter(None, sys.path)])
    launcher = [sys.executable, str(HERE / "launch.py"), str(run.directory), "2"]
    terminals = [
        subprocess.Popen(
            [*prefix, *launcher],
            env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for prefix in ([], inside)
    ]
    try:
        assert [terminal.wait(60) for terminal in terminals] == [0, 0]
    finally:
        for terminal in terminals:
            terminal.kill()
            terminal.wait()
    run.assert_complete()
    assert not run.events("takeover", "failed", "crashed", "reseed")
    assert run.repeated_steps() == 0


def test_the_holder_of_a_lapsed_lease_is_left_alone_while_it_lives(toy_run):
    """A slow worker on this machine is no hang; one that is stopped is taken over at once."""
    run = toy_run(population=1, lease_seconds=0.5)
    child = run.spawn("child.py", fault="training:stop:1")
    deadline = time.monotonic() + 30
    while not run.store.owners() or run.store.member(0).lease_expires_s > run.store.now():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    (holder,) = run.store.owners()
    assert owner.at_work({holder}) == set()  # it is stopped
    assert run.store.claim("impatient", live_owners={holder}) is None
    assert run.work().exit_code == 0
    child.kill()
    [takeover] = run.events("takeover")
    assert takeover.details["because"] == "its lease lapsed"
    assert takeover.details["attempts"] == 1


def _others_finished(run, lease):
    total = run.config.total_steps
    return all(m.agent_steps == total for m in run.store.members() if m.id != lease.member.id)


def test_an_old_run_gets_its_indexes_from_the_next_launcher(toy_run):
    run = toy_run()
    with run.store._database.transaction(writing=True) as connection:
        for index in ("member_next", "member_owner"):
            connection.exec_driver_sql(f"DROP INDEX {index}")
    assert run.launch(1) == 0
    run.assert_complete()
    with store.Store.open(run.directory)._database.transaction() as connection:
        found = connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'index'")
        assert {"member_next", "member_owner"} <= set(found.scalars())
