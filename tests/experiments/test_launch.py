"""Runs from the command line: new, finished, resumed, extended, forked, interrupted, joined."""

import dataclasses
import os
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

from experiments import atari, gym, launch, members, presets
from experiments.members import learner
from pbt import create, store
from terminal import start

REPOSITORY = Path(__file__).parents[2]


def tiny(run_dir, *more, env="Catch", total=640):
    return (
        *("--env", env, "--population", "2", "--workers", "1", "--num-envs", "4"),
        *("--total-steps", total, "--report-interval", "160", "--ready-interval", "320"),
        *("--run-dir", run_dir, *more),
    )


def stored(run_dir):
    """All that a run is, but for its named leases."""
    with store.Store.open(run_dir) as run_store:
        return (
            run_store.config.to_json(),
            run_store.members(),
            run_store.versions(),
            run_store.reports(),
            run_store.events(),
        )


def steps(run_dir):
    with store.Store.open(run_dir) as run_store:
        return [(member.agent_steps, member.state) for member in run_store.members()]


def test_a_finished_run_says_so_and_stays_as_it_is(command, here, one_process, monkeypatch):
    first = command(gym, *tiny("run"))
    assert first.code == 0
    assert "new run run: 2 members, 640 agent steps each" in first.out
    assert "finished" in first.out
    assert steps("run") == [(640, "finished")] * 2
    before = stored("run")
    monkeypatch.undo()  # with the real launcher, which starts nobody
    monkeypatch.chdir(here)
    monkeypatch.setattr(launch.run_report, "write_report", lambda *_: None)
    again = command(gym, *tiny("run"))
    assert again.code == 0
    assert "resuming run" in again.out
    assert "finished: 2 members trained 640 agent steps each" in again.out
    assert stored("run") == before
    assert not list(Path("run").glob("logs/worker-*"))


def test_workers_and_the_directory_may_differ(command, here, one_process):
    assert command(gym, *tiny("run")).code == 0
    os.rename("run", "moved run")
    result = command(gym, *tiny("moved run", "--workers", "2"))
    assert result.code == 0, result
    assert "finished" in result.out


def test_more_agent_steps_extend_a_run(command, here, one_process):
    assert command(gym, *tiny("run")).code == 0
    versions = stored("run")[2]
    result = command(gym, *tiny("run", total=1_280))
    assert result.code == 0, result
    assert "extending run: 2 members, 1,280 agent steps each" in result.out
    assert steps("run") == [(1_280, "finished")] * 2
    config, _, later, _, events = stored("run")
    assert config["total_steps"] == 1_280
    assert later[: len(versions)] == versions  # nothing was done again
    assert [event.kind for event in events].count("extended") == 2
    assert command(gym, *tiny("run", total=1_280)).code == 0
    assert len(list(Path("run/report").glob("evaluation-*"))) == 2  # each end has its own score


def test_random_search_never_copies(command, here, one_process):
    result = command(gym, *tiny("run", "--exploit", "none", total=1_280))
    assert result.code == 0
    config, members, versions, _, _ = stored("run")
    assert config["exploit"] == "none"
    assert {version.kind for version in versions} == {"initial", "slice"}
    for member in members:
        own = [v.hyperparameters for v in versions if v.member == member.id]
        assert all(hyperparameters == own[0] for hyperparameters in own)


def test_fixed_hyperparameters_are_in_force(command, here, one_process, monkeypatch):
    built = []
    make_task = learner.make_task

    def spy(*arguments):
        built.append(make_task(*arguments))
        return built[-1]

    monkeypatch.setattr(members, "make_task", spy)
    fixed = ("--fixed", "learning_rate=7e-4", "unroll_length=7")
    assert command(gym, *tiny("run", *fixed)).code == 0
    versions = stored("run")[2]
    assert {v.hyperparameters["learning_rate"] for v in versions} == {7e-4}
    assert {v.hyperparameters["unroll_length"] for v in versions} == {7}
    assert len({v.hyperparameters["entropy_cost"] for v in versions}) >= 2
    assert len(built) == 2
    for task in built:
        assert task.hyperparameters()["learning_rate"] == 7e-4
        assert task.hyperparameters()["unroll_length"] == 7


def test_a_fork_starts_from_another_runs_members(command, here, one_process):
    assert command(gym, *tiny("old", "--seed", "3")).code == 0
    before = stored("old")
    changed = ("--fork", "old", "--exploit", "none", "--fixed", "learning_rate=1e-4")
    result = command(gym, *tiny("new", *changed, total=320))
    assert result.code == 0, result
    config, members, versions, _, events = stored("new")
    assert (config["exploit"], config["total_steps"]) == ("none", 320)
    assert [event.kind for event in events][:2] == ["forked", "forked"]
    for old, new in zip(before[1], members, strict=True):
        assert new.agent_steps == 320
        assert new.hyperparameters["learning_rate"] == 1e-4
        assert new.hyperparameters["entropy_cost"] == old.hyperparameters["entropy_cost"]
    assert all(version.checkpoint for version in versions)
    assert stored("old") == before
    assert command(gym, *tiny("new", *changed, total=320)).code == 0  # the same command again


def test_a_run_without_a_score_ends_well(command, here, one_process):
    # 20 steps of each environment: 8 episodes, and a score takes 10.
    short = ("--report-interval", "80", "--ready-interval", "80")
    result = command(gym, *tiny("run", *short, total=80))
    assert result.code == 0
    assert "no member has a score yet, which takes 10" in result.out
    assert steps("run") == [(80, "finished")] * 2


