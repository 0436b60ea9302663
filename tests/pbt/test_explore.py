import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pbt import explore
from pbt import space as spaces

SPACE = spaces.Space(
    {
        "rate": spaces.LogUniform(1e-4, 1e-2, bounds=(1e-6, 1.0)),
        "unroll": spaces.IntUniform(1, 100),
        "batch": spaces.Choice((16, 32, 64)),
        "left_alone": spaces.Uniform(0, 1),
        "constant": spaces.Constant(3),
    },
    adapt=("unroll", "batch", "rate"),
)
START = {"rate": 1e-3, "unroll": 20.0, "batch": 32.0, "left_alone": 0.5, "constant": 3.0}
STRATEGIES = [explore.perturb, explore.resample, explore.gaussian]


@given(st.integers(0, 2**32 - 1), st.sampled_from(STRATEGIES))
@settings(deadline=None, max_examples=60)
def test_a_thousand_explorations_stay_valid_and_tell_what_they_did(seed, strategy):
    rng = np.random.default_rng(seed)
    values = dict(START)
    for step in range(1_000):
        before = dict(values)
        values, evidence = strategy(before, SPACE, rng)
        SPACE.validate(values)
        if step < 20:
            assert list(values) == list(START)
            assert values["left_alone"] == 0.5
            assert values["constant"] == 3.0
            again = json.loads(json.dumps(evidence, allow_nan=False))
            assert again == evidence
            assert evidence["changes"].keys() == set(SPACE.adapt)
            for name, change in evidence["changes"].items():
                assert change["before"] == before[name]
                assert change["after"] == values[name]


def test_the_input_is_not_changed_and_equal_generators_agree():
    for strategy in STRATEGIES:
        given_values = dict(START)
        first = strategy(given_values, SPACE, np.random.default_rng(5))
        assert given_values == START
        shuffled = spaces.Space(
            dict(reversed(SPACE.dimensions.items())), tuple(reversed(SPACE.adapt))
        )
        assert strategy(given_values, shuffled, np.random.default_rng(5)) == first


def test_perturb_draws_a_factor_for_each_hyperparameter_independently():
    rng = np.random.default_rng(0)
    pairs = []
    for _ in range(4_000):
        values, evidence = explore.perturb(START, SPACE, rng)
        rate, unroll = (evidence["changes"][name]["factor"] for name in ("rate", "unroll"))
        assert values["rate"] == START["rate"] * rate
        assert values["unroll"] == START["unroll"] * unroll
        pairs.append((rate, unroll))
    for pair in [(0.8, 0.8), (0.8, 1.2), (1.2, 0.8), (1.2, 1.2)]:
        # 1,000 expected, standard deviation 27.
        assert abs(pairs.count(pair) - 1_000) < 4 * 27


def test_perturb_takes_other_factors():
    values, _ = explore.perturb(START, SPACE, np.random.default_rng(0), factors=(2.0,))
    assert values["rate"] == 2e-3
    assert values["unroll"] == 40.0
    assert values["batch"] == 64.0


def test_resample_does_so_with_its_probability_and_independently():
    rng = np.random.default_rng(0)
    resampled = []
    for _ in range(4_000):
        changes = explore.resample(START, SPACE, rng, probability=0.25).evidence["changes"]
        for name in SPACE.adapt:
            change = changes[name]
            assert ("factor" in change) != ("resampled" in change)
        resampled.append(tuple("resampled" in changes[name] for name in ("rate", "unroll")))
    # 250 and 1,000 expected, standard deviations 15 and 27.
    assert abs(resampled.count((True, True)) - 250) < 4 * 15
    assert abs(sum(rate for rate, _ in resampled) - 1_000) < 4 * 27


def test_resample_draws_from_the_prior_not_from_the_bounds():
    rng = np.random.default_rng(0)
    values = START | {"rate": 1.0}
    for _ in range(200):
        rate = explore.resample(values, SPACE, rng, probability=1.0).hyperparameters["rate"]
        assert 1e-4 <= rate <= 1e-2


def test_resample_with_probability_zero_perturbs():
    rng = np.random.default_rng(0)
    changes = explore.resample(START, SPACE, rng, probability=0.0).evidence["changes"]
    assert all(change["factor"] in (0.8, 1.2) for change in changes.values())


def test_gaussian_noise_lets_a_zero_grow_and_has_its_standard_deviation():
    space = spaces.Space({"h": spaces.Uniform(-10, 10)}, ("h",))
    rng = np.random.default_rng(0)
    drawn = [explore.gaussian({"h": 0.0}, space, rng, 0.1)[0]["h"] for _ in range(4_000)]
    assert np.std(drawn) == pytest.approx(0.1, rel=0.05)
    assert abs(np.mean(drawn)) < 4 * 0.1 / math.sqrt(4_000)


def test_gaussian_noise_is_clipped():
    space = spaces.Space({"h": spaces.Uniform(0, 1)}, ("h",))
    rng = np.random.default_rng(0)
    drawn = [explore.gaussian({"h": 0.0}, space, rng, 0.1)[0]["h"] for _ in range(100)]
    assert min(drawn) == 0.0
    assert max(drawn) > 0.0
