"""Atari against two independent implementations: Gymnasium's wrappers and the bare emulator."""

import dataclasses

import ale_py
import gymnasium
import numpy as np
import pytest
from ale_py import roms, vector_env
from gymnasium import wrappers

from envs import atari, make

EXACT = dataclasses.replace(atari.A3C2016, max_noops=0)


@pytest.fixture(autouse=True)
def _quiet():
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    gymnasium.register_envs(ale_py)


def held_actions(num_actions, steps, seed):
    """Return random actions, each held for a few steps, so that the player moves far."""
    rng = np.random.default_rng(seed)
    return np.repeat(rng.integers(num_actions, size=steps), rng.integers(1, 6, size=steps))[:steps]


@pytest.mark.parametrize(
    ("game", "steps", "min_games"),
    [("Pong", 260, 0), ("Breakout", 420, 1), ("Qbert", 420, 1), ("MsPacman", 120, 0)],
)
def test_frame_for_frame_equal_to_gymnasiums_preprocessing(game, steps, min_games):
    reference = gymnasium.make(
        f"ALE/{game}-v5", frameskip=1, repeat_action_probability=0.0, full_action_space=False
    )
    reference = wrappers.AtariPreprocessing(reference, noop_max=0)
    reference = wrappers.FrameStackObservation(reference, 4, padding_type="zero")
    envs = make.make_vec(game, 1, preset=EXACT)
    obs, _ = envs.reset(seed=0)
    expected, _ = reference.reset(seed=0)
    assert np.array_equal(obs[0], expected)
    games = 0
    for action in held_actions(reference.action_space.n, steps, seed=1):
        obs, reward, terminated, truncated, info = envs.step(np.array([action]))
        expected, r_t, over, cut, reference_info = reference.step(action)
        assert (reward[0], terminated[0], truncated[0]) == (r_t, over, cut)
        if over or cut:
            games += 1
            assert np.array_equal(info["final_obs"][0], expected)
            expected, _ = reference.reset()
        else:
            assert info["lives"][0] == reference_info["lives"]
        assert np.array_equal(obs[0], expected)
    assert games >= min_games
    envs.close()
    reference.close()


def bare_emulator(game, seed):
    ale = ale_py.ALEInterface()
    ale.setFloat("repeat_action_probability", 0.0)
    ale.setInt("random_seed", seed)
    ale.loadROM(str(roms.get_rom_path(game)))
    ale.reset_game()
    return ale


def follow_the_ball(ale, rng):
    """Play Breakout fairly well, from the columns of ball and paddle in the memory."""
    noop, fire, right, left = range(4)
    ball, paddle = ale.getRAM()[[99, 72]].astype(int)
    if rng.random() < 0.25:
        return rng.integers(4)
    if ball == 0:
        return fire
    return noop if abs(ball - paddle - 8) < 4 else (right if ball > paddle + 8 else left)


@pytest.mark.parametrize(
    ("game", "lives", "player"),
    [("Breakout", 5, follow_the_ball), ("Qbert", 4, lambda _, rng: rng.integers(6))],
)
def test_score_over_all_lives_equals_the_bare_emulators(game, lives, player):
    ale = bare_emulator(atari.games()[game], seed=3)
    minimal = ale.getMinimalActionSet()
    envs = make.make_vec(game, 1, preset=EXACT)
    _, info = envs.reset(seed=3)
    assert info["lives"][0] == ale.lives() == lives
    score, by_life, lost, losses_seen = 0.0, [0.0], 0, 0
    rng = np.random.default_rng(0)
    for _ in range(2_000):
        action = player(ale, rng)
        before = ale.lives()
        for _ in range(atari.FRAMES_PER_STEP):
            score += ale.act(minimal[action])
            if ale.game_over():
                break
        _, reward, terminated, truncated, info = envs.step(np.array([action]))
        by_life[-1] += reward[0]
        assert not truncated[0]
        assert terminated[0] == ale.game_over()
        assert info["life_lost"][0] == (ale.lives() < before and not ale.game_over())
        lost += before - ale.lives()
        losses_seen += info["life_lost"][0]
        if info["life_lost"][0]:
            by_life.append(0.0)
        if terminated[0]:
            break
    else:
        pytest.fail("the game did not end")
    assert score == sum(by_life)
    assert score > max(by_life) > 1, "points in more than one life, and rewards above 1"
    assert lost == lives
    assert losses_seen == lives - 1, "the last life is the game's end"
    envs.close()


def test_a_life_lost_at_the_frame_cap_is_a_truncation():
    noop = np.zeros(1, dtype=np.int64)
    fire = np.ones(1, dtype=np.int64)
    envs = make.make_vec("Breakout", 1, preset=EXACT)
    envs.reset(seed=0)
    for steps in range(1, 200):
        _, _, _, _, info = envs.step(fire if steps == 1 else noop)
        if info["life_lost"][0]:
            break
    envs.close()
    capped = make.make_vec("Breakout", 1, preset=dataclasses.replace(EXACT, max_frames=4 * steps))
    capped.reset(seed=0)
    for t in range(1, steps + 1):
        _, _, terminated, truncated, info = capped.step(fire if t == 1 else noop)
        assert (terminated[0], truncated[0]) == (False, t == steps)
        assert not info["life_lost"][0]
    assert info["lives"][0] == 5, "the next game has begun"
    capped.close()


