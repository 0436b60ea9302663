"""`python -m experiments.starcraft`: its messages, what it needs, and a run from end to end."""

import dataclasses
import functools
import json
import re

import pytest

import experiments
import starcraft_stand_in
from agents import spatial
from envs import make, starcraft, starcraft_import
from experiments import evaluate, export, presets, replay, report, resume
from experiments import starcraft as starcraft_command
from experiments.members import episodes, learner, policy
from experiments.pages import run_report
from experiments.studies import defaults
from pbt import store

WRITE_REPORT = run_report.write_report


@pytest.fixture
def refused(refused):
    return functools.partial(refused, starcraft_command)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--map", "MoveToBecon"), "did you mean MoveToBeacon?"),
        (("--map", "collectmineralshards"), "did you mean CollectMineralShards"),
        (("--map", "StarCraft/Beacon"), "did you mean MoveToBeacon?"),
        (("--map", "Pong"), "There are MoveToBeacon, CollectMineralShards, FindAndDefeatZerglings"),
        (("--resolution", "7"), "--resolution 7: use 8 to 256"),
        (("--resolution", "1000"), "--resolution 1000: use 8 to 256"),
        (("--reward-scale", "0"), "--reward-scale 0.0: use a number above 0"),
        (("--preset", "quick"), "--preset quick: choose from default, paper"),
        (("--num-envs", "0"), "--num-envs 0"),
    ],
)
def test_settings(refused, arguments, words):
    assert words in refused(*arguments)


def test_what_is_not_installed(refused, monkeypatch, tmp_path):
    monkeypatch.setattr(starcraft_import, "missing", lambda: ["pysc2"])
    assert "pip install -c constraints.txt -e '.[starcraft]'" in refused()
    monkeypatch.setattr(starcraft_import, "missing", list)
    monkeypatch.setenv("SC2PATH", str(tmp_path / "nowhere"))
    line = refused("--preset", "paper")
    for words in (
        f"StarCraft II is not installed: SC2PATH is {tmp_path / 'nowhere'}",
        "https://github.com/Blizzard/s2client-proto#downloads",
        "you agree to Blizzard's AI and Machine Learning License",
        "mini_games.zip",
    ):
        assert words in line
    starcraft_stand_in.install(tmp_path / "game")
    monkeypatch.setenv("SC2PATH", str(tmp_path / "game"))
    assert "the map DefeatRoaches is not installed" in refused("--map", "DefeatRoaches")


def test_help_lists_the_mini_games(command, here):
    result = command(starcraft_command, "--help")
    assert result.code == 0
    assert len(starcraft.MINI_GAMES) == 7
    for one in starcraft.MINI_GAMES.values():
        assert re.search(rf"{one.name} +{re.escape(one.description)}", result.out)


def test_a_mini_game_by_any_of_its_names():
    for name in ("DefeatRoaches", "StarCraft/DefeatRoaches"):
        assert presets.find_mini_game(name, 64) == starcraft.MINI_GAMES["DefeatRoaches"]
    small = presets.find_mini_game("DefeatRoaches", 32)
    assert small.env_id == "StarCraft/DefeatRoaches-32"


def test_members_play_what_the_flags_say():
    settings = presets.STARCRAFT["paper"]["a3c"]
    config = settings.learner_config()
    assert (config.env_id, config.clip_rewards, config.reward_scale) == (
        "StarCraft/MoveToBeacon",
        False,
        1.0,
    )
    assert presets.STARCRAFT["default"]["a3c"].name() == "StarCraft/MoveToBeacon-32"