def test_default_directories(command, here, monkeypatch):
    class Begun(Exception):
        pass

    def begin(run_dir, *_, **__):
        raise Begun(run_dir)

    monkeypatch.setattr(create, "create_run", begin)
    for module, arguments, name in (
        (gym, ["--env", "Catch"], "gym-Catch"),
        (gym, ["--env", "small_envs:Length-v0"], "gym-small_envs-Length-v0"),
        (atari, [], "atari-Pong"),
        (atari, ["--game", "ALE/MsPacman-v5"], "atari-MsPacman"),
    ):
        with pytest.raises(Begun) as error:
            command(module, *arguments)
        assert error.value.args == (Path("results/runs") / name,)


def test_the_same_command_twice_at_once_makes_one_run(here):
    config = dataclasses.replace(presets.GYM["quick"]["a3c"], env="Catch").run_config()
    for attempt in range(5):
        begun = []
        barrier = threading.Barrier(4)

        def begin(run_dir=Path(f"run-{attempt}"), begun=begun, barrier=barrier):
            barrier.wait()
            try:
                begun.append(launch.open_or_create(run_dir, config, None))
            except Exception as error:
                begun.append(error)

        threads = [threading.Thread(target=begin) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(map(str, begun)) == ["new run", "resuming", "resuming", "resuming"]


def test_remains_of_a_killed_creation_are_no_obstacle(command, here, one_process):
    Path("run").mkdir()
    Path("run/.run.sqlite3.creating-0123").write_text("half")
    assert command(gym, *tiny("run")).code == 0


def test_no_new_run_over_the_weights_of_one_whose_store_is_gone(command, here, one_process):
    assert command(gym, *tiny("run")).code == 0
    for path in Path("run").iterdir():
        if path.name != "checkpoints":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    before = sorted(Path("run").rglob("*"))
    result = command(gym, *tiny("run"))
    assert result.code == 2
    assert "put run.sqlite3 back" in result.err
    assert sorted(Path("run").rglob("*")) == before


def test_differences_in_other_settings_are_not_extended(here):
    settings = dataclasses.replace(presets.GYM["quick"]["a3c"], env="Catch", run_dir=Path("run"))
    assert launch.open_or_create(Path("run"), settings.run_config(), None) == "new run"
    larger = dataclasses.replace(settings, total_steps=320_000, seed=9)
    with pytest.raises(ValueError, match="seed: 0 -> 9"):
        launch.open_or_create(Path("run"), larger.run_config(), None)
    with store.Store.open("run") as run_store:
        assert run_store.config.total_steps == settings.total_steps


# Real processes.


def test_interrupted_resumed_and_joined(here, tmp_path):
    """Ctrl-C ends with 130; then two terminals finish the run together, exactly.

    The environment is a module in the working directory, which the workers must find as well. The
    run's directory has a space and a letter beyond ASCII.
    """
    os.rename(tmp_path / "modules" / "small_envs.py", here / "small_envs.py")
    run_dir = here / f"mein Lauf ü {os.getpid()}"
    flags = tiny(run_dir.name, env="small_envs:Slow-v0", total=2_400)
    (here / "slow").touch()
    launcher = start(here, "-m", "experiments.gym", *flags)
    try:
        deadline_s = time.monotonic() + 90
        while not (run_dir / store.FILE_NAME).exists() or all(
            count == 0 for count, _ in steps(run_dir)
        ):
            assert launcher.poll() is None, launcher.stdout.read()
            assert time.monotonic() < deadline_s
            time.sleep(0.2)
        launcher.send_signal(signal.SIGINT)
        out, _ = launcher.communicate(timeout=60)
    finally:
        launcher.kill()
    assert launcher.returncode == 130, out
    assert "the same command goes on" in out
    (here / "slow").unlink()
    interrupted = steps(run_dir)
    assert any(0 < count < 2_400 for count, _ in interrupted)
    with store.Store.open(run_dir) as run_store:
        assert not run_store.owners()  # given back, not left to lapse

    terminals = [start(here, "-m", "experiments.gym", *flags) for _ in range(2)]
    try:
        printed = [terminal.communicate(timeout=90)[0] for terminal in terminals]
    finally:
        for terminal in terminals:
            terminal.kill()
    assert [terminal.returncode for terminal in terminals] == [0, 0], printed
    for text in printed:
        assert f"resuming {run_dir.name}: " in text
        assert "finished: 2 members trained 2,400 agent steps each" in text
    assert steps(run_dir) == [(2_400, "finished")] * 2
    _, _, versions, reports, _ = stored(run_dir)
    assert sum("mean of 30 fresh episodes" in text for text in printed) == 1
    for member in range(2):
        own = [v for v in versions if v.member == member]
        assert [v.version for v in own] == list(range(len(own)))
        ends = [report.agent_steps for _, report in reports if report.member == member]
        assert ends == sorted(set(ends))
    assert (run_dir / "report" / "summary.md").exists()
    # Nobody is left behind.
    running = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True)
    assert run_dir.name not in running.stdout


def test_a_fork_that_was_killed_before_its_store_existed_can_be_repeated(tmp_path):
    settings = presets.GymConfig(env="Catch", population=1, num_envs=4)
    run_config = settings.run_config()
    (tmp_path / "run" / "checkpoints" / "0" / "0-abc").mkdir(parents=True)
    assert launch.open_or_create(tmp_path / "run", run_config, None) == "new run"