def test_every_game_of_ale_is_found_by_plain_name_and_by_id():
    gymnasium.register_envs(ale_py)
    registered = {
        spec.kwargs["game"]: env_id.removeprefix("ALE/").removesuffix("-v5")
        for env_id, spec in gymnasium.registry.items()
        if env_id.startswith("ALE/") and env_id.endswith("-v5")
    }
    assert len(registered) > 100
    assert {name: rom for rom, name in registered.items()} == atari.games()
    for rom, name in registered.items():
        assert atari.find_game(name) == atari.find_game(f"ALE/{name}-v5") == name
        assert roms.get_rom_path(rom).exists()


def test_presets_do_what_they_say():
    noops = make.make_vec("Pong", 4, preset="a3c2016")
    assert noops.single_action_space.n == 6
    _, info = noops.reset(seed=0)
    starts = [info["episode_frame_number"]]
    starts += [noops.reset()[1]["episode_frame_number"] for _ in range(60)]
    assert (np.min(starts), np.max(starts)) == (0, 30)
    actions = held_actions(6, 50, seed=0)

    def first_slots_equal(envs):
        envs.reset(seed=0)
        return all(
            np.array_equal(*envs.step(np.full(2, a_t))[0]) for a_t in actions
        )  # two slots, seeds 0 and 1, the same actions

    deterministic = make.make_vec("Pong", 2, preset=EXACT)
    sticky = make.make_vec("Pong", 2, preset="machado2018")
    assert sticky.single_action_space.n == 18
    _, info = sticky.reset(seed=0)
    assert info["frame_number"].tolist() == [0, 0], "no no-op starts"
    assert first_slots_equal(deterministic)
    assert not first_slots_equal(sticky)
    for envs in (noops, deterministic, sticky):
        envs.close()


def test_fire_reset_is_off_in_both_presets_and_presses_fire_when_on():
    assert not atari.A3C2016.fire_reset
    assert not atari.MACHADO2018.fire_reset
    pressed = make.make_vec("Breakout", 1, preset=dataclasses.replace(EXACT, fire_reset=True))
    _, info = pressed.reset(seed=0)
    assert info["frame_number"].tolist() == [1]
    pressed.close()


def test_life_lost_is_where_ale_says_so():
    envs = make.make_vec("Breakout", 3, preset=EXACT)
    silent = make.make_vec("Breakout", 3, preset=dataclasses.replace(EXACT, life_loss_signal=False))
    alike = vector_env.AtariVectorEnv(
        "breakout",
        3,
        num_threads=1,
        autoreset_mode="SameStep",
        life_loss_info=True,
        reward_clipping=False,
        noop_max=0,
        use_fire_reset=False,
    )
    envs.reset(seed=0)
    silent.reset(seed=0)
    _, ale_info = alike.reset(seed=0)
    rng = np.random.default_rng(0)
    lost = 0
    for _ in range(250):
        a_t = rng.integers(4, size=3)
        frames = ale_info["episode_frame_number"]
        _, _, terminated, _, info = envs.step(a_t)
        _, _, lost_or_over, _, ale_info = alike.step(a_t)
        over = ale_info["episode_frame_number"] < frames
        assert np.array_equal(terminated, lost_or_over & over)
        assert np.array_equal(info["life_lost"], lost_or_over & ~over)
        lost += info["life_lost"].sum()
        *_, info = silent.step(a_t)
        assert not info["life_lost"].any()
    assert lost > 3
    envs.close()
    silent.close()


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("repeat_action_probability", 1.0, "less than 1"),
        ("repeat_action_probability", -0.1, "at least 0"),
        ("max_noops", -1, "0 or more"),
        ("max_frames", 3, "4 frames"),
    ],
)
def test_a_preset_is_checked(field, value, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(atari.A3C2016, **{field: value})


def test_the_preset_of_v5_is_what_ale_registers():
    registered = gymnasium.registry["ALE/Pong-v5"]
    assert registered.kwargs["repeat_action_probability"] == atari.ALE_V5.repeat_action_probability
    assert registered.kwargs["full_action_space"] is atari.ALE_V5.full_action_space
    assert registered.kwargs["frameskip"] == atari.FRAMES_PER_STEP
    assert registered.kwargs["max_num_frames_per_episode"] == atari.ALE_V5.max_frames
    assert atari.usual_preset("ALE/Pong-v5") is atari.ALE_V5
    assert atari.usual_preset("Pong") is atari.A3C2016
    for env_id, sticky in (("ALE/Pong-v5", "actions 0.25"), ("Pong", "actions 0,")):
        assert sticky in make.protocol(env_id)
