"""A population whose checkpoints are in an object store: kills, a server that is away, damage."""

import os
import shutil
import signal
import threading

import pytest

from pbt import objects, storage, verdict


@pytest.fixture(params=["folder", "s3"])
def url(request, tmp_path):
    if request.param == "s3":
        return request.getfixturevalue("s3_server").url(f"toy-{os.getpid()}-{tmp_path.name}")
    return f"file://{tmp_path}/objects"


def test_kills_lose_and_double_nothing_and_any_machine_goes_on(toy_run, tmp_path, url):
    kill = {"member": 1, "times": 2, "marks": str(tmp_path)}
    run = toy_run(
        checkpoints=url, exploit="truncation", total_steps=200, task_config={"kill": kill}
    )
    assert run.launch(2) == 0
    run.assert_complete()
    assert run.events("exploit")
    assert run.repeated_steps() <= 2 * run.config.report_interval
    assert not (run.directory / "checkpoints").exists()
    shutil.rmtree(run.directory / "checkpoints-cache")  # as on a machine that was not there
    run.store.extend(400)
    assert run.work().exit_code == 0
    run.config = run.store.config
    run.assert_complete()
    assert not run.events("restored", "failed")


@pytest.mark.slow  # the client gives up after half a minute
def test_a_server_that_is_away_is_waited_for(toy_run, s3_server, wait_until):
    """It answers nothing for some seconds. No slice is dropped."""
    run = toy_run(checkpoints=s3_server.url("away"), exploit="none", task_config={"update_s": 0.01})
    logs = run.directory / "logs"

    def is_said():
        return any("cannot be used" in log.read_text() for log in logs.glob("*.log"))

    def stop_for_a_while():
        wait_until(lambda: len(run.store.reports()) >= 4, 60)
        os.kill(s3_server.process.pid, signal.SIGSTOP)
        try:
            wait_until(is_said, 60)
        finally:
            os.kill(s3_server.process.pid, signal.SIGCONT)

    other = threading.Thread(target=stop_for_a_while)
    other.start()
    exit_code = run.launch(1)
    other.join()
    assert exit_code == 0
    assert is_said()
    run.assert_complete()
    assert run.repeated_steps() == 0
    assert not run.events("crashed", "failed", "restored")
    logged = "".join(log.read_text() for log in logs.glob("*.log"))
    assert "see to the server, the network and the credentials" in logged
    assert "Traceback" not in logged


def test_a_place_that_stays_away_ends_the_run_and_changes_nothing(toy_run, tmp_path, monkeypatch):
    monkeypatch.setattr(objects.Objects, "patience_s", 0.3)
    run = toy_run(checkpoints=f"file://{tmp_path}/objects")
    run.work_until(6)
    before = run.store.members(), run.store.versions(), run.store.events()
    (tmp_path / "objects").rename(tmp_path / "elsewhere")
    outcome = run.work()
    assert outcome.exit_code == verdict.EXIT_DEAD
    assert f"file://{tmp_path}/objects has no RUN.json" in outcome.message
    assert before == (run.store.members(), run.store.versions(), run.store.events())
    shutil.rmtree(tmp_path / "objects", ignore_errors=True)
    (tmp_path / "elsewhere").rename(tmp_path / "objects")
    assert run.work().exit_code == 0
    run.assert_complete()


def test_a_blob_that_is_lost_takes_the_member_back_one_version(toy_run, tmp_path):
    run = toy_run(checkpoints=f"file://{tmp_path}/objects", exploit="none")
    run.work_until(8)
    run.place._bucket.delete_folder(run.store.member(2).checkpoint)
    shutil.rmtree(run.directory / "checkpoints-cache")
    assert run.work().exit_code == 0
    run.assert_complete()
    (restored,) = run.events("restored")
    assert restored.member == 2
    assert "is missing in file://" in restored.details["error"]


@pytest.mark.parametrize("late_s", [0.0, 60.0])
def test_what_another_machine_published_may_be_late(toy_run, monkeypatch, late_s):
    """As a directory on NFS. Without the wait the member goes back, though nothing is lost."""
    monkeypatch.setattr(storage.Directory, "late_s", late_s)
    run = toy_run(exploit="none")
    run.work_until(8)
    newest = run.newest(2)
    hidden = run.directory / "hidden"
    newest.rename(hidden)
    shown = []

    def beat():
        if run.store.owners() and late_s and not shown and not newest.exists():
            shown.append(threading.Timer(0.5, lambda: hidden.rename(newest)))
            shown[0].start()

    assert run.work(beat=beat).exit_code == 0
    assert len(run.events("restored")) == (0 if late_s else 1)
    if late_s:
        run.assert_complete()
