"""`make_vec` and `describe`: ids, bad input, and nothing left open."""

import re
import sys

import gymnasium
import numpy as np
import psutil
import pytest
from gymnasium import spaces

from envs import atari, ids, make


def test_describe_by_plain_name_and_by_id():
    plain, by_id = make.describe("Pong"), make.describe("ALE/Pong-v5")
    assert plain == by_id
    assert (plain.name, plain.frames_per_step, plain.is_atari) == ("Pong", 4, True)
    assert plain.single_action_space == spaces.Discrete(6)
    assert make.describe("Pong", preset="machado2018").single_action_space == spaces.Discrete(18)
    cartpole = make.describe("CartPole-v1")
    assert (cartpole.name, cartpole.frames_per_step, cartpole.is_atari) == ("CartPole-v1", 1, False)


def test_an_id_carries_arguments_of_the_constructor():
    env_id = "FrozenLake-v1?is_slippery=False&map_name=8x8"
    assert ids.split(env_id) == ("FrozenLake-v1", {"is_slippery": False, "map_name": "8x8"})
    assert ids.split("A-v0?n=3&x=-1e-3&y=0.5&name=x-1.a") == (
        "A-v0",
        {"n": 3, "x": -1e-3, "y": 0.5, "name": "x-1.a"},
    )
    assert ids.join("FrozenLake-v1", ["map_name=8x8", "is_slippery=False"]) == env_id
    assert ids.join("FrozenLake-v1", []) == "FrozenLake-v1"
    assert "with is_slippery=False, map_name=8x8" in make.protocol(env_id)
    envs = make.make_vec(env_id, 2)
    envs.reset(seed=0)
    for t, place in enumerate((1, 2, 3, 4)):  # to the right, without slipping, on a wide lake
        obs, *_ = envs.step(np.full(2, 2))
        assert obs.argmax(-1).tolist() == [place, place], t
    envs.close()
    assert make.describe("RepeatPrevious?symbols=5").single_action_space == spaces.Discrete(5)
    assert make.describe("Doom/Basic?max_tics=40").name == "Doom/Basic?max_tics=40"


