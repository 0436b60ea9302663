"""StarCraft II through PySC2, against a stand-in that speaks the game's protocol."""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from gymnasium.vector import AutoresetMode

import starcraft_players
import starcraft_stand_in
from envs import make, scratch, starcraft, starcraft_game, starcraft_import, starcraft_interface

pytestmark = pytest.mark.skipif(
    bool(starcraft_import.missing()), reason="the extra starcraft is not installed"
)
ROOT = Path(__file__).parents[2]
BEACON, SHARDS = "StarCraft/MoveToBeacon-16", "StarCraft/CollectMineralShards-16"


def action(name, **arguments):
    return starcraft_interface.action(name, 16, **arguments)


def both(name, **arguments):
    """Return the same action for two slots."""
    return np.stack([action(name, **arguments)] * 2)


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Return a function that installs the stand-in, with settings of its maps."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))

    def install(**settings):
        game = tmp_path / "it's the game"
        starcraft_stand_in.install(game, **settings)
        monkeypatch.setenv("SC2PATH", str(game))
        return game

    yield install
    assert list(temporary.iterdir()) == []


def wait_until_gone(processes, seconds=30.0):
    gone, left = psutil.wait_procs(processes, timeout=seconds)
    assert left == []
    assert len(gone) == len(processes)


# What PySC2 needs.


def test_importing_leaves_nothing_changed():
    shuffle = random.shuffle
    pysc2 = starcraft_import.pysc2()
    assert pysc2 is starcraft_import.pysc2()
    assert random.shuffle is shuffle
    assert not [one for one in sys.meta_path if type(one).__module__ == starcraft_import.__name__]
    assert "pysc2.lib.renderer_human" not in sys.modules
    assert "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION" not in os.environ


def test_shuffling_as_of_old():
    items = [1, 2, 3, 4]
    starcraft_import._shuffle(items, lambda: 0.0)  # the last changes places with the first
    assert items == [2, 3, 4, 1]
    starcraft_import._shuffle(items)
    assert sorted(items) == [1, 2, 3, 4]


SLOW_PARSER = """
import sys
from google.protobuf import text_format
from google.protobuf.internal import api_implementation
from s2clientprotocol import sc2api_pb2
assert api_implementation.Type() == "python"
response = sc2api_pb2.Response.FromString(sys.stdin.buffer.read())
sys.stdout.write(text_format.MessageToString(response))
"""


