"""Where workers run: which flags fit together, and what is refused before anything is created."""

import re
from pathlib import Path

import pytest

from experiments import cluster, gym
from pbt import local, ray_places, store

BAD = [
    ("--cpus-per-worker 2", "--cpus-per-worker: only with --cluster ray or --cluster slurm"),
    ("--sbatch=--time=1", "--sbatch: only with --cluster ray or --cluster slurm"),
    ("--cluster ray --sbatch=--time=1", "--sbatch=--time=1: only with --cluster slurm"),
    ("--cluster ray --cpus-per-worker 0", "--cpus-per-worker 0: use more than 0"),
    ("--cluster ray --gpus-per-worker -1", "--gpus-per-worker -1: use 0 or more"),
    ("--cluster slurm --gpus-per-worker 0.5", "--gpus-per-worker 0.5: SLURM gives whole ones"),
    ("--cluster slurm", "there is no SLURM on this machine (sbatch and squeue are missing)"),
    ("--cluster dask", "--cluster dask: choose from ray, slurm\n"),
]


@pytest.mark.parametrize(("flags", "message"), BAD)
def test_what_does_not_fit_is_refused_in_one_line(tmp_path, monkeypatch, capsys, flags, message):
    monkeypatch.setenv("PATH", "/nowhere")
    argv = ["gym.py", "--preset", "quick", "--run-dir", str(tmp_path / "run"), *flags.split()]
    monkeypatch.setattr("sys.argv", argv)
    with pytest.raises(SystemExit) as ended:
        gym.main()
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert message in said
    assert said.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "127.0.0.1:99999"])
def test_a_ray_cluster_that_does_not_answer_is_refused_at_once(monkeypatch, address):
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(ValueError, match=rf"^RAY_ADDRESS={address} does not answer \(.*unset it"):
        ray_places.check_reachable()


def test_a_cluster_has_a_worker_per_member_and_a_machine_one_per_core():
    assert cluster.Cluster(cluster="ray").num_workers(None, 80) == 80
    assert cluster.Cluster(cluster="slurm").num_workers(3, 80) == 3
    assert cluster.THIS_MACHINE.num_workers(None, 80) == min(80, local.available_cores())
    assert cluster.Cluster(cluster="slurm").described(1) == "1 worker in SLURM jobs"


def test_a_file_that_one_machine_can_lock_is_not_given_to_several():
    sqlite, postgres = Path("a/run.sqlite3"), Path("a/run.postgresql")
    assert {sqlite.name, postgres.name} == set(store.FILE_NAMES)
    ray_places._check_machines({"here"}, sqlite)
    ray_places._check_machines({"here", "there"}, postgres)
    refusal = "2 machines, and SQLite's locks hold on one machine only: begin the run with --store"
    with pytest.raises(ValueError, match=re.escape(refusal)):
        ray_places._check_machines({"here", "there"}, sqlite)
