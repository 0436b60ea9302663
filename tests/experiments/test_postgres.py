"""Commands on a run whose store is on PostgreSQL."""

import json
import shutil
from pathlib import Path

import pytest

from experiments import compare, evaluate, export, gym, replay, report, resume, toy
from pbt import store

SECRET = "sesame"


def tiny(run_dir, *more):
    return (
        *("--env", "Catch", "--population", "2", "--workers", "1", "--num-envs", "4"),
        *("--total-steps", "640", "--report-interval", "160", "--ready-interval", "320"),
        *("--run-dir", run_dir, *more),
    )


def test_all_commands_take_a_run_whose_store_is_elsewhere(
    command, here, one_process, monkeypatch, postgres_server
):
    monkeypatch.setenv("PGPASSWORD", SECRET)
    url = postgres_server.url
    first = command(gym, *tiny("run", "--store", url))
    assert first.code == 0, first
    assert "new run run: 2 members, 640 agent steps each" in first.out
    assert not (here / "run" / store.FILE_NAME).exists()
    assert list(Path("run/tensorboard").rglob("events.*"))

    # A new run from it, in a file.
    forked = command(gym, *tiny("forked", "--fork", "run"))
    assert forked.code == 0, forked
    assert (here / "forked" / store.FILE_NAME).exists()

    monkeypatch.undo()  # with the real launcher, which starts nobody
    monkeypatch.chdir(here)
    assert "resuming run" in command(gym, *tiny("run")).out
    assert "finished: 2 members trained" in command(resume, "run").out
    assert command(report, "run").code in (0, None)
    assert (here / "run/report/index.html").exists()
    assert command(export, "run").code in (0, None)
    assert len((here / "run/export/members.csv").read_text().splitlines()) == 3
    assert command(evaluate, "run", "--episodes", "2").code in (0, None)

    # Where a run is kept does not change.
    for run_dir, other in (("run", url.replace("/postgres?", "/template1?")), ("forked", url)):
        refused = command(gym, *tiny(run_dir, "--store", other))
        assert refused.code == 2
        assert "the run is stored in" in refused.err
        assert "leave the URL out" in refused.err
    # Nothing else is written where a run is.
    for module, *arguments in ((export, "forked", "--out"), (compare, "forked", "--out")):
        assert "is a run: name another directory" in command(module, *arguments, "run").err
    assert "is a run" in command(toy, "--run-dir", "run").err

    shutil.move("run", "moved")
    assert "finished" in command(resume, "moved").out
    for path in (path for path in here.rglob("*") if path.is_file()):
        assert SECRET.encode() not in path.read_bytes(), path


@pytest.mark.parametrize("module", [gym, replay])
def test_a_password_on_the_command_line_is_refused_and_not_repeated(command, here, module):
    flags = tiny("run") if module is gym else ("--schedule", "schedule.csv", "--env", "Catch")
    Path("schedule.csv").write_text("")
    refused = command(module, *flags, "--store", f"postgresql://me:{SECRET}@host/pbt")
    assert refused.code == 2
    assert refused.err.startswith("error: --store: the URL of a store holds a password")
    assert "PGPASSWORD or write it into ~/.pgpass" in refused.err
    assert SECRET not in refused.out + refused.err
    assert not Path("run").exists()


def test_a_server_that_is_not_there_is_one_line(command, here):
    refused = command(gym, *tiny("run", "--store", f"postgresql:///pbt?host={here}"))
    assert refused.code == 2
    assert "cannot be reached" in refused.err
    assert refused.err.count("\n") == 1
    assert not Path("run").exists()


def test_a_run_whose_server_is_away_is_one_line(command, here):
    Path("run").mkdir()
    pointer = {"url": f"postgresql:///pbt?host={here}", "schema": "pbt_x"}
    Path("run/run.postgresql").write_text(json.dumps(pointer))
    for module in (report, export, resume, evaluate):
        result = command(module, "run")
        assert result.code in (1, 2)
        assert "cannot be reached" in result.err
        assert result.err.count("\n") == 1
