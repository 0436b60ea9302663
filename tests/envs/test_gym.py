"""Gymnasium environments: against scalar ones stepped by hand, and with odd spaces."""

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from envs import make, parts


class Odd(gymnasium.Env):
    """An environment with any spaces, which returns its own buffer and records its actions."""

    played: list = []  # noqa: RUF012 - shared on purpose: the test reads it

    def __init__(self, observation_space, action_space, length=3):
        self.observation_space, self.action_space = observation_space, action_space
        self._length, self._buffer, self._t = length, None, 0
        Odd.played.clear()

    def _observe(self):
        if isinstance(self.observation_space, spaces.Discrete):
            return self.observation_space.start + self._t
        if self._buffer is None:
            self._buffer = np.zeros(
                self.observation_space.shape, dtype=self.observation_space.dtype
            )
        self._buffer[:] = self._t  # in place: the same memory every time
        return self._buffer

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._t = 0
        return self._observe(), {}

    def step(self, action):
        assert self.action_space.contains(action), f"{action!r} is not in {self.action_space}"
        Odd.played.append(np.array(action))
        self._t += 1
        return self._observe(), 1.0, self._t == self._length, False, {"note": "hello"}


@pytest.fixture
def register():
    """Register `Odd` with given spaces, under an id that is removed after the test."""
    added = []

    def add(observation_space, action_space, env_id="Odd-v0", **keywords):
        added.append(env_id)
        gymnasium.register(
            env_id,
            entry_point=Odd,
            kwargs={"observation_space": observation_space, "action_space": action_space},
            disable_env_checker=True,
            **keywords,
        )
        return env_id

    yield add
    for env_id in added:
        gymnasium.registry.pop(env_id, None)


VECTOR = spaces.Box(0, 9, (2,), np.float32)


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1", "MountainCar-v0"])
def test_equal_to_scalar_environments_stepped_by_hand(env_id):
    envs = make.make_vec(env_id, 3)
    references = [gymnasium.make(env_id) for _ in range(3)]
    obs, _ = envs.reset(seed=[10, 5, 77])
    expected = [env.reset(seed=seed)[0] for env, seed in zip(references, (10, 5, 77), strict=True)]
    envs.action_space.seed(0)
    ends = 0
    for _ in range(220):
        for slot in range(3):
            assert np.array_equal(obs[slot], expected[slot])
        a_t = envs.action_space.sample()
        obs, reward, terminated, truncated, info = envs.step(a_t)
        for slot, env in enumerate(references):
            expected[slot], r_t, over, cut, _ = env.step(a_t[slot])
            assert (reward[slot], terminated[slot], truncated[slot]) == (r_t, over, cut)
            if over or cut:
                ends += 1
                assert np.array_equal(info["final_obs"][slot], expected[slot])
                expected[slot], _ = env.reset()
    assert ends >= 3
    envs.close()


def test_next_step_vector_environments_are_not_used():
    """CartPole's own vector form is NEXT_STEP: there, the step after an end ignores the action."""
    own = gymnasium.make_vec("CartPole-v1", 1, vectorization_mode="vector_entry_point")
    assert own.metadata["autoreset_mode"] != gymnasium.vector.AutoresetMode.SAME_STEP
    own.close()
    envs = make.make_vec("CartPole-v1", 1)
    envs.reset(seed=0)
    right = np.ones(1, dtype=np.int64)
    while True:
        obs, _, terminated, _, info = envs.step(right)
        if terminated[0]:
            break
    assert abs(info["final_obs"][0, 2]) > 0.2, "the pole has fallen"
    assert np.abs(obs).max() <= 0.05, "and stands again, in the same step"
    moved, *_ = envs.step(right)
    assert moved[0, 1] > obs[0, 1] + 0.1, "and the very next action is played"
    envs.close()