def test_the_fast_parser_reads_what_the_generated_modules_read():
    from google.protobuf import text_format
    from google.protobuf.internal import api_implementation

    assert api_implementation.Type() == "upb"
    response = joined_game()[1](observation={})
    slow = subprocess.run(
        [sys.executable, "-c", SLOW_PARSER],
        input=response.SerializeToString(),
        env={**os.environ, "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "python"},
        capture_output=True,
        timeout=120,
        check=True,
    )
    assert slow.stdout.decode() == text_format.MessageToString(response)
    assert "player_relative" in slow.stdout.decode()


# Observations and actions.


def test_functions_arguments_and_unit_types_are_pysc2s():
    from pysc2.lib import units

    library = starcraft_import.pysc2().actions
    for name, arguments in starcraft_interface.FUNCTIONS.items():
        function = getattr(library.FUNCTIONS, name)
        assert tuple(argument.name for argument in function.args) == arguments
    for name, size in starcraft_interface.ARGUMENTS.items():
        sizes = getattr(library.TYPES, name).sizes
        assert sizes == ((size,) if size else (0, 0))
    for row, arguments in zip(
        starcraft_interface.USED, starcraft_interface.FUNCTIONS.values(), strict=True
    ):
        pairs = zip(starcraft_interface.ARGUMENTS, row, strict=True)
        assert {name for name, is_used in pairs if is_used} == set(arguments)
    known = {kind.name: kind.value for kind in (*units.Terran, *units.Zerg, *units.Neutral)}
    for name, value in starcraft_interface.UNIT_TYPES.items():
        assert known[name] == value


def test_planes_of_a_number_and_of_a_category():
    number = starcraft_interface.Layer("unit_density", scale=15)
    assert number.planes(np.array([[0, 3, 15, 16]])).tolist() == [[[0, 51, 255, 255]]]
    category = starcraft_interface.Layer("player_relative", (1, 3))
    planes = category.planes(np.array([[0, 1, 2, 3]]))
    assert planes.tolist() == [[[0, 255, 0, 0]], [[0, 0, 0, 255]]]
    assert planes.dtype == np.uint8


def test_a_place_is_one_number_by_rows():
    chosen = action("Move_screen", queued=1, screen=(5, 7))
    chosen[[2, 3, 5]] = 3  # arguments of other functions
    call = starcraft_interface.pysc2_call(chosen, 16)
    assert call.function == starcraft_import.pysc2().actions.FUNCTIONS.Move_screen.id
    assert call.arguments == [[1], [5, 7]]


# Ids, and what is missing.


def test_ids():
    assert starcraft.find_mini_game("Pong") is None
    assert starcraft.find_mini_game("StarCraft/BuildMarines").resolution == 64
    for env_id in ("StarCraft/MoveToBeacon", BEACON):
        assert starcraft.find_mini_game(env_id).env_id == env_id
    assert starcraft.find_mini_game("StarCraft/MoveToBeacon-64").env_id == "StarCraft/MoveToBeacon"
    for env_id, words in (
        ("StarCraft/movetobeacon", "did you mean StarCraft/MoveToBeacon"),
        ("StarCraft/", "There are MoveToBeacon, CollectMineralShards"),
        ("StarCraft/MoveToBeacon-7", "from 8 to 256"),
        ("StarCraft/MoveToBeacon-1000", "from 8 to 256"),
        ("StarCraft/MoveToBeacon-", "StarCraft/MoveToBeacon-32"),
        ("StarCraft/MoveToBeacon-32x32", "StarCraft/MoveToBeacon-32"),
    ):
        with pytest.raises(ValueError, match=words):
            make.describe(env_id)


def test_a_description_starts_no_game(stand_in, started):
    stand_in()
    spec = make.describe(BEACON)
    assert (spec.name, spec.frames_per_step, spec.is_atari) == (BEACON, 8, False)
    assert make.protocol(BEACON).startswith(f"{BEACON}: screen and minimap of 16 x 16")
    envs = make.make_vec(BEACON, 2)
    assert envs.single_observation_space == spec.single_observation_space
    assert envs.single_action_space == spec.single_action_space
    assert envs.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP
    sizes = envs.single_action_space.nvec
    assert envs.single_action_space.used.shape == (sizes[0], len(sizes) - 1)
    with pytest.raises(ValueError, match=r"does not take \['speed'\]"):
        make.make_vec(BEACON, 2, speed=3)
    assert started() == []
    envs.close()


def test_what_is_missing_is_named_with_the_way_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv("SC2PATH", str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match=r"SC2PATH is .*nowhere.*s2client-proto.*License.*Maps"):
        make.describe(BEACON)
    monkeypatch.delenv("SC2PATH")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ValueError, match=rf"not set, and the default is {tmp_path}/StarCraftII,"):
        make.describe(BEACON)
    starcraft_stand_in.install(tmp_path / "StarCraftII")
    make.describe(BEACON)
    with pytest.raises(ValueError, match=r"the map BuildMarines is not installed.*mini_games\.zip"):
        make.describe("StarCraft/BuildMarines")
    monkeypatch.setitem(sys.modules, "websocket", None)
    with pytest.raises(ValueError, match=r"websocket cannot be imported.*\.\[starcraft\]"):
        make.describe(BEACON)


# Playing.


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """Return two games of MoveToBeacon, 40 agent steps an episode, for all tests that may share."""
    path = tmp_path_factory.mktemp("game")
    starcraft_stand_in.install(path, seconds=20)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SC2PATH", str(path))
        envs = make.make_vec(BEACON, 2)
        yield envs
        envs.close()


def test_launch_observe_act_end_and_restart(shared, started):
    obs, info = shared.reset(seed=0)
    running = started()
    assert len(running) == 2
    assert obs in shared.observation_space
    functions = list(starcraft_interface.FUNCTIONS)
    first = info["action_mask"]
    assert first.shape == (2, shared.single_action_space.nvec.sum())
    assert first[:, len(functions) :].all()
    always = [name for at, name in enumerate(functions) if first[0, at]]
    assert always == [*functions[:5], "select_army"]
    ends = 0
    for t in range(1, 42):
        name = "select_army" if t in (1, 41) else "Move_screen"
        before = obs
        obs, reward, terminated, truncated, info = shared.step(both(name, screen=(t % 16, 8)))
        assert obs in shared.observation_space
        assert (reward.shape, reward.dtype) == ((2,), np.float64)
        assert not terminated.any()
        assert truncated.tolist() == [t == 40] * 2
        for name in ("lost", "refused", "life_lost"):
            assert not info[name].any()
        if t == 40:
            ends += 1
            last = info["final_obs"]
            assert np.array_equal(info["action_mask"], first)  # nothing is selected any more
            assert (last["available_actions"] == before["available_actions"]).all()
            assert not np.array_equal(last["screen"], obs["screen"])
        else:
            assert info["final_obs"] is None
            assert info["action_mask"][0, functions.index("Move_screen")]
        assert np.array_equal(info["action_mask"][:, : len(functions)], obs["available_actions"])
    assert ends == 1
    assert started() == running  # the same processes: a fast restart


