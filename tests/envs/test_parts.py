"""Spaces of several parts: against Gymnasium's own `flatten`, `contains` and `sample(mask)`."""

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from envs import function_call, make, parts

IMAGE = spaces.Box(0, 255, (8, 6, 3), np.uint8)
PLANE = spaces.Box(0, 255, (5, 7), np.uint8)
OBSERVATIONS = [
    spaces.Dict(
        {"cam": IMAGE, "at": spaces.Box(-1, 1, (2, 2)), "wind": spaces.Discrete(3, start=1)}
    ),
    spaces.Tuple((spaces.MultiBinary(3), spaces.Dict({"a": PLANE, "b": spaces.Tuple((IMAGE,))}))),
    spaces.Dict({"cam": IMAGE}),
    spaces.Tuple((IMAGE, PLANE)),
]
ACTIONS = [
    spaces.MultiDiscrete([2, 4, 3], start=[1, 0, -2]),
    spaces.MultiDiscrete([[2, 4], [3, 2]]),
    spaces.MultiBinary(3),
    spaces.MultiBinary((2, 2)),
    spaces.Tuple((spaces.Discrete(3, start=5), spaces.MultiBinary(2))),
    spaces.Dict({"a": spaces.Discrete(2), "b": spaces.Dict({"c": spaces.MultiDiscrete([2, 3])})}),
    spaces.MultiDiscrete([4]),
    function_call.FunctionCall([2, 3], [[True], [False]]),
]


def leaves(space, value):
    """Return pairs of a space without parts and its value, at any depth."""
    if isinstance(space, spaces.Dict):
        return [pair for name, part in space.items() for pair in leaves(part, value[name])]
    if isinstance(space, spaces.Tuple):
        of_parts = zip(space, value, strict=True)
        return [pair for part, inside in of_parts for pair in leaves(part, inside)]
    return [(space, value)]


@pytest.mark.parametrize("space", OBSERVATIONS, ids=str)
def test_images_are_kept_and_all_else_is_one_vector(space):
    space.seed(0)
    obs, converter = space.sample(), parts.Observation(space)
    seen = converter.seen(obs)
    assert seen in converter.outer
    found = list(seen) if isinstance(seen, tuple) else [seen]
    flat = []
    for part, value in leaves(space, obs):
        if part in (IMAGE, PLANE):
            image = found.pop(0)
            expected = value[None] if value.ndim == 2 else value.transpose(2, 0, 1)
            assert np.array_equal(image, expected)
            assert image.flags.c_contiguous
            assert not np.shares_memory(image, value)
        else:
            flat.extend(spaces.flatten(part, value))
    assert [list(vector) for vector in found] == ([flat] if flat else [])


@pytest.mark.parametrize("space", ACTIONS, ids=str)
def test_every_action_can_be_played_once(space):
    action = parts.Action(space)
    sizes = (
        action.outer.nvec if isinstance(action.outer, spaces.MultiDiscrete) else [action.outer.n]
    )
    played = set()
    for numbers in np.ndindex(*sizes):
        chosen = np.array(numbers) if len(sizes) > 1 else np.int64(numbers[0])
        one = action.played(chosen)
        assert space.contains(one), one
        played.add(str(one))
    assert len(played) == np.prod(sizes)
    assert (action.outer == space) == isinstance(space, function_call.FunctionCall)


def random_mask(space, rng):
    if isinstance(space, spaces.Dict):
        return {name: random_mask(part, rng) for name, part in space.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(random_mask(part, rng) for part in space)
    if isinstance(space, spaces.MultiBinary):
        return rng.integers(3, size=space.shape).astype(np.int8)
    if isinstance(space, spaces.MultiDiscrete):
        return tuple(random_mask(space[at], rng) for at in range(len(space.nvec)))
    return (rng.random(space.n) < 0.5).astype(np.int8)


@pytest.mark.parametrize("space", [spaces.Discrete(4, start=3), *ACTIONS], ids=str)
def test_a_mask_allows_what_gymnasium_samples_under_it(space):
    rng = np.random.default_rng(0)
    action = parts.Action(space)
    sizes = (
        action.outer.nvec if isinstance(action.outer, spaces.MultiDiscrete) else [action.outer.n]
    )
    for _ in range(4):
        mask = random_mask(space, rng)
        flat = action.mask(mask)
        assert (flat.shape, flat.dtype) == ((sum(sizes),), np.bool_)
        allowed = set()
        for numbers in np.ndindex(*sizes):
            if all(part[n] for part, n in zip(np.split(flat, np.cumsum(sizes)[:-1]), numbers)):  # noqa: B905
                chosen = np.array(numbers) if len(sizes) > 1 else np.int64(numbers[0])
                allowed.add(str(action.played(chosen)))
        space.seed(1)
        sampled = {str(space.sample(mask)) for _ in range(40 * len(allowed))}
        assert sampled == allowed
        assert np.array_equal(action.mask(flat.astype(np.int8)), flat), "side by side, too"


def test_a_part_without_a_mask_is_free():
    action = parts.Action(spaces.Dict({"a": spaces.Discrete(2), "b": spaces.Discrete(3)}))
    assert action.mask({"a": None, "b": np.array([0, 1, 0])}).tolist() == [True] * 2 + [
        False,
        True,
        False,
    ]
    assert action.mask(None).all()


@pytest.mark.parametrize(
    "mask", [np.ones(4), (np.ones(2),), (np.ones(2), np.ones(2)), {"a": np.ones(2)}, "all", 3]
)
def test_wrong_masks_are_named(mask):
    with pytest.raises(ValueError, match=r"action_mask.*MultiDiscrete.*sample\(mask\)"):
        parts.Action(spaces.MultiDiscrete([2, 3])).mask(mask)


def test_the_table_of_a_function_call_is_checked():
    with pytest.raises(ValueError, match=r"shape \(1, 1\): give \(2, 1\)"):
        function_call.FunctionCall([2, 3], [[True]])


class Sometimes(gymnasium.Env):
    """Gives masks in those calls whose numbers are named."""

    observation_space = spaces.Discrete(2)
    action_space = spaces.Discrete(3)

    def __init__(self, calls):
        self.calls, self.count = calls, 0

    def info(self):
        self.count += 1
        return {"action_mask": np.array([0, 1, 1], np.int8)} if self.count in self.calls else {}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return 0, self.info()

    def step(self, action):
        return 0, 0.0, self.count == 4, False, self.info()


@pytest.fixture
def sometimes():
    gymnasium.register("Sometimes-v0", Sometimes, disable_env_checker=True)
    yield lambda calls: make.make_vec("Sometimes-v0", 2, calls=calls)
    gymnasium.registry.pop("Sometimes-v0")


def test_masks_are_in_every_info_or_in_none(sometimes):
    envs = sometimes(range(1, 9))
    _, info = envs.reset(seed=0)
    for _ in range(5):
        assert info["action_mask"].dtype == np.bool_
        assert info["action_mask"].tolist() == [[False, True, True]] * 2
        *_, info = envs.step(np.array([1, 1]))
    envs.close()
    for calls in ([1, 2, 4, 5, 6], [2]):
        envs = sometimes(calls)
        envs.reset(seed=0)
        with pytest.raises(ValueError, match="in every reset and step"):
            [envs.step(np.array([1, 1])) for _ in range(5)]
        envs.close()
