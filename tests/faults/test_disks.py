"""Disks that are full or read-only when a run goes on, and names of directories."""

import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments import gym

HERE = Path(__file__).parent
MOUNT = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--mount"]


def _can_mount():
    command = [*MOUNT, "mount", "-t", "tmpfs", "none", "/mnt"]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


needs_mount = pytest.mark.skipif(not _can_mount(), reason="this system lets nobody mount a tmpfs")
FULL = "cat /dev/zero > filler 2>/dev/null"
READ_ONLY = "mount -o remount,ro ."


def on_a_small_disk(run, tmp_path, before, command):
    """Copy a run to a disk of 2 MB that exists for one command only; return what it does there."""
    disk = tmp_path / "disk"
    disk.mkdir(exist_ok=True)
    script = f"""
        mount -t tmpfs -o size=2m none {disk} && cp -r '{run.directory}' {disk}/run && cd {disk} &&
        ({before}; true) && exec {command}
    """
    paths = os.pathsep.join([str(HERE), *filter(None, sys.path)])
    started_s = time.monotonic()
    done = subprocess.run(
        [*MOUNT, "sh", "-c", script],
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=120,
    )
    return done.returncode, done.stdout.splitlines(), time.monotonic() - started_s


@needs_mount
def test_a_run_on_a_full_disk_ends_at_once(toy_run, tmp_path):
    run = toy_run()
    run.work_until(8)
    command = f"{shlex.quote(sys.executable)} {shlex.quote(str(HERE / 'launch.py'))} run 2"
    exit_code, lines, seconds = on_a_small_disk(run, tmp_path, FULL, command)
    assert exit_code == 74, lines
    assert lines == ["no space for run (0 bytes free): make room; the same command goes on"]
    assert seconds < 30


@needs_mount
def test_a_worker_that_finds_a_full_disk_says_so_by_its_exit_code(toy_run, tmp_path):
    run = toy_run()
    run.work_until(8)
    command = f"{shlex.quote(sys.executable)} {shlex.quote(str(HERE / 'child.py'))} run"
    exit_code, lines, seconds = on_a_small_disk(run, tmp_path, FULL, command)
    assert exit_code == 74, lines
    assert not any("Traceback" in line for line in lines)
    assert seconds < 40


@needs_mount
@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("launch.py", "run cannot be written to (Read-only file system)"),
        ("child.py", " run/run.sqlite3 cannot be written to"),
    ],
)
def test_a_run_that_cannot_be_written_to_is_refused(script, said, toy_run, tmp_path):
    run = toy_run()
    run.work_until(8)
    workers = "2" if script == "launch.py" else ""
    command = f"{shlex.quote(sys.executable)} {shlex.quote(str(HERE / script))} run {workers}"
    exit_code, lines, seconds = on_a_small_disk(run, tmp_path, READ_ONLY, command)
    assert exit_code == 2, lines
    assert len(lines) == 1
    assert said in lines[0]
    assert seconds < 30


@needs_mount
@pytest.mark.slow
@pytest.mark.parametrize(("before", "code"), [(FULL, 74), (READ_ONLY, 2)])
def test_the_command_refuses_before_it_shows_anything(before, code, toy_run, tmp_path):
    """The suite's own command neither opens TensorBoard files nor says that training goes on."""
    arguments = (
        "--env Catch --population 1 --workers 1 --total-steps 320 --report-interval 320"
        " --ready-interval 320"
    )
    gym = [sys.executable, "-m", "experiments.gym", *arguments.split(), "--run-dir"]
    run = toy_run()  # replaced by a run of the command
    shutil.rmtree(run.directory)
    subprocess.run([*gym, str(run.directory)], check=True, capture_output=True, timeout=300)
    larger = shlex.join(gym).replace("--total-steps 320", "--total-steps 640")
    exit_code, lines, _ = on_a_small_disk(run, tmp_path, before, f"{larger} run")
    assert exit_code == code, lines
    assert len(lines) == 1
    assert "cannot be" in lines[0] or "no space" in lines[0] or "disk is full" in lines[0]


def test_a_name_that_is_not_utf_8_is_refused(tmp_path, monkeypatch, capfd):
    name = os.fsdecode(bytes(tmp_path) + b"/caf\xe9")
    monkeypatch.setattr(sys, "argv", ["gym", "--env", "Catch", "--run-dir", name])
    with pytest.raises(SystemExit, match=r"^2$"):
        gym.main()
    said = capfd.readouterr().err
    assert "UTF-8" in said
    assert said.count("\n") == 1
    assert not Path(name).exists()