def test_seeds_decide_the_stream_and_slots_do_not_mix(shared):
    def play(seed):
        obs, _ = shared.reset(seed=seed)
        stream = [obs["screen"]]
        for t in range(41):
            moving = "select_army" if t in (0, 40) else "Move_screen"
            obs, *_ = shared.step(both(moving, screen=(3 * t % 16, 4)))
            stream.append(obs["screen"])
        return np.stack(stream)  # [T, B, C, H, W]

    one, again = play(7), play([8, 7])
    assert np.array_equal(one[:, 0], again[:, 1])
    assert np.array_equal(one[:, 1], again[:, 0])  # an int counts up from slot 0
    assert not np.array_equal(one[:, 0], one[:, 1])


def test_returned_arrays_belong_to_the_caller(shared):
    obs, info = shared.reset()
    kept = {name: part.copy() for name, part in obs.items()}
    mask = info["action_mask"].copy()
    for part in (*obs.values(), info["action_mask"]):
        part[:] = 0
    obs, _, _, _, info = shared.step(both("no_op"))
    assert np.array_equal(obs["screen"], kept["screen"])  # nothing is ordered, nothing moves
    assert np.array_equal(info["action_mask"], mask)


def test_what_is_no_action_or_unavailable_is_refused_before_any_game_acts(shared):
    shared.reset(seed=1)
    shared.step(both("select_army"))
    good = both("Move_screen", screen=(0, 0))
    for wrong in (good[:1], good[:, :-1], good - 1, good.astype(float), good + 1000):
        with pytest.raises(ValueError, match="are not integers of shape"):
            shared.step(wrong)
    with pytest.raises(ValueError, match=r"Train_SCV_quick is unavailable in slot 1.*Move_screen"):
        shared.step(np.stack([good[0], action("Train_SCV_quick")]))
    with pytest.raises(ValueError, match="no reset options"):
        shared.reset(options={"map": 1})
    with pytest.raises(ValueError, match="2 environments"):
        shared.reset(seed=[1, 2, 3])
    obs, *_ = shared.step(both("no_op"))
    marines = [starcraft_players.seen(row(obs, slot), "selected", 1) for slot in (0, 1)]
    assert all(len(pixels) for pixels in marines)


def row(obs, slot):
    return {name: part[slot] for name, part in obs.items()}


def test_orders_that_the_game_refuses_are_counted(shared):
    shared.reset(seed=2)
    shared.step(both("select_army"))
    refused = [
        shared.step(both("Move_screen", queued=1, screen=(15 * (t % 2), 8)))[4]["refused"].tolist()
        for t in range(38)
    ]
    assert [0, 0] in refused
    assert [1, 1] in refused  # the queue is full


def test_observations_and_rewards_are_pysc2s(stand_in):
    """Play the same episode through PySC2 alone."""
    stand_in(seconds=30)
    envs = make.make_vec(SHARDS, 1)
    obs, info = envs.reset(seed=5)
    seed = int(np.random.default_rng(5).integers(2**32))
    alone = starcraft_game.launch("CollectMineralShards", 16, seed)
    (timestep,) = alone.reset()
    rng = np.random.default_rng(0)
    total = 0.0
    for _ in range(60):
        chosen = starcraft_players.by_rule(row(obs, 0), info["action_mask"][0], rng)
        obs, reward, _, truncated, info = envs.step(chosen[None])
        (timestep,) = alone.step([starcraft_interface.pysc2_call(chosen, 16)])
        assert reward[0] == timestep.reward
        total += reward[0]
        expected = timestep.observation["feature_screen"]["player_relative"]
        last = info["final_obs"] if truncated[0] else obs
        for owner in (1, 3):
            pixels = np.zeros((16, 16), dtype=bool)
            found = starcraft_players.seen(row(last, 0), "player_relative", owner)
            pixels[found[:, 1], found[:, 0]] = True
            assert np.array_equal(pixels, np.asarray(expected) == owner)
        assert truncated[0] == timestep.last()
        numbers = np.expm1(last["player"][0]).round().astype(int)
        assert np.array_equal(numbers, np.asarray(timestep.observation["player"]))
    assert total > 0
    assert truncated[0]
    envs.close()
    starcraft_game.close(alone)


