import dataclasses
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pbt import space as spaces


@st.composite
def ranges(draw, low, high):
    """Four increasing numbers: bounds outside, prior inside, the ends sometimes shared."""
    a, b, c, d = sorted(draw(st.lists(st.floats(low, high), min_size=4, max_size=4, unique=True)))
    if draw(st.booleans()):
        return a, d, None
    return (b, c, (a, d)) if draw(st.booleans()) else (a, c, (a, d))


@st.composite
def dimensions(draw):
    kind = draw(st.sampled_from(["LogUniform", "Uniform", "IntUniform", "Choice", "Constant"]))
    if kind == "LogUniform":
        return spaces.LogUniform(*draw(ranges(1e-12, 1e6)))
    if kind == "Uniform":
        return spaces.Uniform(*draw(ranges(-1e6, 1e6)))
    if kind == "IntUniform":
        a, b, c, d = sorted(draw(st.sets(st.integers(1, 10_000), min_size=4, max_size=4)))
        bounds = draw(st.sampled_from([None, (a, d), (b, d), (a, c), (b, c)]))
        return spaces.IntUniform(b, c, bounds, log=draw(st.booleans()))
    if kind == "Choice":
        values = draw(st.sets(st.floats(-1e9, 1e9), min_size=1, max_size=6))
        return spaces.Choice(tuple(sorted(values)))
    return spaces.Constant(draw(st.floats(allow_nan=False, allow_infinity=False)))


seeds = st.integers(0, 2**32 - 1)


def through_json(value):
    return json.loads(json.dumps(value, allow_nan=False, sort_keys=True))


@given(dimensions(), seeds)
@settings(deadline=None)
def test_samples_lie_inside_and_json_gives_an_equal_dimension(dimension, seed):
    rng = np.random.default_rng(seed)
    for _ in range(20):
        value = dimension.sample(rng)
        assert type(value) is float
        assert dimension.contains(value)
        assert dimension.clip(value) == value
        if hasattr(dimension, "low"):
            assert dimension.low <= value <= dimension.high
    assert spaces.from_json(through_json(dimension.to_json())) == dimension


@given(dimensions(), seeds, st.sampled_from([(0.8, 1.2), (0.5, 2.0), (1e-3, 1e3)]))
@settings(deadline=None, max_examples=30)
def test_ten_thousand_perturbations_stay_in_bounds(dimension, seed, factors):
    rng = np.random.default_rng(seed)
    value = dimension.sample(rng)
    for factor in rng.choice(factors, 10_000).tolist():
        value = dimension.perturb(value, factor)
        assert type(value) is float
        assert dimension.contains(value)
    used = dimension.used(value)
    if isinstance(dimension, spaces.IntUniform):
        low, high = dimension.bounds or (dimension.low, dimension.high)
        assert type(used) is int
        assert low <= used <= high


@given(dimensions(), seeds, st.sampled_from([0.8, 1.2]))
@settings(deadline=None, max_examples=30)
def test_one_direction_ends_at_a_bound_and_comes_back(dimension, seed, factor):
    value = start = dimension.sample(np.random.default_rng(seed))
    for _ in range(10_000):
        value = dimension.perturb(value, factor)
    if isinstance(dimension, spaces.Constant):
        assert value == start
    elif isinstance(dimension, spaces.Choice):
        assert value == dimension.values[-1 if factor > 1 else 0]
    elif isinstance(dimension, (spaces.LogUniform, spaces.IntUniform)):
        low, high = dimension.bounds or (dimension.low, dimension.high)
        assert value == (high if factor > 1 else low)
        assert dimension.perturb(value, 1 / factor) != value


def test_perturbing_a_rate_moves_it_by_equal_steps_of_its_logarithm():
    dimension = spaces.LogUniform(1e-4, 1e-2, bounds=(1e-6, 1.0))
    for value in (1e-5, 1e-3, 0.5):
        for factor in (0.8, 1.2):
            step = math.log(dimension.perturb(value, factor)) - math.log(value)
            assert step == pytest.approx(math.log(factor), rel=1e-9)


