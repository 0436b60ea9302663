"""A run on a Ray cluster: a machine is lost, a worker is killed, somebody stops it.

The clusters are Ray's own, of several nodes on this machine's loopback address.
"""

import os
import signal
import threading
from pathlib import Path

import psutil
import pytest

from pbt import ray_places

ray = pytest.importorskip("ray", reason="Ray is not installed: the extra 'ray'")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

HERE = Path(__file__).parent
ALONE = {"node_ip_address": "127.0.0.2", "include_dashboard": False}
LEARNER = {"update_s": 0.02}


@pytest.fixture(autouse=True)
def _not_nice(monkeypatch):
    """Let Ray's workers have their share of a busy machine."""
    monkeypatch.setenv("RAY_worker_niceness", "0")


@pytest.fixture
def cluster(monkeypatch):
    """A head without cores, to which a test adds nodes."""
    from ray import cluster_utils

    made = cluster_utils.Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "dashboard_port": 0, **ALONE}
    )
    monkeypatch.setenv("RAY_ADDRESS", made.address)
    monkeypatch.setenv("PYTHONPATH", str(HERE))
    yield made
    ray.shutdown()
    made.shutdown()


def test_a_lost_machine_costs_no_step_that_was_recorded(toy_run, cluster, wait_until):
    run = toy_run(total_steps=3_000, population=8, task_config=LEARNER)
    lost = cluster.add_node(num_cpus=2, **ALONE)
    cluster.add_node(num_cpus=2, **ALONE)
    said, ended = [], []
    launcher = threading.Thread(
        target=lambda: ended.append(ray_places.run(run.directory, 4, say=said.append))
    )
    launcher.start()
    wait_until(lambda: len(run.store.versions()) > 40, seconds=120)
    cluster.remove_node(lost, allow_graceful=False)
    launcher.join(timeout=200)
    assert ended == [0], said
    assert "on the Ray cluster, machines: 3, cores: 4" in said[0]
    run.assert_complete()
    assert "8 members trained 3,000 steps each" in said[-1]


def test_a_killed_worker_is_replaced_and_its_log_names_the_machine(toy_run, cluster, wait_until):
    run = toy_run(total_steps=1_000, task_config=LEARNER)
    cluster.add_node(num_cpus=2, **ALONE)
    ended = []
    launcher = threading.Thread(target=lambda: ended.append(ray_places.run(run.directory, 2)))
    launcher.start()
    owners = wait_until(lambda: [name for name in run.store.owners() if name], seconds=120)
    os.kill(int(owners[0].split("/")[3]), signal.SIGKILL)
    launcher.join(timeout=200)
    assert ended == [0]
    run.assert_complete()
    logs = {path.name for path in (run.directory / "logs").glob("worker-ray-*.log")}
    assert len(logs) == 2
    assert {name.split("-")[2] for name in logs} == {"0", "1"}


def test_without_a_cluster_it_starts_one_that_ends_with_it_and_a_signal_loses_nothing(
    toy_run, monkeypatch, wait_until
):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    run = toy_run(total_steps=100_000, task_config=LEARNER)
    launcher = run.spawn("place.py", "ray", "2")
    wait_until(lambda: len(run.store.versions()) > 8, seconds=120)
    children = psutil.Process(launcher.pid).children(recursive=True)
    launcher.send_signal(signal.SIGINT)
    said = launcher.communicate(timeout=120)[0]
    assert launcher.returncode == 130, said
    assert "on a Ray cluster of this machine alone" in said
    assert "stopped by SIGINT; the same command goes on" in said
    run.check()
    assert {member.owner for member in run.store.members()} == {None}
    assert run.repeated_steps() == 0
    wait_until(lambda: not any(child.is_running() for child in children), seconds=60)