@pytest.mark.parametrize(("limit_s", "is_lost"), [(10, True), (3, False), (None, False)])
def test_an_early_end_is_a_termination_where_a_map_can_be_lost(stand_in, limit_s, is_lost):
    stand_in(seconds=3)
    mini_game = starcraft.MiniGame("MoveToBeacon", "", limit_s, resolution=8)
    envs = starcraft.StarCraftVectorEnv(mini_game, 1)
    envs.reset(seed=0)
    for _ in range(6):
        _, _, terminated, truncated, _ = envs.step(starcraft_interface.action("no_op", 8)[None])
    assert (terminated[0], truncated[0]) == (is_lost, not is_lost)
    envs.close()


# Processes and files.


def test_a_game_that_crashes_is_replaced(stand_in, started, caplog):
    game = stand_in(seconds=10, crash_at_loop=30)
    envs = make.make_vec(BEACON, 2)
    obs, _ = envs.reset(seed=3)
    running = started()
    for t in range(1, 5):
        seen = obs
        obs, reward, terminated, truncated, info = envs.step(both("select_army"))
        assert truncated.any() == (t == 4)  # loop 30 is in the fourth step
    assert sorted(info["lost"]) == [False, True]  # one process fails
    slot = int(np.flatnonzero(info["lost"])[0])
    assert not terminated.any()
    assert reward[slot] == 0
    assert envs.lost_episodes == 1
    assert np.array_equal(info["final_obs"]["screen"][slot], seen["screen"][slot])
    assert not np.array_equal(obs["screen"][slot], seen["screen"][slot])
    assert "a new process replaces it" in caplog.text
    assert len(started()) == 2
    assert len(set(started()) - set(running)) == 1
    for _ in range(16):
        _, _, _, truncated, info = envs.step(both("no_op"))
    assert truncated[1 - slot]
    assert [file.name for file in game.glob("failed-*")] == ["failed-0"]
    running = started()
    envs.close()
    wait_until_gone(running)


def test_a_game_that_keeps_crashing_is_given_up(stand_in, started):
    stand_in(crash_at_loop=8, failures=99)
    envs = make.make_vec(BEACON, 2)
    envs.reset(seed=3)
    for _ in range(starcraft.MAX_LOSSES):
        _, _, _, truncated, info = envs.step(both("no_op"))
        assert info["lost"].all()
        assert truncated.all()
    running = started()
    with pytest.raises(RuntimeError, match=r"failed in slot \d .*for the 4th time"):
        envs.step(both("no_op"))
    wait_until_gone(running)
    with pytest.raises(RuntimeError, match="reset"):
        envs.step(both("no_op"))
    envs.close()


def test_a_game_that_hangs_is_replaced(stand_in, started, monkeypatch):
    monkeypatch.setattr(starcraft_game, "TIMEOUT_S", 8)
    stand_in(hang_at_loop=8)
    envs = make.make_vec(BEACON, 1)
    envs.reset(seed=3)
    running = started()
    _, _, _, truncated, info = envs.step(action("no_op")[None])
    assert (truncated[0], info["lost"][0]) == (True, True)
    wait_until_gone(running)
    envs.close()


def test_a_map_that_the_game_refuses(stand_in, started):
    game = stand_in()
    (game / "Maps" / "mini_games" / "MoveToBeacon.SC2Map").write_text("no map")
    envs = make.make_vec(BEACON, 1)
    with pytest.raises(RuntimeError, match="InvalidMapData"):
        envs.reset(seed=0)
    assert started() == []
    envs.close()


def test_a_process_that_has_played_long_is_replaced(stand_in, started, monkeypatch, capfd):
    monkeypatch.setattr(starcraft_game, "MAX_GAME_LOOPS", 64)
    stand_in(seconds=2)
    envs = make.make_vec(BEACON, 1)
    envs.reset(seed=0)
    seen = []
    for _ in range(3 * 4):
        envs.step(action("no_op")[None])
        seen.append(started()[0].pid)
    assert len(set(seen)) == 2  # two episodes of 32 loops, then a new one
    running = started()
    del envs
    wait_until_gone(running)
    assert capfd.readouterr().out == ""


