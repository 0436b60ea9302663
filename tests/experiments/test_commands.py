"""Bad input: one clear line, exit code 2, and nothing created."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from experiments import (
    atari,
    evaluate,
    export,
    gym,
    replay,
    report,
    resume,
    study,
    throughput,
    toy,
)
from experiments import cli as quietly
from pbt import checkpoint, store

CATCH = ("--env", "Catch")
TINY = (
    *CATCH,
    *("--agent", "a3c", "--population", "2", "--workers", "1", "--num-envs", "4"),
    *("--total-steps", "640", "--report-interval", "160", "--ready-interval", "320"),
)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--game", "Pnog"], ["Pnog", "Pong"]),
        (["--game", "pong"], ["pong", "Pong"]),
        (["--game", "ALE/Pon-v5"], ["ALE/Pon-v5", "Pong"]),
        (["--game", "Pong-v4"], ["Pong-v4", "Pong"]),
        (["--game", "Warlords"], ["Warlords", "single-player"]),
        (["--game", "CartPole-v1"], ["CartPole-v1", "experiments.gym"]),
        (["--game", "Catch"], ["Catch", "experiments.gym"]),
        (["--game", ""], ["Pong"]),
    ],
)
def test_unknown_games(refused, arguments, words):
    line = refused(atari, *arguments)
    assert all(word in line for word in words), line


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ("CartPol-v1", ["CartPol-v1", "CartPole-v1"]),
        ("CartPole-v9", ["CartPole-v9", "CartPole-v1"]),
        ("catch", ["'catch'", "Catch"]),
        ("", ["CartPole-v1"]),
        ("no_such_module:Env-v0", ["no_such_module", "install"]),
        ("small_envs:Lenght-v0", ["Lenght-v0", "Length-v0"]),
        ("small_envs:Grid-v0", ["Dict", "supported is", "FilterObservation", "'image'"]),
        ("small_envs:Tiny-v0", ["7 x 7", "FlattenObservation", "--env mine:Mine-v0"]),
        ("small_envs:Words-v0", ["Tuple", "Text", "FilterObservation", "[1]"]),
        ("MiniGrid-Empty-5x5-v0", ["import minigrid", "minigrid:MiniGrid-Empty-5x5-v0"]),
        ("SomethingElse-v3", ["SomethingElse-v3", "module:SomethingElse-v3"]),
        ("small_envs:NeedsMore-v0", ["NeedsMore-v0", "pip install more"]),
        ("small_envs:Imports-v0", ["a_package_nobody_has"]),
        ("small_envs:Broken-v0", ["Broken-v0", "RuntimeError: no display at :0"]),
        ("ALE/Pong-v5", ["python -m experiments.atari --game ALE/Pong-v5"]),
        ("VizdoomBasic-v1", ["python -m experiments.lab --level Doom/Basic"]),
        ("StarCraft/MoveToBeacon-32", ["python -m experiments.starcraft --map MoveToBeacon"]),
    ],
)
def test_unknown_and_unusable_environments(refused, env, words):
    line = refused(gym, "--env", env)
    assert all(word in line for word in words), line


def test_arguments_of_the_environments_constructor(refused, command, one_process):
    frozen = ("--env", "FrozenLake-v1", "--env-kwargs")
    assert "slippery" in refused(gym, *TINY, *frozen, "slippery=False")
    assert "no argument such as" in refused(gym, *TINY, *frozen, "is_slippery")
    result = command(gym, *TINY, *frozen, "is_slippery=False", "--run-dir", "run")
    assert result.code == 0, result
    assert (
        "environment: FrozenLake-v1, as Gymnasium registers it with is_slippery=False" in result.out
    )
    played = command(evaluate, "run", "--member", "0", "--episodes", "2")
    assert played.code is None, "Gymnasium's own environments need no --trust"
    assert "is_slippery=False" in played.out


@pytest.mark.parametrize("env", ["small_envs:Tiny-v0", "small_envs:Grid-v0"])
def test_the_hint_to_wrap_an_environment_works(
    refused, command, here, one_process, env, monkeypatch
):
    line = refused(gym, *TINY, "--env", env)
    (code,) = re.findall(r"Write the line `(.*)` into mine\.py", line)
    (here / "mine.py").write_text(f"{code}\n")
    monkeypatch.syspath_prepend(here)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    result = command(gym, *TINY, "--env", "mine:Mine-v0", "--torso", "auto", "--run-dir", "run")
    assert result.code == (2 if env.endswith("Grid-v0") else 0), result
    if env.endswith("Grid-v0"):  # its image is 7 x 7, and the next hint is that of Tiny
        assert "FlattenObservation(e := g.make" in result.err


@pytest.mark.parametrize("env", ["Blackjack-v1", "small_envs:Nested-v0", "small_envs:Pair-v0"])
def test_observations_of_several_numbers_are_flattened(command, here, one_process, env):
    assert command(gym, *TINY, "--env", env, "--run-dir", "run").code == 0


@pytest.mark.parametrize("agent", ["a3c", "ppo"])
def test_observations_and_actions_of_several_parts_are_learned_and_played(
    command, here, one_process, agent
):
    result = command(
        gym, *TINY, "--env", "small_envs:Parts-v0", "--agent", agent, "--run-dir", "run"
    )
    assert result.code == 0, result
    played = command(evaluate, "run", "--member", "0", "--episodes", "4", "--trust")
    assert played.code is None, played


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--population", "0"], ["population 0", "1 or more"]),
        (["--workers", "0"], ["--workers 0", "1 or more"]),
        (["--workers", "-2"], ["--workers -2", "1 or more"]),
        (["--num-envs", "0"], ["--num-envs 0", "1 or more"]),
        (["--seed", "-1"], ["seed -1", "0 or more"]),
        (["--significance", "2"], ["--significance 2", "0 and 1"]),
        (
            ["--num-envs", "16", "--report-interval", "16000", "--total-steps", "1600"],
            ["--total-steps 1600", "16000 or more"],
        ),
        (
            ["--num-envs", "16", "--report-interval", "160", "--total-steps", "1601"],
            ["1601", "1600 or 1616"],
        ),
        (["--num-envs", "16", "--report-interval", "161"], ["161", "160 or 176"]),
        (["--num-envs", "16", "--ready-interval", "161"], ["161", "160 or 176"]),
        (
            ["--learning-rate.prior", "1e-2", "1e-3"],
            ["'learning_rate'", "low=0.01", "high=0.001", "swap"],
        ),
        (
            ["--learning-rate.prior", "1e-3", "1", "--learning-rate.bounds", "1e-4", "1e-1"],
            ["'learning_rate'", "high=1.0", "0.1", "widen the bounds or narrow the prior"],
        ),
        (["--entropy-cost.bounds", "0", "1"], ["'entropy_cost'", "low=0.0", "above 0"]),
        (["--entropy-cost.prior", "nan", "1"], ["'entropy_cost'", "low=nan", "finite"]),
        (["--unroll-length.prior", "5.5", "6"], ["--unroll-length.prior", "5.5", "whole"]),
        (["--fixed", "learning_rat=1e-3"], ["'learning_rat'", "did you mean learning_rate"]),
        (["--fixed", "gamma=0.9"], ["'gamma'", "learning_rate, entropy_cost, unroll_length"]),
        (["--fixed", "learning_rate"], ["--fixed learning_rate", "name=number"]),
        (["--fixed", "learning_rate=fast"], ["learning_rate=fast", "name=number"]),
        (["--fixed", "learning_rate=nan"], ["learning_rate=nan", "above 0"]),
        (["--fixed", "learning_rate=-1"], ["learning_rate=-1", "above 0"]),
        (["--fixed", "learning_rate=1e300"], ["learning_rate=1e300", "up to 1e+06"]),
        (["--fixed", "entropy_cost=-1"], ["entropy_cost=-1", "0 or more"]),
        (["--fixed", "unroll_length=2.5"], ["unroll_length=2.5", "whole"]),
        (["--fixed", "learning_rate=1", "learning_rate=2"], ["learning_rate", "twice"]),
        (
            ["--fixed", "learning_rate=1e-3", "--adapt", "learning_rate"],
            ["--adapt learning_rate", "--fixed learning_rate=0.001"],
        ),
        (["--adapt", "learning_rate", "learning_rate"], ["'learning_rate'", "twice"]),
        (["--device", "nonsense"], ["--device nonsense", "cpu"]),
        (["--device", "cuda:99"], ["--device cuda:99", "cpu"]),
        (["--preset", "fast"], ["--preset fast", "quick"]),
        (["--preset=fast"], ["--preset fast", "quick"]),
        (["--fork", "nowhere", "--run-dir", "new"], ["nowhere", "does not exist"]),
        (["--fork", ".", "--run-dir", "new"], ["run.sqlite3", "does not exist"]),
    ],
    ids=lambda value: " ".join(value) if "--" in value[0] else "",
)
def test_settings(refused, arguments, words):
    line = refused(gym, *CATCH, *arguments)
    assert all(word in line for word in words), line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--wrong"], ["--wrong: there is no such flag", "--help"]),
        (["--lr", "1e-3"], ["--lr: there is no such flag", "did you mean --learning-rate?"]),
        (["--total-timesteps", "9"], ["did you mean --total-steps?"]),
        (["--popluation=9"], ["--popluation", "did you mean --population?"]),
        (["--preset"], ["--preset"]),
        (["--population", "three"], ["error: --population: three is no whole number"]),
        (["--total-steps", "1.5"], ["--total-steps", "1.5 is no whole number", "1e6"]),
        (["--total-steps", "inf"], ["--total-steps", "inf is no whole number"]),
        (["--adapt", "gamma"], ["--adapt gamma: choose from", "learning_rate"]),
        (
            ["--exploit", "best"],
            ["--exploit best: choose from binary-tournament, none, t-test, truncation\n"],
        ),
        (["extra"], ["extra: there is no place for it here"]),
        (["--learning-rate.prior", "1", "2", "3"], ["3: there is no place for it here"]),
        (["--env"], ["--env"]),
        (["--fork"], ["--fork"]),
        (["--fork", "old"], ["--fork old", "--run-dir NEW"]),
        (["--fork", "old", "--run-dir", "old"], ["--fork old", "same directory"]),
        (["--learning-rate"], ["--learning-rate", "one number", "two ends"]),
        (["--learning-rate", "1", "2", "3"], ["--learning-rate", "one number", "two ends"]),
        (["--learning-rate", "fast"], ["--learning-rate fast", "give a number", "two for a prior"]),
        (["--total-steps", "0"], ["error: --total-steps 0 is too small: use 1 or more"]),
        (["--population", "0"], ["error: --population 0 is too small: use 1 or more"]),
        (["--device", "gpu"], ["--device gpu", "did you mean cuda?"]),
        (["--agent", "a3c", "--epochs", "3"], ["--epochs", "--agent ppo or unreal-ppo does"]),
        (["--agent", "a3c", "--clip-range.prior", "1", "2"], ["--clip-range.prior", "ppo"]),
        (["--agent", "a3c", "--rollout_steps=64"], ["--rollout_steps", "ppo"]),
        (["--no-shared-sequences"], ["--no-shared-sequences", "--agent unreal-ppo or unreal"]),
    ],
    ids=lambda value: " ".join(value) if "--" in value[0] else "",
)
def test_what_the_parser_refuses(refused, arguments, words):
    line = refused(gym, *CATCH, *arguments)
    assert all(word in line for word in words), line
    assert "│" not in line


def test_a_choice_without_a_flag(refused):
    assert "error: speed: choose from all, copy," in refused(study, "speed")


def test_the_toy_refuses_as_the_others_do(refused):
    assert refused(toy, "--steps", "0") == "error: total_steps 0 is too small: use 1 or more\n"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_here(refused):
    line = refused(gym, *CATCH, "--device", "cuda")
    assert line == ("error: --device cuda: PyTorch finds no CUDA device on this machine; use cpu\n")


def test_a_preset_of_another_command(refused):
    line = refused(atari, "--preset", "quick")
    assert "choose from default, paper" in line
    assert "python -m experiments.gym --preset quick" in line


@pytest.mark.parametrize(
    ("module", "given"),
    [
        *[(module, ["run"]) for module in (evaluate, export, replay, report, resume)],
        (study, ["copy"]),
        (throughput, []),
        (toy, []),
    ],
)
def test_every_command_refuses_in_one_line(refused, module, given):
    assert "--no-such-flag: there is no such flag" in refused(module, *given, "--no-such-flag")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--gamma", "3"], "error: gamma 3.0 must be in [0, 1]"),
        (["--width", "0"], "width 0 must be at least 1"),
        (["--graph-steps", "0"], "graph_steps 0 must be at least 1"),
        (["--package", "torch"], "torch"),
        (["--replay-steps", "0"], "replay_steps 0 must be at least 1"),
        (["--pixel-control-gamma", "-1"], "pixel_control_gamma -1.0 must be in [0, 1]"),
        (["--least-reward", "0"], "least_reward 0.0 must be above 0"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
@pytest.mark.parametrize("module", [atari, gym])
def test_settings_of_agents_that_make_no_sense(refused, module, arguments, words):
    assert words in refused(module, "--agent", "unreal", *arguments)


def test_run_directories_that_are_none(refused, here):
    (here / "full").mkdir()
    (here / "full" / "thesis.tex").write_text("mine")
    (here / "file").write_text("mine")
    (here / "torn").mkdir()
    (here / "torn" / "run.sqlite3").write_text("mine, and no database")
    (here / "empty").mkdir()
    (here / "empty" / "run.sqlite3").touch()
    for name, words in (
        ("full", ["full is not a run", "another --run-dir"]),
        ("file", ["file is a file", "directory"]),
        ("file/below", ["file/below", "Not a directory", "another"]),
        ("torn", ["torn/run.sqlite3 is not a run"]),
        ("empty", ["empty/run.sqlite3 is not a run"]),
        ("n" * 256, ["File name too long", "another"]),
    ):
        line = refused(gym, *TINY, "--run-dir", name)
        assert all(word in line for word in words), line


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_without_permission(refused, here):
    (here / "locked").mkdir(mode=0o500)
    line = refused(gym, *TINY, "--run-dir", "locked/run")
    assert "locked/run" in line
    assert "Permission denied" in line


def test_a_directory_that_does_not_take_files(refused):
    # Also for root, whom permissions do not stop.
    line = refused(gym, *TINY, "--run-dir", "/proc/pbt/run")
    assert "/proc/pbt" in line
    assert "another" in line


def test_a_run_is_only_resumed_as_it_is(refused, command, here, one_process, train):
    train(gym, *TINY, "--run-dir", "run")
    line = refused(gym, *TINY, "--run-dir", "run", "--env", "MemoryChain", "--seed", "5")
    for words in (
        'task_config.env_id: "Catch" -> "MemoryChain"',
        "seed: 0 -> 5",
        "go on with it: python -m experiments.resume run.",
        "For a new run: --run-dir NEW.",
        "--fork run --run-dir",
    ):
        assert words in line
    assert "population" not in line
    line = refused(gym, *TINY, "--run-dir", "run", "--agent", "ppo")
    assert 'task_config.agent: "a3c" -> "ppo"' in line
    assert re.search(r"; and \d+ more\)", line)
    assert len(line) < 800
    line = refused(gym, *TINY, "--run-dir", "run", "--total-steps", "320")
    assert "total_steps: 640 -> 320" in line
    assert "may grow" in line
    line = refused(gym, *TINY, "--run-dir", "run", "--total-steps", "800", "--population", "3")
    assert "population: 2 -> 3" in line
    line = refused(gym, *TINY, "--run-dir", "run", "--fixed", "learning_rate=1e-3")
    assert "space.dimensions.learning_rate" in line


def test_evaluating_what_is_not_there(refused, command, here, one_process, monkeypatch, train):
    assert "does not exist" in refused(evaluate, "nowhere")
    assert "does not exist" in refused(evaluate, ".")
    train(gym, *TINY, "--run-dir", "run")
    for arguments, words in (
        (["--member", "99"], ["--member 99", "best", "0 to 1"]),
        (["--member", "worst"], ["--member worst", "best", "0 to 1"]),
        (["--member", "-1"], ["--member -1", "0 to 1"]),
        (["--episodes", "0"], ["--episodes 0", "1 or more"]),
        (["--seed", "-1"], ["--seed -1", "0 or more"]),
        (["--deterministic", "--goals"], ["--deterministic --goals", "leave one out"]),
        (["--video", "nowhere/v.mp4"], ["nowhere"]),
        (["--video", "v.gif"], ["v.gif", ".mp4"]),
        (["--video", "v.mp4"], ["Catch cannot be rendered"]),
    ):
        line = refused(evaluate, "run", *arguments)
        assert all(word in line for word in words), line
    for package in ("imageio.v2", "imageio_ffmpeg"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, package, None)  # importing it fails
            line = refused(evaluate, "run", "--video", "v.mp4")
        assert "pip install -c constraints.txt -e '.[video]'" in line


def damage_member_1(train):
    train(gym, *TINY, "--run-dir", "run")
    with store.Store.open("run") as run_store:
        member = run_store.member(1)
    file = Path("run/checkpoints") / member.checkpoint / "agent.safetensors"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(checkpoint.CheckpointError):
        checkpoint.open_verified(Path("run/checkpoints"), member.checkpoint, 1, member.version)


def test_a_damaged_checkpoint_is_named(refused, train):
    damage_member_1(train)
    line = refused(evaluate, "run", "--member", "1")
    assert "agent.safetensors" in line


def test_a_fork_of_a_damaged_checkpoint_leaves_nothing(refused, train):
    damage_member_1(train)
    line = refused(gym, *TINY, "--fork", "run", "--run-dir", "forked", "--seed", "2")
    assert "agent.safetensors" in line


@pytest.mark.parametrize(
    "changed", [("--env", "MemoryChain"), ("--core", "feedforward"), ("--env", "CartPole-v1")]
)
def test_a_fork_of_what_does_not_fit_leaves_nothing(
    refused, command, here, one_process, changed, train
):
    train(gym, *TINY, "--run-dir", "run")
    line = refused(gym, *TINY, "--fork", "run", "--run-dir", "forked", *changed)
    assert "--fork run: its members do not fit this run's" in line
    assert "fork into the same environment, agent, core and package" in line


def test_runs_of_other_learners_are_no_agents(refused, command, here, one_process):
    assert command(toy, "--run-dir", "toy", "--steps", "8").code is None
    other = next(path.parent for path in Path("toy").rglob(store.FILE_NAME))
    line = refused(gym, *TINY, "--fork", other, "--run-dir", "forked")
    assert f"--fork {other} trains experiments.toy:" in line
    assert "only runs of the suite's agents" in refused(evaluate, other)


def test_a_run_whose_report_cannot_be_written_is_complete(command, here, one_process, train):
    train(gym, *TINY, "--run-dir", "run")
    shutil.rmtree("run/report")
    Path("run/report").touch()
    again = command(gym, *TINY, "--run-dir", "run")
    assert again.code == 1
    assert again.err.startswith("error: the run is complete, but not its report (")
    Path("run/report").unlink()
    assert command(gym, *TINY, "--run-dir", "run").code == 0
    assert list(Path("run/report").glob("evaluation-*.json"))


def test_ctrl_c_and_a_reader_that_is_gone_are_no_tracebacks():
    @quietly.quiet
    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as ended:
        interrupted()
    assert ended.value.code == 130
    piped = subprocess.run(
        f"{sys.executable} -m experiments.toy --help | true",
        shell=True,
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert "Traceback" not in piped.stderr


def test_an_environment_that_cannot_be_drawn(refused, command, here, one_process, monkeypatch):
    tiny = ("--env", "CartPole-v1", *TINY[2:])
    assert command(gym, *tiny, "--run-dir", "run").code == 0
    monkeypatch.setitem(sys.modules, "pygame", None)
    line = refused(evaluate, "run", "--member", "0", "--video", "v.mp4")
    assert "cannot be rendered" in line
    assert 'pip install "gymnasium[classic-control]"' in line


def test_the_commands_are_listed_without_what_they_import():
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "experiments"],
        capture_output=True,
        text=True,
        check=True,
        cwd=root,
    )
    listed = re.findall(r"^python -m experiments\.(\w+) +(\S.*\.)$", done.stdout, re.MULTILINE)
    text = (root / "docs" / "architecture.md").read_text()
    (commands,) = re.findall(r"^    commands \(([\w, ]+)\)$", text, re.MULTILINE)
    assert {name for name, _ in listed} == set(commands.split(", "))
    assert not re.search(r"\b(torch|numpy|tyro)$", done.stderr, re.MULTILINE)


@pytest.mark.parametrize(
    ("given", "words"),
    [("gym", "write python -m experiments.gym"), ("gmy", "choose from atari,")],
)
def test_a_command_after_a_space(given, words):
    done = subprocess.run(
        [sys.executable, "-m", "experiments", given],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr
