"""ViZDoom's levels: frames, rewards, and the processes behind them."""

import fcntl
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import psutil
import pytest

from envs import doom, doom_engine, make
from experiments import presets

vizdoom = pytest.importorskip("vizdoom", reason="the extra vizdoom is not installed")

ROOT = Path(__file__).parents[2]


@pytest.fixture
def engines(started):
    """Find the engines of a process, by default this one, except those of earlier tests."""
    return lambda owner=None: [child for child in started(owner) if child.name() == "vizdoom"]


def wait_until_gone(processes, seconds=30.0):
    """Return when all have ended, whether reaped or not; fail at the deadline."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        left = []
        for process in processes:
            try:
                if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                    left.append(process)
            except psutil.NoSuchProcess:
                pass
        if not left:
            return
        time.sleep(0.02)
    raise AssertionError(f"still there after {seconds} s: {left}")


@pytest.fixture
def alone(tmp_path, monkeypatch):
    """Use an empty working directory and an empty temporary one; both must stay empty."""
    working, temporary = tmp_path / "it's here", tmp_path / "it's temporary"
    working.mkdir()
    temporary.mkdir()
    monkeypatch.chdir(working)
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    yield
    assert list(working.iterdir()) == []
    assert list(temporary.iterdir()) == []


# Ids.


def test_a_level_by_its_id_and_by_vizdooms_own():
    spec = make.describe("Doom/MyWayHome")
    assert spec == make.describe("VizdoomMyWayHome-v1")
    assert (spec.name, spec.frames_per_step, spec.frame_channels) == ("Doom/MyWayHome", 4, 3)
    assert not spec.is_atari
    assert make.describe("Doom/HealthGathering").reward_scale == 0.01
    assert make.protocol("VizdoomBasic-v1").startswith("Doom/Basic: 84 x 84 RGB")


# Frames and rewards.

SILENCE = {  # rewards of one step of waiting, from the scenarios' files
    "MyWayHome": -0.0004,
    "HealthGathering": 4.0,
    "HealthGatheringSupreme": 4.0,
    "TakeCover": 4.0,
    "DefendCenter": 0.0,
    "DefendLine": 0.0,
    "PredictPosition": -0.004,
    "Basic": -4.0,
}


@pytest.mark.parametrize("level", doom.LEVELS.values(), ids=lambda level: level.name)
def test_every_level_plays(level):
    assert level.actions[0] == ()  # waiting
    assert len(set(level.actions)) == len(level.actions)
    assert level.max_tics % 4 == 0
    envs = make.make_vec(f"Doom/{level.name}", 1)
    assert envs.single_action_space.n == len(level.actions)
    first, _ = envs.reset(seed=0)
    assert len(np.unique(first)) > 20  # a picture
    _, reward, terminated, truncated, _ = envs.step(np.zeros(1, dtype=np.int64))
    if level.name in SILENCE:
        assert reward[0] == pytest.approx(SILENCE[level.name], rel=1e-9)
    auxiliary = presets.LAB["default"]["unreal"].auxiliary
    assert abs(reward[0]) * level.reward_scale < auxiliary.least_reward, "living is no event"
    for action in range(1, len(level.actions)):
        if not terminated[0]:
            _, _, terminated, truncated, _ = envs.step(np.array([action]))
        assert not truncated.any()
    envs.close()


def test_shrinking_is_averaging_by_area():
    screen = np.random.default_rng(0).integers(0, 256, (3, 120, 160), dtype=np.uint8)
    got = doom.shrink(screen)
    expected = cv2.resize(screen.transpose(1, 2, 0), (84, 84), interpolation=cv2.INTER_AREA)
    difference = got.astype(int) - expected.transpose(2, 0, 1)
    assert np.abs(difference).max() <= 1
    assert (difference == 0).mean() > 0.98


def reference(seed, buttons_of_actions, buttons):
    """Play DeadlyCorridor through ViZDoom alone; return its frames, return and number of steps."""
    game = vizdoom.DoomGame()
    game.load_config(str(Path(vizdoom.scenarios_path, "deadly_corridor.cfg")))
    game.set_window_visible(False)
    game.set_screen_resolution(vizdoom.ScreenResolution.RES_160X120)
    game.set_screen_format(vizdoom.ScreenFormat.RGB24)
    game.set_available_buttons([getattr(vizdoom.Button, name) for name in buttons])
    game.set_episode_timeout(0)
    game.init()
    game.set_seed(int(np.random.default_rng(seed).integers(2**32)))
    game.new_episode()
    frames, taken = [game.get_state().screen_buffer], 0
    for pressed in buttons_of_actions:
        game.make_action([name in pressed for name in buttons], 4)
        taken += 1
        if game.is_episode_finished():
            break
        frames.append(game.get_state().screen_buffer)
    total = game.get_total_reward()
    game.close()
    shrunk = [cv2.resize(one, (84, 84), interpolation=cv2.INTER_AREA) for one in frames]
    return [one.transpose(2, 0, 1) for one in shrunk], total, taken


@pytest.mark.parametrize("steps", [200, 5], ids=["death", "time-out"])
def test_frames_rewards_and_ends_are_the_engines(tmp_path, monkeypatch, steps):
    level = doom.LEVELS["DeadlyCorridor"]
    chosen = np.random.default_rng(3).integers(len(level.actions), size=steps)
    monkeypatch.chdir(tmp_path)  # where ViZDoom by itself leaves files
    frames, total, taken = reference(
        11,
        [level.actions[action] for action in chosen],
        ["TURN_LEFT", "TURN_RIGHT", "MOVE_FORWARD", "MOVE_LEFT", "MOVE_RIGHT", "ATTACK"],
    )
    dies = steps == 200
    assert (taken < steps) == dies
    envs = make.make_vec("Doom/DeadlyCorridor", 2, max_tics=2_100 if dies else 4 * steps)
    obs, _ = envs.reset(seed=[10, 11])
    seen, paid = [obs[1]], 0.0
    for t, action in enumerate(chosen[:taken], start=1):
        obs, reward, terminated, truncated, info = envs.step(np.array([0, action]))
        paid += reward[1]
        assert (terminated[1], truncated[1]) == ((t == taken) and dies, (t == taken) and not dies)
        seen.append(obs[1])
    final = info["final_obs"][1]
    if dies:  # ViZDoom shows no more: the frame before the last action
        assert np.array_equal(final, seen[-2])
        seen.pop()
    else:
        seen[-1] = final
    assert paid == pytest.approx(total, rel=1e-12)
    assert len(seen) == len(frames)
    for one, other in zip(seen, frames, strict=True):
        assert np.abs(one.astype(int) - other).max() <= 1
    envs.close()


# Processes and files.


def test_nothing_is_printed_and_nothing_stays(engines, alone, capfd):
    make.describe("Doom/Basic")
    assert engines() == []
    threads = threading.active_count()
    envs = make.make_vec("Doom/Basic", 3, max_tics=8)
    running = engines()
    assert len(running) == 3
    ids = [
        line[line.index("+viz_instance_id") + 1] for line in map(psutil.Process.cmdline, running)
    ]
    envs.reset(seed=0)
    for _ in range(5):
        envs.step(np.zeros(3, dtype=np.int64))
    # Not even while they run: so not after SIGKILL either.
    assert not [path for path in Path("/dev/shm").iterdir() if path.name.endswith(tuple(ids))]
    assert list(Path.cwd().iterdir()) == []
    assert os.listdir(tempfile.gettempdir()) == []
    envs.close()
    wait_until_gone(running)
    assert threading.active_count() == threads
    assert capfd.readouterr() == ("", "")


def test_dropped_environments_end_too(engines, alone):
    envs = make.make_vec("Doom/Basic", 2)
    running = engines()
    del envs
    wait_until_gone(running)


OWNER = """
import signal, sys
import numpy as np
from envs import make
seen = []
if sys.argv[1] == "handles":
    signal.signal(signal.SIGINT, lambda number, frame: seen.append(number))
envs = make.make_vec("Doom/Basic", 2)
envs.reset(seed=0)
print("ready", flush=True)
if sys.argv[1] == "waits":
    sys.stdin.read()
while not seen:
    envs.step(np.zeros(2, dtype=np.int64))
for _ in range(20):
    envs.step(np.zeros(2, dtype=np.int64))
envs.close()
print("done", flush=True)
"""


@pytest.fixture
def owner(alone, engines):
    """Start a process that owns environments, in a group of its own; return when it has them."""
    started = []

    def start(manner):
        process = subprocess.Popen(
            [sys.executable, "-c", OWNER, manner],
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        assert process.stdout.readline() == "ready\n", process.stderr.read()
        return process, engines(process.pid)

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's help is Linux's")
@pytest.mark.parametrize("manner", ["waits", "steps"])
def test_engines_die_with_a_killed_owner(owner, manner):
    process, running = owner(manner)
    assert len(running) == 2
    process.send_signal(signal.SIGKILL)
    wait_until_gone(running)


def test_ctrl_c_is_the_owners_alone(owner):
    process, running = owner("handles")
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, "done\n", "")
    wait_until_gone(running)


def step_on(envs, actions, seconds=60.0):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        envs.step(actions)


@pytest.mark.parametrize("busy", [False, True])
def test_a_dead_engine_raises_and_the_rest_can_be_closed(engines, alone, busy):
    envs = make.make_vec("Doom/Basic", 3)
    running = engines()
    envs.reset(seed=0)
    actions = np.zeros(3, dtype=np.int64)
    killer = threading.Timer(0.2 if busy else 0.0, running[1].kill)
    killer.start()
    if not busy:
        killer.join()
    with pytest.raises(Exception, match="ViZDoom") as caught:
        step_on(envs, actions)
    assert isinstance(caught.value, RuntimeError | vizdoom.ViZDoomErrorException)
    killer.join()
    with pytest.raises(Exception, match="ViZDoom"):
        envs.step(actions)
    envs.close()
    wait_until_gone(running)


def test_an_error_while_building_ends_what_was_built(engines, alone, monkeypatch):
    started = []

    def fail(instance_id):
        started.extend(engines())
        raise OSError("no memory to share")

    with monkeypatch.context() as patch:
        patch.setattr(doom_engine, "unlink_shared_memory", fail)
        with pytest.raises(OSError, match="no memory to share"):
            make.make_vec("Doom/Basic", 2)
    assert started
    wait_until_gone(started)
    make.make_vec("Doom/Basic", 2).close()  # and it works again


BUILDER = """
import os, signal
from envs import doom_engine, make
doom_engine.unlink_shared_memory = lambda instance_id: os.kill(os.getpid(), signal.SIGKILL)
make.make_vec("Doom/Basic", 2)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /dev/shm")
def test_the_next_builder_clears_away_what_a_killed_one_left(alone):
    died = subprocess.run(
        [sys.executable, "-c", BUILDER],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        timeout=120,
    )
    assert died.returncode == -signal.SIGKILL
    (left,) = Path(tempfile.gettempdir()).iterdir()
    names = [note.name.removeprefix("instance-") for note in left.glob("instance-*")]
    files = [file for file in Path("/dev/shm").iterdir() if file.name.endswith(tuple(names))]
    assert files

    make.make_vec("Doom/Basic", 1).close()
    assert left.exists()  # it might be about to be used
    os.utime(left, (0, 0))
    lock = os.open(left, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    make.make_vec("Doom/Basic", 1).close()
    assert left.exists()  # it is in use
    os.close(lock)
    make.make_vec("Doom/Basic", 1).close()
    assert not left.exists()
    assert not [file for file in files if file.exists()]


def test_a_temporary_directory_that_takes_no_programs(engines, monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # as on a noexec file system
    with pytest.raises(ValueError, match="set TMPDIR"):
        make.make_vec("Doom/Basic", 1)
    assert list(tmp_path.iterdir()) == []
    assert engines() == []
