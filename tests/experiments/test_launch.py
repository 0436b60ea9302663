"""Runs from the command line: new, finished, resumed, extended, forked, interrupted, joined."""

import dataclasses
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

from experiments import (
    atari,
    evaluate,
    gym,
    launch,
    members,
    presets,
    replay,
    report,
    resume,
    translation,
)
from experiments.members import learner
from pbt import claim, create, local, storage, store
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
    assert "finished: 2 members trained 640 steps each" in again.out
    assert stored("run") == before
    assert not list(Path("run").glob("logs/worker-*"))


def test_workers_and_the_directory_may_differ(command, here, one_process, train):
    train(gym, *tiny("run"))
    os.rename("run", "moved run")
    result = command(gym, *tiny("moved run", "--workers", "2"))
    assert result.code == 0, result
    assert "finished" in result.out


def test_more_agent_steps_extend_a_run(command, here, one_process, train):
    train(gym, *tiny("run"))
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


def test_a_run_goes_on_without_its_flags(command, here, one_process):
    assert command(gym, *tiny("run", "--exploit", "none", "--seed", "3")).code == 0
    before = stored("run")
    again = command(resume, "run", "--workers", "2")
    assert again.code == 0, again
    assert "resuming run: 2 members, 640 agent steps each, 2 workers\n" in again.out
    assert stored("run") == before
    result = command(resume, "run", "--total-steps", "1.28e3")
    assert "extending run: 2 members, 1,280 agent steps each" in result.out
    assert stored("run")[0] == {**before[0], "total_steps": 1_280}
    assert steps("run") == [(1_280, "finished")] * 2
    for arguments, words in (
        (["run", "--total-steps", "640"], "the run has 1280, which may only grow"),
        (["run", "--workers", "0"], "--workers 0: use 1 or more"),
        (["nowhere"], "does not exist"),
    ):
        refused = command(resume, *arguments)
        assert (refused.code, refused.out) == (2, "")
        assert words in refused.err
    assert not Path("nowhere").exists()


CLAIMS_AND_LEAVES_WHEN_JOINED = """
import time
from pbt import owner, store
with store.Store.open("run") as run_store:
    run_store.claim(owner.current())
    print("claimed", flush=True)
    while len(run_store.owners()) < 2:
        time.sleep(0.05)
"""


def test_who_joins_is_told_who_is_there(command, here, one_process, train):
    train(gym, *tiny("run"))
    with store.Store.open("run") as run_store:
        run_store.extend(1_280)
    other = start(here, "-c", CLAIMS_AND_LEAVES_WHEN_JOINED)
    try:
        assert other.stdout.readline() == "claimed\n"
        joined = command(resume, "run", "--workers", "1")
        assert other.wait(60) == 0
    finally:
        other.kill()
    assert steps("run") == [(1_280, "finished")] * 2
    cores = local.available_cores()
    assert (
        f"joining run: 2 members, 1,280 agent steps each, 1 worker beside 1 at work, 2 on {cores} "
        "cores" in joined.out
    )


