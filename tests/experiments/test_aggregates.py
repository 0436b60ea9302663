"""Aggregates against slow versions in plain Python, SciPy, and what intervals are to cover."""

import itertools
import math

import numpy as np
import pytest
import scipy.stats

from experiments.analysis import aggregates


def slow_iqm(scores):
    """Sort all scores, leave out a quarter at either end, rounded down, and average the rest."""
    ranked = sorted(float(score) for score in np.asarray(scores).flat)
    out = math.floor(len(ranked) / 4)
    kept = ranked[out : len(ranked) - out]
    return math.fsum(kept) / len(kept)


def slow_improvement(x, y):
    """Count the pairs."""
    won = [1.0 if a > b else 0.5 if a == b else 0.0 for a, b in itertools.product(x, y)]
    return math.fsum(won) / len(won)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 10, 30])
def test_iqm_is_the_mean_of_the_middle_half(count):
    scores = np.random.default_rng(count).normal(3, 10, count)
    assert aggregates.iqm(scores) == pytest.approx(slow_iqm(scores), abs=1e-12)
    assert isinstance(aggregates.iqm(scores), float)


def test_iqm_is_not_moved_by_one_outlier():
    assert aggregates.iqm([1, 2, 3, 4, 5, 6, 7, 1e9]) == pytest.approx(4.5)


@pytest.mark.parametrize(
    ("statistic", "slow"),
    [(aggregates.trimmed_mean, slow_iqm), (np.mean, np.mean), (np.median, np.median)],
)
@pytest.mark.parametrize("count", [2, 9, 40])
def test_the_interval_is_that_of_resampled_runs(statistic, slow, count):
    scores = np.random.default_rng(count).exponential(5, count)
    chosen = np.random.default_rng(0).integers(0, count, (2_000, count))
    expected = np.quantile([slow(scores[places]) for places in chosen], [0.025, 0.975])
    assert aggregates.interval(scores, statistic, resamples=2_000) == pytest.approx(expected)


def test_the_same_scores_have_the_same_interval():
    scores = np.random.default_rng(7).normal(size=10)
    assert aggregates.interval(scores) == aggregates.interval(list(scores))


@pytest.mark.parametrize(
    ("statistic", "runs", "promised"),
    [
        (aggregates.trimmed_mean, 5, 0.90),
        (aggregates.trimmed_mean, 10, 0.94),
        (np.mean, 5, 0.84),
        (np.mean, 10, 0.90),
        (np.mean, 20, 0.93),
    ],
)
def test_intervals_of_few_runs_are_too_narrow(statistic, runs, promised):
    """The share of intervals that cover the true mean of normal scores, nominally 95 %."""
    scores = np.random.default_rng(8).normal(7, 2, (1_000, runs))
    covered = [
        low <= 7 <= high
        for low, high in (aggregates.interval(row, statistic, 400) for row in scores)
    ]
    # Three standard errors of 1,000 repetitions, and the rounding of what is promised.
    tolerance = 3 * math.sqrt(promised * (1 - promised) / len(scores)) + 0.005
    assert abs(np.mean(covered) - promised) < tolerance


def test_a_band_is_the_mean_and_its_interval_at_each_point():
    curves = np.random.default_rng(12).normal(size=(7, 3)).cumsum(axis=1)
    mean, low, high = aggregates.band(curves)
    assert mean == pytest.approx(curves.mean(axis=0))
    for point in range(3):
        expected = aggregates.interval(curves[:, point], np.mean)
        assert (low[point], high[point]) == pytest.approx(expected)
    mean, low, high = aggregates.band([[1.0, 2.0]])
    assert mean.tolist() == [1.0, 2.0]
    assert np.isnan([low, high]).all()


@pytest.mark.parametrize("counts", [(3, 5), (10, 10)])
def test_the_probability_of_improvement_counts_pairs(counts):
    rng = np.random.default_rng(9)
    x, y = (rng.integers(0, 6, count) for count in counts)  # with ties
    probability, (low, high) = aggregates.probability_of_improvement(x, y)
    assert probability == pytest.approx(slow_improvement(x, y))
    assert aggregates.probability_of_improvement(y, x)[0] == pytest.approx(1 - probability)
    assert 0 <= low <= probability <= high <= 1
    u = scipy.stats.mannwhitneyu(x, y).statistic
    assert probability == pytest.approx(u / (len(x) * len(y)))


def test_the_interval_of_the_probability_draws_both_sides():
    rng = np.random.default_rng(10)
    x, y = rng.normal(0.5, 1, 9), rng.normal(0, 1, 7)
    drawn = [slow_improvement(rng.choice(x, 9), rng.choice(y, 7)) for _ in range(2_000)]
    expected = np.quantile(drawn, [0.025, 0.975])
    assert aggregates.probability_of_improvement(x, y)[1] == pytest.approx(expected, abs=0.03)


def test_the_probability_of_what_is_certain():
    assert aggregates.probability_of_improvement([3, 4], [1, 2, 2]) == (1.0, (1.0, 1.0))
    assert aggregates.probability_of_improvement([1, 1], [1, 1]) == (0.5, (0.5, 0.5))


def test_the_paired_interval_is_students():
    differences = np.random.default_rng(5).normal(1.0, 2.0, 12)
    expected = scipy.stats.ttest_1samp(differences, 0.0).confidence_interval(0.95)
    assert aggregates.paired_interval(differences) == pytest.approx((expected.low, expected.high))


def test_one_run_has_no_interval():
    for ends in (
        aggregates.interval([3.0]),
        aggregates.paired_interval([1.0]),
        aggregates.probability_of_improvement([2.0], [1.0, 0.5])[1],
        aggregates.probability_of_improvement([2.0, 3.0], [1.0])[1],
    ):
        assert np.isnan(ends).all()
    assert aggregates.iqm([3.0]) == 3.0
    assert aggregates.probability_of_improvement([2.0], [1.0, 2.0])[0] == 0.75


def test_equal_scores_have_an_interval_of_no_width():
    assert aggregates.interval([2.5] * 5) == (2.5, 2.5)
    assert aggregates.paired_interval([0.0, 0.0]) == (0.0, 0.0)


def test_what_is_no_score_is_refused():
    for bad in (math.nan, math.inf):
        for call in (
            aggregates.iqm,
            aggregates.interval,
            aggregates.paired_interval,
            lambda scores: aggregates.probability_of_improvement(scores, [1.0]),
            lambda scores: aggregates.probability_of_improvement([1.0], scores),
        ):
            with pytest.raises(ValueError, match="1 of 3 scores are not finite"):
                call([1.0, bad, 2.0])
    for shape in [(0,), (), (2, 0), (2, 2)]:
        with pytest.raises(ValueError, match="shape"):
            aggregates.iqm(np.ones(shape))


def test_human_normalised():
    assert aggregates.human_normalised("Pong", -20.7) == 0.0
    assert aggregates.human_normalised("Pong", 14.6) == pytest.approx(1.0)
    assert aggregates.human_normalised("Gravitar", (173.0 + 3351.4) / 2) == pytest.approx(0.5)
    assert aggregates.human_normalised("MsPacman", 13_595.9) == pytest.approx(2.0)
    assert aggregates.human_normalised("CartPole-v1", 500.0) is None
