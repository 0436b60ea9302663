"""Crashing and hanging learners, slow workers, signals, and launchers that join."""

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time

import psutil
import pytest

from pbt import store
from pbt.store import database


def test_a_crash_is_counted_and_tried_again(toy_run, tmp_path):
    """E1: the task is built anew; the traceback is kept."""
    fault = {"member": 1, "times": 2, "marks": str(tmp_path)}
    run = toy_run(task_config={"crash": fault}, exploit="none")
    assert run.work().exit_code == 0
    run.assert_complete()
    crashes = run.events("crashed")
    assert [(event.member, event.details["attempts"]) for event in crashes] == [(1, 1), (1, 2)]
    assert 'raise RuntimeError("the environment fell over")' in crashes[0].details["error"]
    lines = run.log.read_text().splitlines()
    assert sum(line.split()[1:3] == ["1", "build"] for line in lines) == 3
    assert sum(line.endswith("build") for line in lines) == sum(
        line.endswith("close") for line in lines
    )


def test_after_max_attempts_it_fails_with_its_traceback(toy_run, tmp_path):
    fault = {"member": 1, "times": 3, "marks": str(tmp_path)}
    run = toy_run(task_config={"crash": fault})
    assert run.work().exit_code == 0
    run.assert_complete()
    [failed] = run.events("failed")
    assert failed.member == 1
    assert "the environment fell over" in failed.details["error"]
    assert [event.member for event in run.events("reseed")] == [1]


def test_a_hung_worker_is_killed_with_its_stacks(toy_run, tmp_path):
    """E4: the others go on, the launcher kills it, another one takes its place."""
    fault = {"member": 1, "times": 1, "marks": str(tmp_path)}
    run = toy_run(task_config={"hang": fault}, lease_seconds=2.0)
    said = []
    assert run.launch(2, hang_s=15.0, say=said.append) == 0
    run.assert_complete()
    assert sum("made no progress for 15 s: killed" in line for line in said) == 1
    log = (run.directory / "logs" / "worker-0.log").read_text()
    log += (run.directory / "logs" / "worker-1.log").read_text()
    assert "Fatal Python error: Aborted" in log
    assert "toy.py" in log
    [takeover] = run.events("takeover")
    assert takeover.member == 1


def test_a_sleeper_is_fenced_off(toy_run, wait_until):
    """C2: stopped between training and commit for longer than its lease, then awake again."""
    run = toy_run(lease_seconds=1.0)
    run.work_until(4)
    child = run.spawn("child.py", fault="published:stop:1")
    sleeper = psutil.Process(child.pid)
    wait_until(lambda: sleeper.status() == psutil.STATUS_STOPPED)
    asleep = [member for member in run.store.members() if member.owner is not None]
    assert len(asleep) == 1
    assert run.work().exit_code == 0  # waits for the lease, takes the member over, ends the run
    members, versions = run.store.members(), run.store.versions()
    os.kill(child.pid, signal.SIGCONT)
    output, _ = child.communicate(timeout=30)
    assert child.returncode == 0, output
    assert output.count("lease lost, work since the last commit dropped") == 1
    assert (run.store.members(), run.store.versions()) == (members, versions)
    [takeover] = run.events("takeover")
    assert takeover.member == asleep[0].id
    assert takeover.details["because"] == "its lease lapsed"
    run.assert_complete()
    assert run.repeated_steps() == run.config.report_interval


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_signal_commits_what_there_is(number, toy_run, wait_until):
    """F1: finish the update, checkpoint, commit, release; the same command goes on."""
    run = toy_run(report_interval=200, task_config={"update_s": 0.02}, exploit="none")
    launcher = run.spawn("launch.py", "2")
    wait_until(lambda: len(_steps(run)) >= 25)
    workers = psutil.Process(launcher.pid).children(recursive=True)
    assert len(workers) == 2
    launcher.send_signal(number)
    output, _ = launcher.communicate(timeout=30)
    assert launcher.returncode == 128 + number, output
    assert output.strip().endswith(
        f"stopped by {signal.Signals(number).name}; the same command goes on"
    )
    assert not any(worker.is_running() for worker in workers)
    assert {member.owner for member in run.store.members()} == {None}
    partial = [r for _, r in run.store.reports() if 0 < r.slice_steps < 200]
    assert 1 <= len(partial) <= 2
    run.check()
    assert run.repeated_steps() == 0  # not an update is lost
    if number == signal.SIGTERM:
        assert run.work().exit_code == 0
        run.assert_complete()