def test_log_uniform_has_a_uniform_logarithm():
    rng = np.random.default_rng(0)
    dimension = spaces.LogUniform(1e-5, 1e-1)
    decades = np.log10([dimension.sample(rng) for _ in range(20_000)])
    counts, _ = np.histogram(decades, bins=4, range=(-5, -1))
    # Each decade: 5,000 expected, standard deviation 61.
    assert np.all(np.abs(counts - 5_000) < 4 * 61)


def test_integers_are_all_drawn_each_as_often():
    rng = np.random.default_rng(0)
    dimension = spaces.IntUniform(1, 5)
    drawn = [dimension.used(dimension.sample(rng)) for _ in range(20_000)]
    counts = np.bincount(drawn)
    assert len(counts) == 6
    assert counts[0] == 0
    # 4,000 expected, standard deviation 57. Clipping a draw from [1, 5] would halve both ends.
    assert np.all(np.abs(counts[1:] - 4_000) < 4 * 57)


def test_integers_on_a_log_scale_are_drawn_as_documented():
    rng = np.random.default_rng(0)
    dimension = spaces.IntUniform(1, 6, log=True)
    counts = np.bincount([dimension.used(dimension.sample(rng)) for _ in range(20_000)])[1:]
    weights = np.array([math.log((k + 0.5) / (k - 0.5)) for k in range(1, 7)])
    expected = 20_000 * weights / weights.sum()
    assert np.all(np.abs(counts - expected) < 4 * np.sqrt(expected))


def test_an_integer_two_grows():
    dimension = spaces.IntUniform(1, 100)
    value, used = 2.0, []
    for _ in range(4):
        value = dimension.perturb(value, 1.2)
        used.append(dimension.used(value))
    assert value == pytest.approx(2 * 1.2**4)
    assert used == [2, 3, 3, 4]


def test_an_integer_one_that_shrank_grows_again():
    dimension = spaces.IntUniform(1, 100)
    value = 1.0
    for _ in range(1_000):
        value = dimension.perturb(value, 0.8)
        assert dimension.used(value) == 1
    used = []
    for _ in range(3):
        value = dimension.perturb(value, 1.2)
        used.append(dimension.used(value))
    assert used == [1, 1, 2]  # 1.2, 1.44, 1.728


def test_an_integer_is_rounded_half_up():
    dimension = spaces.IntUniform(1, 100)
    assert [dimension.used(value) for value in (1.5, 2.5, 3.5, 3.49)] == [2, 3, 4, 3]


def test_a_choice_moves_to_its_neighbours():
    dimension = spaces.Choice((16, 32, 64))
    assert dimension.perturb(32, 1.2) == 64
    assert dimension.perturb(64, 1.2) == 64
    assert dimension.perturb(64, 0.8) == 32
    assert dimension.perturb(16, 0.5) == 16
    assert dimension.perturb(32, 1.0) == 32
    assert dimension.clip(20) == 16
    assert dimension.clip(math.inf) == 64
    assert not dimension.contains(20)


@pytest.mark.parametrize(
    "dimension", [spaces.Uniform(0, 1), spaces.IntUniform(1, 4), spaces.Choice((1, 2))]
)
def test_nan_is_never_inside_and_never_clipped(dimension):
    assert not dimension.contains(math.nan)
    assert not dimension.contains(math.inf)
    with pytest.raises(ValueError, match="nan"):
        dimension.clip(math.nan)
    with pytest.raises(ValueError, match="nan"):
        dimension.perturb(math.nan, 1.2)


