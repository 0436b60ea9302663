"""What a run directory names is not executed by commands that only look at it."""

import json
import sqlite3
import sys

import pytest

from experiments import compare, evaluate, export, gym, replay, report, resume
from experiments.members import trust
from pbt import store

RUN = "results/runs/x"
TINY = (
    *("--env", "Catch", "--agent", "a3c", "--population", "1", "--workers", "1", "--num-envs", "4"),
    *("--total-steps", "800", "--report-interval", "400", "--ready-interval", "800"),
    *("--run-dir", RUN),
)
NOTES = "from pathlib import Path\n\nPath('executed').touch()\n"


@pytest.fixture
def foreign(command, here, one_process, monkeypatch):
    """A run of Catch whose directory then names an environment of its own, with its code."""
    assert command(gym, *TINY).code == 0
    (here / RUN / "notes.py").write_text(NOTES)
    connection = sqlite3.connect(here / RUN / store.FILE_NAME)
    with connection:
        (text,) = connection.execute("SELECT config FROM run").fetchone()
        config = json.loads(text)
        config["task_config"]["env_id"] = "results.runs.x.notes:X-v0"
        connection.execute("UPDATE run SET config = ?", (json.dumps(config),))
    connection.close()
    monkeypatch.syspath_prepend(here)  # as `python -m` does
    yield here
    for name in [name for name in sys.modules if name.startswith("results")]:
        del sys.modules[name]


@pytest.mark.parametrize("module", [evaluate, replay, resume])
def test_an_environment_of_the_directory_is_not_imported_without_trust(command, foreign, module):
    result = command(module, RUN)
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "executes the module 'results.runs.x.notes'" in result.err
    assert "--trust" in result.err
    assert not (foreign / "executed").exists()
    command(module, RUN, "--trust")
    assert (foreign / "executed").exists()


def test_a_task_of_the_directory_is_not_imported_without_trust(command, foreign):
    connection = sqlite3.connect(foreign / RUN / store.FILE_NAME)
    with connection:
        connection.execute(
            "UPDATE run SET config = json_set(config, '$.task', 'results.runs.x.notes:make_task')"
        )
    connection.close()
    result = command(resume, RUN)
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "'results.runs.x.notes:make_task'" in result.err
    assert "--trust" in result.err
    assert not (foreign / "executed").exists()


def test_reading_commands_execute_nothing(command, foreign):
    assert not command(report, RUN, "--out", "page").code
    assert not command(export, RUN).code
    command(compare, RUN, RUN)
    assert not (foreign / "executed").exists()


def test_a_replay_in_another_environment_needs_no_trust(command, foreign):
    result = command(replay, RUN, "--env", "Catch", "--total-steps", "400", "--workers", "1")
    assert result.code == 0, result
    assert not (foreign / "executed").exists()


@pytest.mark.parametrize(
    "env_id", ["Pong", "ALE/Pong-v5", "Catch", "CartPole-v1", "Blackjack-v1", "Nothing-v0"]
)
def test_the_suites_own_environments_are_trusted(env_id):
    assert trust.foreign_code(env_id) is None


def test_foreign_environments_are_not(environments_module):
    name = environments_module
    assert trust.foreign_code("os:X-v0") == "the module 'os'"
    assert trust.foreign_code(name) is not None
    with pytest.raises(ValueError, match="is no text"):
        trust.foreign_code(["Pong"])


@pytest.fixture
def environments_module():
    import gymnasium

    gymnasium.register("ForeignOne-v0", entry_point="somebody.code:Env")
    yield "ForeignOne-v0"
    del gymnasium.registry["ForeignOne-v0"]