def test_a_reused_buffer_does_not_reach_the_caller(register):
    envs = make.make_vec(register(VECTOR, spaces.Discrete(2)), 2)
    obs, _ = envs.reset(seed=0)
    kept = [obs]
    for t in range(1, 7):
        obs, reward, terminated, _, info = envs.step(np.zeros(2, dtype=np.int64))
        kept.append(obs)
        assert reward.tolist() == [1.0, 1.0]
        assert terminated.tolist() == [t % 3 == 0] * 2
        if terminated.any():
            assert info["final_obs"].tolist() == [[3.0, 3.0]] * 2
    assert [obs[0, 0] for obs in kept] == [0, 1, 2, 0, 1, 2, 0]
    envs.close()


def test_discrete_actions_may_start_anywhere(register):
    env_id = register(VECTOR, spaces.Discrete(3, start=5))
    assert make.describe(env_id).single_action_space == spaces.Discrete(3)
    envs = make.make_vec(env_id, 3)
    envs.reset(seed=0)
    envs.step(np.array([0, 1, 2]))
    assert [int(action) for action in Odd.played] == [5, 6, 7]
    with pytest.raises(ValueError, match=r"0\.\.2"):
        envs.step(np.array([5, 5, 5]))
    envs.close()


def test_box_actions_are_clipped_to_their_bounds(register):
    env_id = register(VECTOR, spaces.Box(np.float32([-1, 0]), np.float32([1, 2])))
    envs = make.make_vec(env_id, 2)
    envs.reset(seed=0)
    envs.step(np.array([[-7.0, 9.0], [0.5, 1.5]]))  # float64, too
    assert [action.tolist() for action in Odd.played] == [[-1.0, 2.0], [0.5, 1.5]]
    envs.close()


def test_discrete_observations_are_seen_one_hot(register):
    env_id = register(spaces.Discrete(5, start=-2), spaces.Discrete(2))
    envs = make.make_vec(env_id, 2)
    obs, _ = envs.reset(seed=0)
    assert obs.dtype == np.float32
    assert obs.tolist() == [[1, 0, 0, 0, 0]] * 2
    obs, *_ = envs.step(np.zeros(2, dtype=np.int64))
    assert obs.tolist() == [[0, 1, 0, 0, 0]] * 2
    envs.close()


@pytest.mark.parametrize(
    ("inside", "outside"),
    [
        ((8, 6, 3), (3, 8, 6)),
        ((4, 84, 84), (4, 84, 84)),
        ((8, 6), (1, 8, 6)),
        ((5, 9, 5), (5, 5, 9)),
    ],
)
def test_images_have_their_channels_first(register, inside, outside):
    high = np.arange(np.prod(inside), dtype=np.uint8).reshape(inside)
    env_id = register(spaces.Box(np.zeros_like(high), high, dtype=np.uint8), spaces.Discrete(2))
    space = make.describe(env_id).single_observation_space
    assert space.shape == outside
    envs = make.make_vec(env_id, 2)
    obs, _ = envs.reset(seed=0)
    assert obs.shape == (2, *outside)
    assert obs.dtype == np.uint8
    assert obs.flags.c_contiguous
    if len(inside) == 3 and inside[2] <= inside[0]:
        assert space.high[1, 2, 0] == high[2, 0, 1]
    envs.close()