BAD = [
    (lambda: spaces.LogUniform(1e-2, 1e-4), "low=0.01 .* high=0.0001.*swap"),
    (lambda: spaces.LogUniform(1e-2, 1e-2), "below high.*Constant"),
    (lambda: spaces.LogUniform(0, 1), "low=0.0 must be above 0.*Uniform"),
    (lambda: spaces.LogUniform(-1, 1), "low=-1.0 must be above 0"),
    (lambda: spaces.LogUniform(1e-4, 1e-2, bounds=(0, 1)), "must be above 0"),
    (lambda: spaces.LogUniform(1e-4, 1e-2, bounds=(1e-3, 1)), "prior .* inside bounds"),
    (lambda: spaces.LogUniform(1e-4, 1e-2, bounds=(1e-5, 1e-3)), "prior .* inside bounds"),
    (lambda: spaces.LogUniform(1e-4, 1e-2, bounds=(1, 1e-5)), "low < high"),
    (lambda: spaces.LogUniform(1e-4, 1e-2, bounds=(1e-5, math.nan)), "bounds=nan .*finite"),
    (lambda: spaces.LogUniform(1e-4, 1e-2, bounds=(1e-5,)), "pair"),
    (lambda: spaces.LogUniform(1e-4, 1e-2, bounds="ab"), "pair"),
    (lambda: spaces.LogUniform("1e-4", 1e-2), "low='1e-4' must be a number"),
    (lambda: spaces.Uniform(math.nan, 1), "low=nan must be finite"),
    (lambda: spaces.Uniform(0, math.inf), "high=inf must be finite"),
    (lambda: spaces.Uniform(-1.7e308, 1.7e308), "too wide"),
    (lambda: spaces.Uniform(False, 1), "low=False must be a number"),
    (lambda: spaces.IntUniform(1, 2.5), "high=2.5 must be a whole number"),
    (lambda: spaces.IntUniform(5, 1), "swap"),
    (lambda: spaces.IntUniform(0, 5, log=True), "at least 1"),
    (lambda: spaces.IntUniform(1, 5, bounds=(1, 5.5)), "whole number"),
    (lambda: spaces.Choice(()), "at least one"),
    (lambda: spaces.Choice((1, 1)), "must increase"),
    (lambda: spaces.Choice((2, 1)), r"must increase.*\(1.0, 2.0\)"),
    (lambda: spaces.Choice((1, math.nan)), "finite"),
    (lambda: spaces.Choice("12"), "at least one number"),
    (lambda: spaces.Constant(math.inf), "finite"),
    (lambda: spaces.Constant(None), "must be a number"),
]


@pytest.mark.parametrize(("make", "message"), BAD)
def test_bad_ranges_are_refused_at_construction(make, message):
    with pytest.raises(ValueError, match=message):
        make()
    with (
        pytest.raises(ValueError, match=f"hyperparameter 'x': .*{message}"),
        spaces.named("x"),
    ):
        make()


def rates():
    return spaces.Space(
        {
            "learning_rate": spaces.LogUniform(1e-4, 1e-2, bounds=(1e-6, 1e-1)),
            "unroll_length": spaces.IntUniform(1, 50),
            "discount": spaces.Constant(0.99),
            "batch": spaces.Choice((16, 32)),
        },
        adapt=("unroll_length", "learning_rate"),
    )


def test_space_json_round_trip_draws_the_same():
    space = rates()
    again = spaces.Space.from_json(through_json(space.to_json()))
    assert again == space
    first, second = (each.sample(np.random.default_rng(3)) for each in (space, again))
    assert first == second
    space.validate(first)


def test_names_of_any_kind_survive_json():
    space = spaces.Space({"a.b c'; --": spaces.Uniform(0, 1), "λ": spaces.Constant(1)})
    assert spaces.Space.from_json(through_json(space.to_json())) == space


def test_space_clips_and_rounds():
    values = {"learning_rate": 7.0, "unroll_length": 0.2, "discount": 0.5, "batch": 25}
    clipped = rates().clip(values)
    assert clipped == {"learning_rate": 0.1, "unroll_length": 1, "discount": 0.99, "batch": 32}
    rates().validate(clipped)
    assert rates().used(clipped)["unroll_length"] == 1