@pytest.fixture
def installed(monkeypatch, tmp_path):
    starcraft_stand_in.install(tmp_path / "game")
    monkeypatch.setenv("SC2PATH", str(tmp_path / "game"))
    monkeypatch.setattr(starcraft_import, "missing", list)


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("agent", ["a3c", "ppo"])
def test_agents_point_at_the_screen_by_default(agent):
    config = dataclasses.replace(presets.STARCRAFT["default"][agent], resolution=16)
    spec = make.describe("StarCraft/MoveToBeacon-16")
    network = learner.make_agent(config.learner_config(), spec, 0).network
    assert isinstance(network, spatial.SpatialActorCritic)
    assert network.torso.channels == 32 + 32 + spatial.EMBEDDING
    assert network.policy.places.out_channels == 3, "screen, minimap and screen2"
    assert network.core.input_size == 256 + 24 + 2 + 4 + 2 + 4 + 5 + 10 + 1


@pytest.mark.usefixtures("installed")
def test_studies_know_the_mini_games():
    settings = defaults.defaults("StarCraft/CollectMineralShards-16", "ppo")
    assert (settings.map, settings.resolution, settings.agent) == (
        "CollectMineralShards",
        16,
        "ppo",
    )


@pytest.mark.usefixtures("installed")
def test_no_more_games_are_played_at_once_than_in_training():
    config = presets.STARCRAFT["default"]["a3c"].learner_config()
    assert config.num_envs == 8
    assert episodes._shares(config, 30) == (8, 4)
    assert episodes._shares(dataclasses.replace(config, env_id="Catch"), 30) == (30, 1)


@pytest.mark.skipif(bool(starcraft_import.missing()), reason="the extra starcraft is not installed")
def test_a_population_is_trained_resumed_scored_replayed_and_exported(
    command, here, one_process, monkeypatch, tmp_path, started
):
    starcraft_stand_in.install(tmp_path / "game", seconds=2)  # 4 agent steps an episode
    monkeypatch.setenv("SC2PATH", str(tmp_path / "game"))
    trained = command(
        starcraft_command,
        *("--resolution", "8", "--population", "2", "--workers", "1", "--num-envs", "1"),
        *("--total-steps", "60", "--report-interval", "60", "--ready-interval", "60"),
        *("--run-dir", "run"),
    )
    assert trained.code == 0, trained
    assert "30 episodes in each of 1 environment; raw" in trained.out
    resumed = command(resume, "run", "--total-steps", "80", "--workers", "1")
    assert resumed.code == 0, resumed
    replayed = command(
        replay, "run", "--total-steps", "20", "--workers", "1", "--run-dir", "replayed"
    )
    assert replayed.code == 0, replayed
    for run_dir, steps in (("run", [80, 80]), ("replayed", [20])):
        with store.Store.open(run_dir) as run_store:
            assert [member.agent_steps for member in run_store.members()] == steps

    scored = command(evaluate, "run", "--member", "0", "--episodes", "2")
    assert scored.code is None, scored
    assert "2 episodes in each of 1 environment" in scored.out
    monkeypatch.setattr(run_report, "write_report", WRITE_REPORT)
    reported = command(report, "run")
    assert reported.code is None, reported
    assert "StarCraft/MoveToBeacon-8" in (here / "run/report/index.html").read_text()

    exported = command(export, "run", "--to", "torch", "--member", "0")
    assert exported.code is None, exported
    out = here / "run/export/policy"
    assert not (out / "environment.py").exists()
    described = json.loads((out / "policy.json").read_text())
    keys = ["available_actions", "minimap", "player", "screen"]
    assert [part["key"] for part in described["observation"]] == keys
    member, alone = experiments.load_agent("run", 0, seed=7), policy.load(out, seed=8)
    assert isinstance(member.agent.network, spatial.SpatialActorCritic)
    env = member.make_env()
    obs, info = env.reset(seed=0)
    reward, done = 0.0, False
    while not done:
        action = member.act(obs, reward, action_mask=info["action_mask"])
        its = alone.act(obs, reward, action_mask=info["action_mask"])
        assert action.tolist() == its.tolist()
        obs, reward, terminated, truncated, info = env.step(action)
        done = terminated or truncated
    env.close()
    assert started() == []
