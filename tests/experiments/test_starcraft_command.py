"""`python -m experiments.starcraft`: its messages, and what must be there before it begins."""

import dataclasses
import functools
import re

import pytest

import starcraft_stand_in
from agents import spatial
from envs import make, starcraft, starcraft_import
from experiments import presets
from experiments import starcraft as starcraft_command
from experiments.members import learner
from experiments.studies import defaults


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
