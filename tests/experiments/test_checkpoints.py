"""Commands on a run whose checkpoints are elsewhere."""

import secrets
import shutil
from pathlib import Path

import pytest

from experiments import evaluate, export, gym, replay, report, resume, runs
from pbt import storage


def tiny(run_dir, *more):
    return (
        *("--env", "Catch", "--population", "2", "--workers", "1", "--num-envs", "4"),
        *("--total-steps", "640", "--report-interval", "160", "--ready-interval", "320"),
        *("--run-dir", run_dir, *more),
    )


@pytest.fixture(params=["directory", "folder", "s3"])
def url(request, tmp_path):
    if request.param == "s3":
        return request.getfixturevalue("s3_server").url(f"gym-{secrets.token_hex(4)}")
    return f"{'file://' if request.param == 'folder' else ''}{tmp_path}/elsewhere"


def test_all_commands_find_the_checkpoints(command, here, one_process, url, tmp_path):
    first = command(gym, *tiny("run", "--checkpoints", url))
    assert first.code == 0, first
    assert not Path("run/checkpoints").exists()

    # On another machine there is the run's directory, and no cache.
    shutil.rmtree("run/checkpoints-cache", ignore_errors=True)
    shutil.move("run", "moved")
    assert "resuming moved" in command(gym, *tiny("moved")).out
    assert "finished: 2 members trained" in command(resume, "moved").out
    assert command(evaluate, "moved", "--member", "0", "--episodes", "2").code in (0, None)
    shutil.rmtree("moved/checkpoints-cache", ignore_errors=True)
    assert command(export, "moved", "--to", "torch", "--member", "1").code in (0, None)
    assert command(export, "moved").code in (0, None)
    assert command(report, "moved").code in (0, None)
    assert runs.load_agent("moved", 0).make_env()

    # A new run from it, in its own directory; and one that would use the same place.
    shutil.rmtree("moved/checkpoints-cache", ignore_errors=True)
    forked = command(gym, *tiny("forked", "--fork", "moved"))
    assert forked.code == 0, forked
    assert list(Path("forked/checkpoints").glob("*/*"))
    refused = command(gym, *tiny("other", "--checkpoints", url))
    assert refused.code == 2
    assert "holds the checkpoints of a run whose run.sqlite3 is not in other" in refused.err
    assert not Path("other").exists()
    # Where they are does not change.
    refused = command(gym, *tiny("moved", "--checkpoints", f"{tmp_path}/new"))
    assert refused.code == 2
    assert "leave --checkpoints out" in refused.err
    for path in (path for path in here.rglob("*") if path.is_file()):
        assert b"sesame" not in path.read_bytes(), path


@pytest.mark.parametrize("module", [gym, replay])
def test_keys_on_the_command_line_are_refused_and_not_repeated(command, here, module):
    flags = tiny("run") if module is gym else ("--schedule", "schedule.csv", "--env", "Catch")
    Path("schedule.csv").write_text("")
    refused = command(module, *flags, "--checkpoints", "s3://me:sesame@bucket/run")
    assert refused.code == 2
    assert refused.err.startswith("error: --checkpoints: the URL of checkpoints holds a key")
    assert "sesame" not in refused.out + refused.err
    assert not Path("run").exists()


def test_a_pointer_that_says_nothing_is_one_line(command, here, one_process):
    assert command(gym, *tiny("run")).code == 0
    Path("run", storage.FILE_NAME).write_text("{}")
    for module in (resume, evaluate):
        result = command(module, "run")
        assert result.code in (1, 2)
        assert "does not say where the checkpoints are" in result.err
        assert result.err.count("\n") == 1