@pytest.mark.parametrize(
    ("fault", "exit_code", "commits"),
    [("writing-checkpoint:term:6", 143, 6), ("sql:hup:INSERT INTO report", 129, 1)],
    ids=["writing a checkpoint", "inside the transaction"],
)
def test_a_signal_in_the_middle_of_a_commit_completes_it(fault, exit_code, commits, toy_run):
    """The slice is committed and its member released; nothing is torn or done again."""
    run = toy_run(exploit="none")
    child = run.spawn("child.py", fault=fault)
    output, _ = child.communicate(timeout=60)
    assert child.returncode == exit_code, output
    assert len(run.store.reports()) == commits
    assert {member.owner for member in run.store.members()} == {None}
    run.check()
    assert run.work().exit_code == 0
    run.assert_complete()
    assert run.repeated_steps() == 0
    assert run.store.events() == []  # no takeover either


def test_a_second_signal_ends_it_at_once(toy_run, wait_until):
    run = toy_run(task_config={"update_s": 60})
    launcher = run.spawn("launch.py", "2")
    wait_until(lambda: run.log.exists() and run.log.read_text().count("train") == 2)
    workers = psutil.Process(launcher.pid).children(recursive=True)
    launcher.send_signal(signal.SIGTERM)
    assert launcher.stdout.readline().startswith("stopping after the updates that run")
    assert launcher.poll() is None
    started_s = time.monotonic()
    launcher.send_signal(signal.SIGTERM)
    launcher.communicate(timeout=10)
    assert launcher.returncode == 143
    assert time.monotonic() - started_s < 5
    wait_until(lambda: not any(worker.is_running() for worker in workers), 5)
    run.check()


def test_a_reader_that_is_gone_ends_nothing(toy_run):
    """As `| head` does, before the first line."""
    run = toy_run()
    launcher = run.spawn("launch.py", "2")
    launcher.stdout.close()
    assert launcher.wait(120) == 0
    run.assert_complete()
    assert not run.events("takeover", "crashed", "failed")


def test_time_zone_locale_umask_and_letters_of_a_path_change_nothing(toy_run, tmp_path):
    """Also in a locale of ASCII alone, where Python cannot write the names of the directories."""
    log = {"log": str(tmp_path / "toy.log")}  # a learner's own files are its own concern
    settings = {"exploit": "none", "total_steps": 200, "task_config": log}
    usual, odd = toy_run("usual", **settings), toy_run("ein Lauf ü 学", **settings)
    assert usual.work().exit_code == 0
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    launcher = odd.spawn("launch.py", "2", umask=0o077, TZ="Asia/Kathmandu", **ascii_only)
    output, _ = launcher.communicate(timeout=120)
    assert launcher.returncode == 0, output
    odd.assert_complete()
    assert odd.results() == usual.results()
    assert odd.newest(0).stat().st_mode & 0o077 == 0


def test_no_process_listens_and_no_secret_is_written_down(toy_run, tmp_path, wait_until):
    """Not even where a worker crashes, which keeps its traceback."""
    secret = "sesame-4711"
    fault = {"member": 1, "times": 1, "marks": str(tmp_path)}
    run = toy_run(task_config={"update_s": 0.02, "crash": fault})
    launcher = run.spawn("launch.py", "2", API_TOKEN=secret)
    wait_until(lambda: len(_steps(run)) >= 25, 60)
    parent = psutil.Process(launcher.pid)
    processes = [parent, *parent.children(recursive=True)]
    assert [it.net_connections("inet") for it in processes] == [[]] * 3
    output, _ = launcher.communicate(timeout=60)
    assert launcher.returncode == 0, output
    assert run.events("crashed")
    written = [path.read_bytes() for path in run.directory.rglob("*") if path.is_file()]
    assert not any(secret.encode() in content for content in [*written, output.encode()])


def test_the_same_command_twice_joins(toy_run):
    """F7: the second launcher's workers help; nothing is done twice."""
    run = toy_run(total_steps=600, task_config={"workers": 2})
    launchers = [run.spawn("launch.py", "1") for _ in range(2)]
    for launcher in launchers:
        output, _ = launcher.communicate(timeout=90)
        assert launcher.returncode == 0, output
        assert "finished: 4 members trained 600 steps each" in output
    run.assert_complete()
    assert len({line.split()[0] for line in run.log.read_text().splitlines()}) == 2
    assert run.repeated_steps() == 0
    third = run.spawn("launch.py", "1")  # and a finished run says so
    output, _ = third.communicate(timeout=30)
    assert (third.returncode, output.strip()) == (
        0,
        "finished: 4 members trained 600 steps each",
    )


def _steps(run):
    if not run.log.exists():
        return []
    return [line for line in run.log.read_text().splitlines() if " steps " in line]


# A store that is locked, watched or stopped.