OWNER = """
import numpy as np
from envs import make
envs = make.make_vec("StarCraft/MoveToBeacon-16", 2)
envs.reset(seed=0)
print("ready", flush=True)
envs.step(np.zeros(envs.action_space.shape, dtype=np.int64))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's help is Linux's")
def test_games_die_with_a_killed_owner_and_the_next_one_clears_their_files_away(stand_in, started):
    game = stand_in(hang_at_loop=8, failures=2)
    temporary = tempfile.gettempdir()
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER],
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": temporary, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert owner.stdout.readline() == "ready\n"
    running = started(owner.pid)
    assert len(running) == 2
    # Both hang, so that they cannot see that their owner is gone.
    deadline = time.monotonic() + 60
    while len(list(game.glob("failed-*"))) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    left = list(Path(temporary).iterdir())
    assert len(left) == 2
    owner.send_signal(signal.SIGKILL)
    owner.communicate()
    wait_until_gone(running)
    scratch.clear_stale(starcraft_game.PREFIX)
    assert sorted(Path(temporary).iterdir()) == sorted(left)  # too young
    for directory in left:
        os.utime(directory, (0, 0))
    scratch.clear_stale(starcraft_game.PREFIX)
    assert list(Path(temporary).iterdir()) == []


# The stand-in itself.


def joined_game(**settings):
    """Return a game of the stand-in in this process, and a function that asks it."""
    with starcraft_import.fast_protocol():
        from s2clientprotocol import error_pb2, sc2api_pb2
    game = starcraft_stand_in.Game(sc2api_pb2, tempfile.gettempdir())
    game.results = error_pb2.ActionResult

    def ask(**request):
        response = sc2api_pb2.Response()
        game.answer(sc2api_pb2.Request(**request), response)
        return response

    data = json.dumps({"map": "MoveToBeacon", "seconds": 120, **settings}).encode()
    ask(create_game={"local_map": {"map_data": data}, "random_seed": 1})
    size = {"x": 16, "y": 16}
    layers = {"width": 24, "resolution": size, "minimap_resolution": size}
    ask(join_game={"race": 1, "options": {"feature_layer": layers}})
    return game, ask


def test_the_rules_of_the_beacon():
    world = joined_game()[0].world
    distances = []
    (marine,) = world.marines
    world.select(world.marines, False)
    for _ in range(30):
        (target,) = world.targets
        score = world.score
        world.command(starcraft_stand_in.MOVE, target, False)
        start, loop = (marine.x, marine.y), world.loop
        while world.score == score:
            world.step()
        walked = np.linalg.norm(np.subtract((marine.x, marine.y), start))
        assert walked == pytest.approx((world.loop - loop) * 2.25 / 16)
        assert np.linalg.norm(np.subtract((marine.x, marine.y), target)) <= 1.5
        (new,) = world.targets
        distances.append(np.linalg.norm(np.subtract(new, (marine.x, marine.y))))
    assert world.score == 30
    assert min(distances) >= 5
    assert max(distances) > 10


def test_the_rules_of_the_shards():
    world = joined_game(map="CollectMineralShards")[0].world
    assert (len(world.marines), len(world.targets)) == (2, 20)
    one, other = world.marines
    world.select([one], False)
    world.command(starcraft_stand_in.MOVE, (other.x, other.y), False)
    world.targets = [(one.x, one.y)]
    stood = (other.x, other.y)
    world.step()
    assert (world.score, len(world.targets)) == (1, 20)
    assert (other.x, other.y) == stood
    for target in world.targets:
        for marine in world.marines:
            assert np.linalg.norm(np.subtract(target, (marine.x, marine.y))) >= 2


def test_the_scripted_player_is_far_above_the_random_one(stand_in):
    stand_in(seconds=30)
    found = starcraft_players.reference("MoveToBeacon", episodes=2)
    assert np.mean(found["by_rule"]) > 4
    assert np.mean(found["at_random"]) < 2
    found = starcraft_players.reference("CollectMineralShards", episodes=2)
    assert np.mean(found["by_rule"]) > 2 * np.mean(found["at_random"])


@pytest.mark.slow
def test_the_scripted_player_scores_what_published_agents_score(stand_in):
    """26 or 27 for walking to the beacon (Vinyals et al. 2017, table 1, recalled)."""
    stand_in()
    found = starcraft_players.reference("MoveToBeacon", episodes=8)
    assert 23 < np.mean(found["by_rule"]) < 28


def test_a_program_that_never_listens_is_given_up(stand_in, started, monkeypatch):
    monkeypatch.setattr(starcraft_game, "TIMEOUT_S", 2)
    monkeypatch.setattr(starcraft, "MAX_LOSSES", 0)
    game = stand_in()
    program = game / "Versions" / "Base98310" / "SC2_x64"
    program.write_text("#!/bin/sh\nexec sleep 600\n")
    envs = make.make_vec(BEACON, 1)
    with pytest.raises(RuntimeError, match="Failed to connect"):
        envs.reset(seed=0)
    assert started() == []
    envs.close()