def test_fixed_hyperparameters_are_constant_and_not_adapted():
    fixed = rates().fix({"learning_rate": 7e-4})
    assert fixed.adapt == ("unroll_length",)
    assert fixed.sample(np.random.default_rng(0))["learning_rate"] == 7e-4
    with pytest.raises(ValueError, match=r"unknown .*'learning_rte'.*learning_rate"):
        rates().fix({"learning_rte": 1})
    with pytest.raises(ValueError, match=r"'learning_rate'.*finite"):
        rates().fix({"learning_rate": math.nan})


GOOD = {"learning_rate": 1e-3, "unroll_length": 3.4, "discount": 0.99, "batch": 16}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learning_rate": math.nan}, "'learning_rate': value=nan must be finite"),
        ({"learning_rate": 1.0}, "'learning_rate': value=1.0 is outside .*nearest.* 0.1"),
        ({"unroll_length": 50.1}, "'unroll_length'.*nearest.* 50"),
        ({"discount": 0.9}, "'discount'.*nearest.* 0.99"),
        ({"batch": 17}, "'batch'.*nearest.* 16"),
        ({"entropy_cost": 1}, "unknown hyperparameter 'entropy_cost'"),
        ({"unroll_lenght": 1}, "did you mean unroll_length"),
    ],
)
def test_validate_names_hyperparameter_value_rule_and_way_out(change, message):
    rates().validate(GOOD)
    with pytest.raises(ValueError, match=message):
        rates().validate(GOOD | change)


def test_validate_misses_nothing():
    for name in GOOD:
        values = {other: value for other, value in GOOD.items() if other != name}
        with pytest.raises(ValueError, match=f"'{name}' has no value"):
            rates().validate(values)


@pytest.mark.parametrize(
    ("dimensions", "adapt", "message"),
    [
        ({"a": spaces.Constant(1)}, ("a",), "'a'.*cannot be adapted"),
        ({"a": spaces.Choice((1,))}, ("a",), "'a'.*cannot be adapted"),
        ({"a": spaces.IntUniform(0, 5)}, ("a",), "'a'.*adapted below 1"),
        ({"a": spaces.IntUniform(1, 5, (0, 5))}, ("a",), "'a'.*adapted below 1"),
        ({"a": spaces.Uniform(0, 1)}, ("b",), "unknown hyperparameter 'b'"),
        ({"alpha": spaces.Uniform(0, 1)}, ("alpa",), "did you mean alpha"),
        ({}, ("alpha",), "known are none"),
        ({"a": spaces.Uniform(0, 1)}, ("a", "a"), "twice"),
        ({"a": spaces.Uniform(0, 1)}, "a", "not one string"),
        ({"": spaces.Uniform(0, 1)}, (), "a name must be"),
        ({"a": 3.0}, (), "'a': 3.0 must be one of LogUniform"),
    ],
)
def test_a_bad_space_is_refused(dimensions, adapt, message):
    with pytest.raises(ValueError, match=message):
        spaces.Space(dimensions, adapt)


@pytest.mark.parametrize(
    ("described", "message"),
    [
        ({"kind": "Normal"}, "'a': kind='Normal' must be one of LogUniform"),
        ({"kind": "Constant", "value": 1, "x": 2}, "'a': Constant has no field 'x'"),
        ({"kind": "Uniform", "low": 2, "high": 1}, "'a': low=2.0 .*swap"),
    ],
)
def test_a_bad_description_is_refused_with_the_name(described, message):
    with pytest.raises(ValueError, match=message):
        spaces.Space.from_json({"dimensions": {"a": described}, "adapt": []})


def test_a_space_cannot_be_changed():
    mapping = {"a": spaces.Uniform(0, 1)}
    space = spaces.Space(mapping, ("a",))
    del mapping["a"]
    assert "a" in space.dimensions
    with pytest.raises(dataclasses.FrozenInstanceError):
        space.adapt = ()
