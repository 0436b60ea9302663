"""The launcher: creating and forking runs, filling places, and leaving nothing behind."""

import os
import re
import resource
import shutil
import signal
import sqlite3
import sys
import threading
from pathlib import Path

import psutil
import pytest

from pbt import checkpoint, create, local, owner, process, run, space, store, worker

LEARNER = '''
"""A user's own learner, beside the script that starts it."""
import os
from pbt.task import Episode, Progress

class Learner:
    def __init__(self, config):
        self.config, self.rate, self.height = config, 0.0, 0.0
    def train(self, agent_steps, limit):
        done = 0
        while done < agent_steps:
            steps = min(10, limit - done)
            done += steps
            self.height += self.rate
            threads = float(os.environ.get("OMP_NUM_THREADS", 0))
            yield Progress(steps, (Episode(done, self.height, steps, True),), {"threads": threads})
    def set_hyperparameters(self, values):
        self.rate = values["rate"]
    def hyperparameters(self):
        return {"rate": self.rate}
    def save(self, directory):
        (directory / "height.txt").write_text(str(self.height))
    def load(self, directory):
        self.height = float((directory / "height.txt").read_text())
    def close(self):
        pass

def make_task(config, member, seed):
    return Learner(config)
'''


@pytest.fixture(autouse=True)
def _learner(tmp_path, monkeypatch):
    (tmp_path / "own_learner.py").write_text(LEARNER)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("own_learner", None)


def settings(**changes):
    defaults = {
        "task": "own_learner:make_task",
        "space": space.Space({"rate": space.LogUniform(0.01, 1.0)}, adapt=("rate",)),
        "population": 3,
        "total_steps": 200,
        "report_interval": 50,
        "ready_interval": 100,
        "window": 4,
        "min_episodes": 4,
    }
    return run.RunConfig(**{**defaults, **changes})


def script(tmp_path, text):
    path = tmp_path / "script.py"
    path.write_text(text)
    return [sys.executable, str(path)]


# Creating.


def test_members_begin_alike_whatever_the_population_and_strategy(tmp_path):
    small = create.create_run(tmp_path / "a", settings()).members()
    large = create.create_run(tmp_path / "b", settings(population=9, exploit="none")).members()
    assert [m.hyperparameters for m in small] == [m.hyperparameters for m in large[:3]]
    assert len({m.hyperparameters["rate"] for m in large}) == 9
    other = create.create_run(tmp_path / "c", settings(seed=1)).members()
    assert small[0].hyperparameters != other[0].hyperparameters


def test_an_existing_run_is_left_alone(tmp_path):
    create.create_run(tmp_path / "a", settings()).close()
    content = (tmp_path / "a" / store.FILE_NAME).read_bytes()
    with pytest.raises(store.RunExists, match="holds a run already"):
        create.create_run(tmp_path / "a", settings(seed=9))
    assert (tmp_path / "a" / store.FILE_NAME).read_bytes() == content


def test_bad_input_creates_nothing(tmp_path):
    create.create_run(tmp_path / "untrained", settings()).close()
    with pytest.raises(store.NotARun):
        create.create_run(tmp_path / "new", settings(), fork=tmp_path / "nothing")
    with pytest.raises(ValueError, match="no checkpoint to start from"):
        create.create_run(tmp_path / "new", settings(), fork=tmp_path / "untrained")
    with pytest.raises(store.NotARun):
        local.run(tmp_path / "new", 1)
    with pytest.raises(ValueError, match="workers 0 is too small"):
        local.run(tmp_path / "untrained", 0)
    assert not (tmp_path / "new").exists()
    assert not (tmp_path / "untrained" / "logs").exists()


def test_a_fork_starts_from_the_latest_weights_and_hyperparameters(tmp_path):
    parent = create.create_run(tmp_path / "parent", settings(exploit="none"))
    assert worker.run(parent, tmp_path / "parent").exit_code == 0
    sources = parent.members()
    changed = settings(
        population=4,
        space=space.Space(
            {"rate": space.LogUniform(0.05, 0.2), "cost": space.Uniform(0.0, 1.0)}, ("rate",)
        ),
    )
    child = create.create_run(tmp_path / "child", changed, fork=tmp_path / "parent")
    members = child.members()
    fresh = create.create_run(tmp_path / "fresh", changed).members()
    for source, member, drawn in zip(sources, members, fresh, strict=False):
        assert (member.version, member.agent_steps, member.state) == (0, 0, "active")
        assert member.hyperparameters["rate"] == min(max(source.hyperparameters["rate"], 0.05), 0.2)
        assert member.hyperparameters["cost"] == drawn.hyperparameters["cost"]
        directory = checkpoint.open_verified(
            tmp_path / "child" / "checkpoints", member.checkpoint, member.id, 0
        )
        old = tmp_path / "parent" / "checkpoints" / source.checkpoint / "height.txt"
        assert (directory / "height.txt").read_text() == old.read_text()
    assert members[3] == fresh[3]  # the parent had no fourth
    events = child.events()
    assert [(event.kind, event.member) for event in events] == [("forked", i) for i in range(3)]
    assert events[0].details["version"] == sources[0].version
    assert events[0].details["run"] == str(tmp_path / "parent")