@pytest.mark.parametrize(
    ("observation", "action", "message"),
    [
        (
            spaces.Dict({"a": VECTOR, "b": spaces.Text(3)}),
            spaces.Discrete(2),
            r"observation space Dict.*supported is.*FilterObservation\(e := .*, \['a'\]\)",
        ),
        (
            spaces.Tuple([spaces.Text(3), VECTOR, spaces.Discrete(2)]),
            spaces.Discrete(2),
            r"observation space Tuple.*FilterObservation\(e := .*, \[1, 2\]\)",
        ),
        (spaces.Dict({"b": spaces.Text(3)}), spaces.Discrete(2), "write a wrapper"),
        (spaces.Dict({}), spaces.Discrete(2), "write a wrapper"),
        (spaces.Text(3), spaces.Discrete(2), "write a wrapper"),
        (spaces.Box(0, 1, (), np.float32), spaces.Discrete(2), "FlattenObservation"),
        (spaces.Box(0, 1, (4, 4), np.float32), spaces.Discrete(2), "FlattenObservation"),
        (spaces.Box(0, 255, (2, 4, 4, 3), np.uint8), spaces.Discrete(2), "observation space"),
        (
            VECTOR,
            spaces.Dict({"a": spaces.Discrete(2), "b": VECTOR}),
            "action space Dict.*supported is Discrete, MultiDiscrete",
        ),
        (VECTOR, spaces.Tuple(()), "action space Tuple"),
        (VECTOR, spaces.Text(3), "action space Text"),
        (VECTOR, spaces.Box(0, 1, (2, 2), np.float32), "action space Box"),
        (VECTOR, spaces.Box(0, 5, (2,), np.int32), "action space Box"),
    ],
)
def test_refuses_spaces_the_learner_cannot_use(register, observation, action, message):
    env_id = register(observation, action)
    for build in (make.describe, lambda env_id: make.make_vec(env_id, 2)):
        with pytest.raises(ValueError, match=message) as caught:
            build(env_id)
        assert env_id in str(caught.value)


def no_seed(self):
    return np.zeros(2, np.float32), {}


def too_long(self, *, seed=None, options=None):
    return np.zeros(3, np.float32), {}


def away(self, *, seed=None, options=None):
    raise RuntimeError("the server is away")


@pytest.mark.parametrize(
    ("reset", "message"),
    [(no_seed, "unexpected keyword"), (too_long, "shape"), (away, "the server is away")],
)
def test_an_environment_that_cannot_be_reset_is_refused_at_once(
    register, monkeypatch, reset, message
):
    env_id = register(VECTOR, spaces.Discrete(2))
    monkeypatch.setattr(Odd, "reset", reset)
    with pytest.raises(ValueError, match=f"Odd-v0 cannot be reset with a seed.*{message}"):
        make.describe(env_id)


def test_module_and_id(tmp_path, monkeypatch):
    (tmp_path / "my_own_envs.py").write_text(
        "import gymnasium\n"
        "gymnasium.register('MyOwn-v3', 'gymnasium.envs.classic_control:CartPoleEnv')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    envs = make.make_vec("my_own_envs:MyOwn-v3", 2)
    obs, _ = envs.reset(seed=0)
    assert obs.shape == (2, 4)
    envs.close()
    with pytest.raises(ValueError, match="did you mean MyOwn-v3"):
        make.describe("my_own_envs:MyOwn-v4")
    gymnasium.registry.pop("MyOwn-v3")


def test_only_a_vector_form_is_refused():
    gymnasium.register("OnlyVector-v0", vector_entry_point="nowhere:Nothing")
    try:
        with pytest.raises(ValueError, match="scalar form"):
            make.describe("OnlyVector-v0")
    finally:
        gymnasium.registry.pop("OnlyVector-v0")


@pytest.mark.parametrize(
    "space",
    [
        spaces.Dict({"goal": VECTOR, "start": spaces.Discrete(3, start=1)}),
        spaces.Tuple((spaces.Discrete(3), spaces.MultiBinary(2), spaces.Box(0, 1, (2, 2)))),
        spaces.MultiDiscrete([2, 4]),
        spaces.Dict({"inner": spaces.Tuple((spaces.Discrete(2), VECTOR))}),
    ],
    ids=str,
)
def test_several_numbers_are_one_vector(space):
    class Sampling(gymnasium.Env):
        observation_space, action_space = space, spaces.Discrete(2)

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            self.seen = space.sample()
            return self.seen, {}

    inner = Sampling()
    outer = parts.Normalised(inner)
    obs, _ = outer.reset(seed=0)
    expected = gymnasium.wrappers.FlattenObservation(inner).observation(inner.seen)
    assert obs.tolist() == expected.tolist()
    assert outer.observation_space.shape == obs.shape
    assert len(obs.shape) == 1