HOLD = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], timeout=30, isolation_level=None)
cursor = connection.execute(sys.argv[2])
cursor.fetchone()  # one row of many: it goes on reading
print("held", flush=True)
time.sleep(float(sys.argv[3]))
"""


@pytest.mark.parametrize(
    "statement", ["BEGIN EXCLUSIVE", "SELECT * FROM member"], ids=["locked", "watched"]
)
def test_a_locked_or_watched_database_is_waited_for(statement, toy_run, wait_until):
    """C3: longer than all busy timeouts, the lease and the launcher's patience; nothing is lost."""
    run = toy_run(lease_seconds=2.0, exploit="none", task_config={"update_s": 0.02})
    said, held = [], []

    def hold():
        wait_until(lambda: len(_steps(run)) >= 25)
        # A process of its own, because connections of one process share their locks.
        command = [sys.executable, "-c", HOLD, str(run.store.path), statement, "12"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
            assert holder.stdout.readline() == "held\n"
            steps = len(_steps(run))
            assert holder.wait() == 0
            held.append(len(_steps(run)) - steps)

    other = threading.Thread(target=hold)
    other.start()
    exit_code = run.launch(2, busy_timeout_s=0.2, tick_s=0.1, hang_s=8.0, say=said.append)
    other.join()
    assert exit_code == 0
    line = f"{run.store.path} is locked by another process; waiting: see who has it open (lsof)"
    assert said == [line, "finished: 4 members trained 400 steps each"]
    assert held[0] < 25  # the lock did hold them up
    run.assert_complete()
    assert run.repeated_steps() == 0  # no slice was dropped
    assert run.events("takeover", "crashed", "failed") == []
    logs = "".join(path.read_text() for path in (run.directory / "logs").glob("*.log"))
    assert 1 <= logs.count(line) <= 2  # once per worker that met it
    assert "Traceback" not in logs


def test_a_lease_that_lapsed_while_the_database_was_locked_is_not_taken_at_once(
    toy_run, monkeypatch
):
    """Its owner waited too, and gets its turn first."""
    run = toy_run(population=1, lease_seconds=0.2)
    lease = run.store.claim("another host")
    lock = sqlite3.connect(run.store.path, isolation_level=None)

    def on_wait(waited_s, problem):
        assert "is locked by another process" in str(problem)
        if waited_s > 0.6:
            lock.rollback()

    with store.Store.open(run.store.path, busy_timeout_s=0.05, on_wait=on_wait) as waiter:
        lock.execute("BEGIN EXCLUSIVE")
        assert waiter.claim("this one") is None
        assert waiter.claim("this one") is None
        monkeypatch.setattr(database, "AFTER_LOCK_S", 0.0)  # later, and the owner is silent
        assert waiter.claim("this one").fence == lease.fence + 1
    lock.close()


def test_a_stopped_worker_that_holds_the_lock_is_ended(toy_run, tmp_path, monkeypatch):
    run = toy_run(exploit="none")
    monkeypatch.setenv("FAULT", "sql:stop:INSERT INTO version")
    monkeypatch.setenv("FAULT_ONCE", str(tmp_path / "once"))
    said = []
    assert run.launch(2, busy_timeout_s=0.2, tick_s=0.1, hang_s=12.0, say=said.append) == 0
    assert sum("made no progress for 12 s: killed" in line for line in said) == 1
    assert sum("was killed by SIGKILL" in line for line in said) == 1
    run.assert_complete()
    assert run.repeated_steps() == run.config.report_interval


def test_a_hung_worker_ends_after_its_launcher(toy_run, tmp_path, wait_until):
    """I10: it hears no signal, and nobody is left to kill it."""
    fault = {"member": None, "times": 1, "marks": str(tmp_path)}
    run = toy_run(task_config={"hang": fault})
    launcher = run.spawn("launch.py", "1", "8")
    wait_until(lambda: (tmp_path / "hang-0").exists())
    [hung] = psutil.Process(launcher.pid).children()
    launcher.kill()
    launcher.wait()
    with pytest.raises(psutil.TimeoutExpired):
        hung.wait(3)  # SIGTERM alone does not end it
    psutil.wait_procs([hung], timeout=30)
    assert not hung.is_running()
    assert "Timeout" in (run.directory / "logs" / "worker-0.log").read_text()


def test_the_text_of_an_error_may_hold_anything(toy_run, tmp_path):
    """H4: a lone surrogate, as in the name of a file, and NUL; the event says it all the same."""
    fault = {"member": 1, "times": 1, "marks": str(tmp_path), "text": "no \udcff and \0 here"}
    run = toy_run(task_config={"crash": fault}, exploit="none")
    child = run.spawn("child.py")
    output, _ = child.communicate(timeout=60)
    assert child.returncode == 0, output
    run.assert_complete()
    [crashed] = run.events("crashed")
    assert "no \\udcff and \\0 here" in crashed.details["error"]
