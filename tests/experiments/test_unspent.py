"""Runs that are over although members died: evaluated, reported, and told by their exit code."""

import sqlite3

import pytest

from experiments import gym
from experiments.studies import plan
from pbt import store, verdict

TINY = (
    *("--env", "Catch", "--population", "2", "--workers", "1", "--num-envs", "4"),
    *("--report-interval", "400", "--ready-interval", "800", "--exploit", "none"),
    *("--run-dir", "run"),
)


@pytest.fixture
def half_dead(command, here, one_process):
    """A run in which one of two members has diverged half way."""
    assert command(gym, *TINY, "--total-steps", "800").code == 0
    connection = sqlite3.connect(here / "run" / store.FILE_NAME)
    with connection:
        connection.execute("UPDATE member SET state = 'diverged' WHERE id = 1")
    connection.close()


def test_a_run_with_unspent_steps_is_evaluated_and_ends_with_code_3(command, half_dead):
    result = command(gym, *TINY, "--total-steps", "1600")
    assert result.code == verdict.EXIT_UNSPENT == 3, result
    assert "left 800 steps unspent" in result.out
    assert "fresh episodes" in result.out
    assert "report: run/report" in result.out


def test_a_study_goes_on_after_a_run_with_unspent_steps(half_dead, here):
    with store.Store.open("run") as run_store:
        run_store.extend(1600)
    plan.train(here / "run", workers=1, beat=lambda: None)
    with store.Store.open("run") as run_store:
        assert [member.agent_steps for member in run_store.members()] == [1600, 800]