# Launching.


def test_a_run_with_spaces_in_its_name_ends_well(tmp_path):
    directory = tmp_path / "results of späť" / "a run"
    run_store = create.create_run(directory, settings())
    said, seen = [], []
    files, children = psutil.Process().num_fds(), psutil.Process().children()

    def on_tick(ticked):
        seen.append(sum(member.agent_steps for member in ticked.members()))
        raise RuntimeError("a picture could not be drawn")  # must not stop training

    exit_code = local.run(directory, 2, on_tick=on_tick, tick_s=0.2, say=said.append)
    assert exit_code == 0
    assert said == ["finished: 3 members trained 200 steps each"]
    assert seen == sorted(seen)
    assert seen[-1] == 600
    # I10: no process, no file, no signal handler is left behind.
    assert psutil.Process().children() == children
    assert psutil.Process().num_fds() == files
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    logs = "".join(path.read_text() for path in (directory / "logs").glob("worker-*.log"))
    assert logs.count("finished: 3 members") >= 1
    assert "Traceback" not in logs
    # Two workers fill two cores, and are told to use one thread each.
    threads = {report.metrics["threads"] for _, report in run_store.reports()}
    share = max(1, local.available_cores() // 2)
    assert threads == {float(os.environ.get("OMP_NUM_THREADS", share))}
    # Again: it says so, and starts nothing.
    assert local.run(directory, 2, command=["/does/not/exist"], say=said.append) == 0
    assert said[-1] == said[0]


def test_it_also_works_outside_the_main_thread(tmp_path):
    create.create_run(tmp_path / "run", settings(population=1, total_steps=50))
    result = []
    thread = threading.Thread(
        target=lambda: result.append(local.run(tmp_path / "run", 1, say=lambda line: None))
    )
    thread.start()
    thread.join(60)
    assert result == [0]


def test_workers_that_cannot_start_are_not_started_for_ever(tmp_path):
    create.create_run(tmp_path / "run", settings())
    command = script(tmp_path, "import sys; sys.exit('no module named torch')")
    said = []
    exit_code = local.run(
        tmp_path / "run", 1, command=command, restart_pause_s=0.01, say=said.append
    )
    assert exit_code == 1
    assert len(said) == local.MAX_STILLBORN + 1
    assert said[-1] == "worker 0 died 3 times in a row, it stays away: no module named torch"


def test_a_worker_that_dies_is_replaced_and_its_work_goes_on(tmp_path):
    run_store = create.create_run(tmp_path / "run", settings())
    text = """
import os, signal, sys
from pathlib import Path
from pbt import worker
deaths = Path(__file__).with_suffix(".deaths")
def probe(name):
    if name == "committed" and (not deaths.exists() or deaths.stat().st_size < 3):
        with deaths.open("a") as file:
            file.write("x")
        os.kill(os.getpid(), signal.SIGKILL)
sys.exit(worker.main(sys.argv[1:], probe=probe, durable=False))
"""
    said = []
    exit_code = local.run(
        tmp_path / "run",
        1,
        command=script(tmp_path, text),
        restart_pause_s=0.01,
        say=said.append,
    )
    assert exit_code == 0
    assert [line.split(";")[0] for line in said[:-1]] == ["worker 0 was killed by SIGKILL"] * 3
    assert [member.agent_steps for member in run_store.members()] == [200] * 3


def test_a_full_disk_is_not_tried_again(tmp_path):
    create.create_run(tmp_path / "run", settings())
    command = script(tmp_path, "print('no space for member 0: 0 bytes free'); exit(74)")
    said = []
    assert local.run(tmp_path / "run", 1, command=command, say=said.append) == 74
    assert said[0] == "no space for member 0: 0 bytes free"
    assert re.fullmatch(
        r"no space for .*run \([\d,]+ bytes free\): make room; the same command goes on", said[1]
    )


def test_a_worker_that_is_asked_to_leave_is_not_replaced(tmp_path):
    create.create_run(tmp_path / "run", settings())
    command = script(tmp_path, "import os, signal; exit(128 + signal.SIGTERM)")
    said = []
    assert local.run(tmp_path / "run", 2, command=command, say=said.append) == 0
    assert said == []


def test_what_nohup_ignores_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with process.Stop().installed() as stop:
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop() == 0
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop() == signal.SIGTERM
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(("cores", "workers", "threads"), [(16, 8, "2"), (2, 2, "1"), (2, 8, "1")])
def test_each_worker_gets_its_share_of_the_cores(monkeypatch, cores, workers, threads):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(local, "available_cores", lambda: cores)
    assert local._environment(workers, joins=False)["OMP_NUM_THREADS"] == threads
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert "OMP_NUM_THREADS" not in local._environment(workers, joins=False)


def test_a_directory_whose_name_begins_with_a_dash_is_no_flag(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    create.create_run(Path("-x"), settings(population=1, total_steps=50)).close()
    assert local.run(Path("-x"), 1, say=lambda line: None) == 0


DIES_ONCE = """
import os, signal, sys
from pathlib import Path
from pbt import worker
def probe(name):
    if name == "committed":
        try:
            os.close(os.open(__file__ + ".died", os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return
        os.kill(os.getpid(), signal.SIGKILL)
sys.exit(worker.main(sys.argv[1:], probe=probe, durable=False))
"""


def test_a_worker_that_cannot_be_started_for_a_while_is_started_later(tmp_path):
    """No file, and so no process, can be opened for a while; the other worker goes on."""
    run_store = create.create_run(tmp_path / "run", settings(total_steps=400))
    said = []
    before = resource.getrlimit(resource.RLIMIT_NOFILE)

    def say(line):
        said.append(line)
        if "was killed by SIGKILL" in line:
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
        if sum("cannot be started" in line for line in said) == 3:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)

    try:
        exit_code = local.run(
            tmp_path / "run",
            2,
            command=script(tmp_path, DIES_ONCE),
            restart_pause_s=0.05,
            on_tick=lambda ticked: None,
            say=say,
        )
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert exit_code == 0
    failures = [line for line in said if "cannot be started" in line]
    assert len(failures) == 3
    assert "Too many open files" in failures[0]
    assert [line.rpartition(" in ")[2] for line in failures] == ["0.1 s", "0.2 s", "0.4 s"]
    assert [member.agent_steps for member in run_store.members()] == [400] * 3


def test_a_command_that_never_starts_ends_the_run(tmp_path):
    create.create_run(tmp_path / "run", settings())
    said = []
    command = [str(tmp_path / "missing")]
    assert local.run(tmp_path / "run", 1, command=command, restart_pause_s=0.01, say=said.append)
    assert "No such file" in said[-1]


def test_logs_that_were_deleted_are_made_again(tmp_path):
    run_store = create.create_run(tmp_path / "run", settings())

    def say(line):
        if "was killed by SIGKILL" in line:
            shutil.rmtree(tmp_path / "run" / "logs")

    exit_code = local.run(
        tmp_path / "run",
        1,
        command=script(tmp_path, DIES_ONCE),
        restart_pause_s=0.01,
        say=say,
    )
    assert exit_code == 0
    assert (tmp_path / "run" / "logs" / "worker-0.log").exists()
    assert [member.agent_steps for member in run_store.members()] == [200] * 3


def test_workers_that_join_others_on_this_machine_use_one_thread_each(tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(local, "available_cores", lambda: 4)
    run_store = create.create_run(tmp_path / "run", settings(exploit="none"))
    assert local.run(tmp_path / "run", 1, say=lambda line: None) == 0
    assert {report.metrics["threads"] for _, report in run_store.reports()} == {4.0}
    run_store = create.create_run(tmp_path / "joined", settings(exploit="none"))
    leases = [run_store.claim(owner.current())]  # this process is at work on it too

    def on_tick(ticked):
        while leases:
            ticked.release(leases.pop())

    assert local.run(tmp_path / "joined", 1, on_tick=on_tick, say=lambda line: None) == 0
    assert {report.metrics["threads"] for _, report in run_store.reports()} == {1.0}


def test_threads_that_wait_do_not_spin(monkeypatch):
    for name in ("OMP_WAIT_POLICY", "KMP_BLOCKTIME"):
        monkeypatch.delenv(name, raising=False)
    added = local._environment(1, joins=False)
    assert (added["OMP_WAIT_POLICY"], added["KMP_BLOCKTIME"]) == ("passive", "0")
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    assert "OMP_WAIT_POLICY" not in local._environment(1, joins=False)


def test_nobody_is_revived_while_the_checkpoints_are_away(tmp_path):
    """The disk with the checkpoints is not mounted: the database stays as it is."""
    run_dir = tmp_path / "run"
    with create.create_run(run_dir, settings(population=1, max_attempts=1)) as run_store:
        lease = run_store.claim("tester")
        name = checkpoint.publish(
            run_dir / "checkpoints", 0, 0, lambda path: (path / "height.txt").write_text("0"), {}
        )
        connection = sqlite3.connect(run_store.path)
        with connection:
            connection.execute("UPDATE version SET checkpoint = ?", (name,))
            connection.execute("UPDATE member SET checkpoint = ?", (name,))
        connection.close()
        assert run_store.crash(lease, "Traceback: no disk")
        before = run_store.members()
        assert before[0].state == "failed"
    (run_dir / "checkpoints").rename(tmp_path / "away")
    said = []
    assert local.run(run_dir, 1, say=said.append) == 1
    assert "is not there" in said[-1]
    with store.Store.open(run_dir) as run_store:
        assert run_store.members() == before
        assert "revived" not in {event.kind for event in run_store.events()}