def test_a_finished_run_keeps_one_checkpoint_of_each_member_and_all_commands_still_work(
    command, here, one_process, train
):
    train(gym, *tiny("run"))
    with store.Store.open("run") as run_store:
        claim.collect(run_store, storage.of(Path("run")))  # as the launcher does at the end
        kept = run_store.referenced_checkpoints()
        newest = {member.checkpoint for member in run_store.members()}
    found = {f"{path.parent.name}/{path.name}" for path in Path("run/checkpoints").glob("*/*")}
    assert found == kept
    assert newest <= kept
    assert len(kept) <= 3  # and the best ever
    for module, arguments in (
        (report, ("run",)),
        *((evaluate, ("run", "--member", member, "--episodes", "2")) for member in (0, 1)),
        (replay, ("run", "--workers", "1", "--run-dir", "replayed")),
        (gym, tiny("new", "--fork", "run", total=320)),
        (resume, ("run", "--total-steps", "960")),
    ):
        result = command(module, *arguments)
        assert result.code in (None, 0), result
    assert steps("new") == [(320, "finished")] * 2
    assert steps("run") == [(960, "finished")] * 2


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
        (
            gym,
            ["--env", "FrozenLake-v1", "--env-kwargs", "map_name=8x8", "is_slippery=False"],
            "gym-FrozenLake-v1-is_slippery-False-map_name-8x8",
        ),
        (atari, [], "atari-Pong"),
        (atari, ["--game", "MsPacman"], "atari-MsPacman"),
        (atari, ["--game", "ALE/MsPacman-v5"], "atari-MsPacman-ale-v5"),
        (atari, ["--protocol", "machado2018"], "atari-Pong-machado2018"),
        (atari, ["--agent", "ppo"], "atari-Pong"),
        (atari, ["--agent", "a3c"], "atari-Pong-a3c"),
        (atari, ["--exploit", "none"], "atari-Pong-exploit-none"),
        (atari, ["--seed", "3"], "atari-Pong-seed-3"),
        (atari, ["--preset", "paper"], "atari-Pong-paper"),
        (gym, ["--env", "Catch", "--preset", "quick"], "gym-Catch-quick"),
        (gym, ["--env", "Catch", "--preset", "paper"], "gym-Catch-paper"),
        (
            gym,
            ["--env=Catch", "--preset=paper", "--agent=ppo", "--exploit=truncation", "--seed=1"],
            "gym-Catch-ppo-paper-exploit-truncation-seed-1",
        ),
        (translation, ["--exploit", "none"], "translation-exploit-none"),
    ):
        with pytest.raises(Begun) as error:
            command(module, *arguments)
        assert error.value.args == (Path("results/runs") / name,)


def test_different_questions_have_directories_of_their_own(command, here, one_process):
    flags = tiny("unused", total=320)[:-2]
    for more in ((), ("--agent", "a3c"), ("--exploit", "none"), ("--seed", "1")):
        assert "new run results/runs/gym-Catch" in command(gym, *flags, *more).out
    assert "resuming results/runs/gym-Catch-a3c: " in command(gym, *flags, "--agent", "a3c").out
    names = ["gym-Catch", "gym-Catch-a3c", "gym-Catch-exploit-none", "gym-Catch-seed-1"]
    assert sorted(path.name for path in Path("results/runs").iterdir()) == names


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


def test_no_new_run_over_the_weights_of_one_whose_store_is_gone(command, here, one_process, train):
    train(gym, *tiny("run"))
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


def test_joined_interrupted_and_finished(here, tmp_path):
    """A second terminal joins, Ctrl-C ends the first with 130, and the other finishes exactly.

    The environment is a module in the working directory, which the workers must find as well. The
    run's directory has a space and a letter beyond ASCII.
    """
    os.rename(tmp_path / "modules" / "small_envs.py", here / "small_envs.py")
    run_dir = here / f"mein Lauf ü {os.getpid()}"
    flags = tiny(run_dir.name, env="small_envs:Slow-v0", total=2_400)
    (here / "slow").touch()
    first = start(here, "-m", "experiments.gym", *flags)
    terminals = [first]
    deadline_s = time.monotonic() + 120

    def wait_until(condition):
        while not condition():
            assert all(terminal.poll() is None for terminal in terminals), [
                terminal.stdout.read() for terminal in terminals
            ]
            assert time.monotonic() < deadline_s
            time.sleep(0.2)

    def owners():
        with store.Store.open(run_dir) as run_store:
            return run_store.owners()

    try:
        wait_until((run_dir / store.FILE_NAME).exists)
        wait_until(lambda: any(count > 0 for count, _ in steps(run_dir)))
        terminals.append(start(here, "-m", "experiments.gym", *flags))
        wait_until(lambda: len(owners()) == 2)
        terminals.remove(first)
        first.send_signal(signal.SIGINT)
        out, _ = first.communicate(timeout=60)
        assert len(owners()) <= 1  # given back, not left to lapse
        interrupted = steps(run_dir)
        (here / "slow").unlink()
        printed, _ = terminals[0].communicate(timeout=90)
    finally:
        for terminal in [first, *terminals]:
            terminal.kill()
    assert first.returncode == 130, out
    assert "the same command goes on" in out
    assert any(0 < count < 2_400 for count, _ in interrupted)
    assert terminals[0].returncode == 0, printed
    assert re.match(rf"joining {re.escape(run_dir.name)}: ", printed)
    assert "finished: 2 members trained 2,400 steps each" in printed
    assert "mean of 30 fresh episodes" in printed
    assert steps(run_dir) == [(2_400, "finished")] * 2
    _, _, versions, reports, _ = stored(run_dir)
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
