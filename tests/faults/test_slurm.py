"""A run in SLURM jobs, with the SLURM of this machine if it has one; see docs/many-machines.md."""

import os
import shutil
import signal
import subprocess
import threading
from pathlib import Path

import pytest

from pbt import slurm

HERE = Path(__file__).parent
WORKS = shutil.which("sinfo") and subprocess.run(["sinfo"], capture_output=True).returncode == 0
needs_slurm = pytest.mark.skipif(not WORKS, reason="no SLURM cluster can be reached from here")


@pytest.fixture(autouse=True)
def _toy_is_found(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(HERE))


@pytest.mark.slow
@needs_slurm
def test_tasks_may_be_stopped_requeued_and_killed(toy_run, wait_until):
    run = toy_run(total_steps=3_000, population=6, task_config={"update_s": 0.02})
    said, ended = [], []
    launcher = threading.Thread(
        target=lambda: ended.append(slurm.run(run.directory, 3, say=said.append))
    )
    launcher.start()
    wait_until(lambda: len(run.store.versions()) > 20, seconds=120)
    job = (run.directory / "logs" / "slurm-job").read_text()
    subprocess.run(["scancel", "--signal=TERM", f"{job}_0"], check=True)
    subprocess.run(["scontrol", "requeue", f"{job}_1"], check=True)
    owners = [name for name in run.store.owners() if name]
    os.kill(int(owners[-1].split("/")[3]), signal.SIGKILL)
    launcher.join(timeout=170)
    assert ended == [0], said
    run.assert_complete()
    state = subprocess.run(
        ["scontrol", "show", "job", f"{job}_0"], capture_output=True, text=True, check=True
    ).stdout
    assert "JobState=COMPLETED" in state  # a stop with everything committed is a success
    assert "ExitCode=0:0" in state
    queue = ["squeue", "--noheader", f"--jobs={job}"]
    wait_until(lambda: not subprocess.run(queue, capture_output=True).stdout)
    logs = {path.name for path in (run.directory / "logs").glob("worker-slurm-*.log")}
    assert {name.split("-")[2] for name in logs} == {"0", "1", "2"}


@pytest.mark.slow
@needs_slurm
def test_a_signal_ends_the_watching_alone_and_the_same_command_watches_again(toy_run, wait_until):
    run = toy_run(total_steps=2_000, population=4, task_config={"update_s": 0.02})
    launcher = run.spawn("place.py", "slurm", "2")
    wait_until(lambda: len(run.store.versions()) > 8, seconds=120)
    launcher.send_signal(signal.SIGINT)
    text = launcher.communicate(timeout=60)[0]
    assert launcher.returncode == 130
    job = (run.directory / "logs" / "slurm-job").read_text()
    assert f"job {job} goes on; the same command watches it again" in text
    said = []
    assert slurm.run(run.directory, 2, say=said.append) == 0
    assert f"job {job} works on the run already" in " ".join(said)
    run.assert_complete()
    assert run.repeated_steps() == 0


@pytest.mark.slow
@needs_slurm
def test_a_job_that_slurm_does_not_take_is_one_line(toy_run):
    run = toy_run()
    with pytest.raises(ValueError, match=r"SLURM does not take the job: .*nowhere"):
        slurm.run(run.directory, 1, options=["--partition=nowhere"])
    assert not (run.directory / "logs" / "slurm-job").exists()


def test_without_slurm_nothing_is_tried(toy_run, monkeypatch):
    run = toy_run()
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ValueError, match=r"no SLURM on this machine .* on a login node"):
        slurm.run(run.directory, 1)