@pytest.mark.parametrize(
    ("env_id", "message"),
    [
        ("CartPole-v1?", "'' is no argument such as is_slippery=False"),
        ("CartPole-v1?a=1&a=2", "a is given twice"),
        ("CartPole-v1?a=/etc/passwd", "numbers, True, False, and words"),
        ("CartPole-v1?unknown=1", "CartPole-v1 does not take ['unknown']"),
        ("Pong?a=1", "Pong takes no ['a']"),
        ("RepeatPrevious?delays=3", "give ['answers', 'delay', 'symbols']"),
    ],
)
def test_wrong_arguments_in_an_id(env_id, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make.make_vec(env_id, 1)


def test_channels_of_one_frame():
    class Picture(gymnasium.Env):
        observation_space = spaces.Box(0, 255, (24, 32, 3), np.uint8)
        action_space = spaces.Discrete(2)

        def reset(self, *, seed=None, options=None):
            return np.zeros((24, 32, 3), np.uint8), {}

    gymnasium.register("Picture-v0", Picture)
    try:
        for env_id, channels in (("Pong", 1), ("CartPole-v1", 1), ("Catch", 1), ("Picture-v0", 3)):
            assert make.describe(env_id).frame_channels == channels
    finally:
        gymnasium.registry.pop("Picture-v0")


def test_describe_leaves_nothing_open():
    make.describe("Pong")
    process = psutil.Process()
    before = process.num_threads(), process.num_fds()
    for env_id in ("Pong", "CartPole-v1", "Catch"):
        make.describe(env_id)
    assert (process.num_threads(), process.num_fds()) == before


def test_close_frees_the_emulators_threads():
    process = psutil.Process()
    before = process.num_threads()
    envs = make.make_vec("Pong", 2, num_threads=2)
    envs.reset(seed=0)
    assert process.num_threads() > before
    envs.close()
    assert process.num_threads() == before


@pytest.mark.parametrize(
    ("env_id", "message"),
    [
        ("Pnog", "did you mean Pong"),
        ("pong", "did you mean Pong"),
        ("ms_pacman", "did you mean MsPacman"),
        ("ALE/Pnog-v5", "did you mean Pong"),
        ("ALE/Pong-v4", "did you mean Pong"),
        ("ALE/Nothing-v5", "unknown Atari game 'ALE/Nothing-v5'"),
        ("PongNoFrameskip-v4", "did you mean Pong"),
        ("Combat", "single-player"),
        ("ALE/MazeCraze-v5", "single-player"),
        ("CartPole", "did you mean CartPole-v0 or CartPole-v1"),
        ("CartPole-v7", "did you mean CartPole-v0 or CartPole-v1"),
        ("Cartpol-v1", "CartPole-v1"),
        ("catch", "did you mean Catch"),
        ("memorychain", "did you mean MemoryChain"),
        ("MyWayHome", "did you mean Doom/MyWayHome"),
        ("Doom/MyWayHme", "did you mean Doom/MyWayHome"),
        ("Doom/mywayhome", "did you mean Doom/MyWayHome"),
        ("Doom/", "There are MyWayHome, "),
        ("VizdoomMyWayHome-v0", "did you mean Doom/MyWayHome"),
        ("VizdoomMyWayHome", "did you mean Doom/MyWayHome"),
        ("VizdoomBasic-MultiBinary-v1", "did you mean Doom/Basic"),
        ("Doom/MyWayHome-v1", "did you mean Doom/MyWayHome"),
        ("doom/MyWayHome", "did you mean Doom/MyWayHome"),
        ("Doom/Deathmatch", "There are MyWayHome, "),
        ("Lab/", "no level of DeepMind Lab.*Lab/nav_maze_static_01"),
        ("Lab/nav_maze_static_01.lua", "did you mean Lab/nav_maze_static_01"),
        ("Lab/../secret", "no level of DeepMind Lab"),
        ("Lab//tmp", "no level of DeepMind Lab"),
        ("Lab/two words", "no level of DeepMind Lab"),
        ("", "unknown environment ''"),
        ("no_such_module:Thing-v0", "no module named 'no_such_module'"),
        (":Thing-v0", "cannot be imported"),
        ("json:Thing-v0", "Importing json registers no Thing-v0: give an id that it registers"),
    ],
)
def test_unknown_ids_are_refused_in_one_line(env_id, message):
    for build in (make.describe, lambda env_id: make.make_vec(env_id, 2)):
        with pytest.raises(ValueError, match=message) as caught:
            build(env_id)
        assert "\n" not in str(caught.value)


def test_old_ids_do_not_hide_gymnasiums_own():
    """`Blackjack` is an Atari game, `Blackjack-v1` a card game of Gymnasium's."""
    assert atari.find_game("Blackjack") == "Blackjack"
    assert atari.find_game("Blackjack-v1") is None


def test_a_missing_package_is_named_with_its_pip_line():
    def create(**keywords):
        raise gymnasium.error.DependencyNotInstalled('Thing is missing, run `pip install "x[y]"`')

    gymnasium.register("Missing-v0", entry_point=create)
    try:
        with pytest.raises(ValueError, match=r"Missing-v0 .* run `pip install") as caught:
            make.describe("Missing-v0")
        assert "\n" not in str(caught.value)
    finally:
        gymnasium.registry.pop("Missing-v0")


@pytest.mark.parametrize(
    ("arguments", "keywords", "message"),
    [
        (("Pong", 0), {}, "num_envs is 0"),
        (("Catch", -2), {}, "num_envs is -2"),
        (("Pong", 2), {"num_threads": 0}, "num_threads is 0"),
        (("Pong", 2), {"preset": "dqn"}, "unknown Atari preset 'dqn'.*a3c2016.*machado2018"),
        (("Pong", 2), {"episodic_life": True}, "episodic_life"),
        (("CartPole-v1", 2), {"gravitee": 1}, "gravitee"),
        (("Doom/Basic", 2), {"max_tics": 0}, "max_tics is 0: an agent step is 4"),
        (("Doom/Basic", 2), {"max_tics": -4}, "max_tics is -4"),
        (("Doom/Basic", 2), {"max_tics": 42}, "max_tics is 42"),
        (("Doom/Basic", 2), {"tics": 8}, r"Doom/Basic does not take \['tics'\]: .*'max_tics'"),
        (("Doom/Basic", 2), {"level": "Basic"}, "does not take"),
        (("Lab/a", 2), {"renderer": "fast"}, "'fast': give one of software, hardware"),
        (("Lab/a", 2), {"fps": 30}, r"does not take \['fps'\]: give \['renderer'\]"),
        (("MemoryChain", 2), {"length": 0}, "at least 1"),
        (("MemoryChain", 2), {"lenght": 3}, "does not take .*lenght.* give .*length"),
        (("RepeatPrevious", 2), {"symbols": 1}, "at least 2 symbols"),
        (("Catch", 2), {"rows": 1}, "at least 2 rows"),
        (("Counter", 2), {"x": 1}, "nothing"),
    ],
)
def test_bad_settings_are_refused(arguments, keywords, message):
    with pytest.raises(ValueError, match=message):
        make.make_vec(*arguments, **keywords)
    if "num_" not in message:
        with pytest.raises(ValueError, match=message):
            make.describe(arguments[0], **keywords)


@pytest.mark.parametrize(
    ("package", "env_id", "message"),
    [
        ("vizdoom", "Doom/Basic", r"pip install -c constraints.txt -e '\.\[vizdoom\]'"),
        ("deepmind_lab", "Lab/a", "from source with bazel .https://github.com/google-deepmind/lab"),
    ],
)
def test_without_the_package_it_says_how_to_get_it(monkeypatch, package, env_id, message):
    monkeypatch.setitem(sys.modules, package, None)  # importing it fails
    for build in (make.describe, lambda env_id: make.make_vec(env_id, 2)):
        with pytest.raises(ValueError, match=message) as caught:
            build(env_id)
        assert "\n" not in str(caught.value)
