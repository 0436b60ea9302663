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
    """Count the pairs, task by task."""
    x, y = (np.asarray(a, float).reshape(len(a), -1) for a in (x, y))
    tasks = []
    for task in range(x.shape[1]):
        won = [
            1.0 if a > b else 0.5 if a == b else 0.0
            for a, b in itertools.product(x[:, task], y[:, task])
        ]
        tasks.append(math.fsum(won) / len(won))
    return math.fsum(tasks) / len(tasks)


@pytest.mark.parametrize("shape", [(1,), (2,), (3,), (4,), (7,), (10,), (30,), (5, 3), (10, 4)])
def test_iqm_is_the_mean_of_the_middle_half(shape):
    scores = np.random.default_rng(len(shape)).normal(3, 10, shape)
    assert aggregates.iqm(scores) == pytest.approx(slow_iqm(scores), abs=1e-12)
    assert aggregates.iqm(scores) == scipy.stats.trim_mean(scores, 0.25, axis=None)
    assert isinstance(aggregates.iqm(scores), float)


def test_iqm_is_not_moved_by_one_outlier():
    assert aggregates.iqm([1, 2, 3, 4, 5, 6, 7, 1e9]) == pytest.approx(4.5)


@pytest.mark.parametrize("statistic", [aggregates.iqm, np.mean, np.median])
@pytest.mark.parametrize("count", [2, 9, 40])
def test_the_interval_of_one_task_is_scipy_s(statistic, count):
    scores = np.random.default_rng(count).exponential(5, count)

    def along(sample, axis=-1):
        if statistic is aggregates.iqm:
            return scipy.stats.trim_mean(sample, 0.25, axis=axis)
        return statistic(sample, axis=axis)

    expected = scipy.stats.bootstrap(
        (scores,),
        along,
        n_resamples=10_000,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    assert aggregates.interval(scores, statistic) == pytest.approx(tuple(expected), rel=1e-9)


def test_the_interval_draws_runs_within_each_task():
    rng = np.random.default_rng(4)
    # Tasks of very different scale: to mix them would be seen.
    scores = rng.normal([0, 100, 1_000], [1, 5, 20], (6, 3))
    drawn = []
    for _ in range(4_000):
        sample = np.empty_like(scores)
        for task in range(3):
            for run in range(6):
                sample[run, task] = scores[rng.integers(6), task]
        drawn.append(sample.mean())
    expected = np.quantile(drawn, [0.025, 0.975])
    low, high = aggregates.interval(scores, np.mean)
    assert (low, high) == pytest.approx(expected, abs=0.08 * (expected[1] - expected[0]))
    mixed_low, mixed_high = aggregates.interval(scores.ravel(), np.mean)
    assert mixed_high - mixed_low > 10 * (high - low)


def test_any_statistic_gets_samples_of_the_scores_shape():
    scores = np.random.default_rng(5).normal(size=(7, 2))
    shapes = set()

    def best_task(sample):
        shapes.add(sample.shape)
        return sample.mean(axis=0).max()

    low, high = aggregates.interval(scores, best_task, resamples=300)
    assert shapes == {(7, 2)}
    assert low < best_task(scores) < high


def test_one_statistic_written_twice_has_one_interval():
    scores = np.random.default_rng(6).normal(size=(8, 3))
    slow = aggregates.interval(scores, slow_iqm, resamples=1_500)
    assert slow == pytest.approx(aggregates.interval(scores, resamples=1_500), abs=1e-12)


def test_a_seed_is_an_interval():
    scores = np.random.default_rng(7).normal(size=10)
    assert aggregates.interval(scores) == aggregates.interval(list(scores))
    assert aggregates.interval(scores) != aggregates.interval(scores, seed=1)


@pytest.mark.parametrize(
    ("statistic", "runs", "promised"),
    [
        (aggregates.iqm, 5, 0.90),
        (aggregates.iqm, 10, 0.94),
        (np.mean, 5, 0.84),
        (np.mean, 10, 0.90),
        (np.mean, 20, 0.93),
    ],
)
def test_coverage_is_what_the_docstring_says(statistic, runs, promised):
    scores = np.random.default_rng(8).normal(7, 2, (1_000, runs))
    covered = [
        low <= 7 <= high
        for low, high in (aggregates.interval(row, statistic, 400, seed=3) for row in scores)
    ]
    # Three standard errors of 1,000 repetitions, and the rounding of what is promised.
    tolerance = 3 * math.sqrt(promised * (1 - promised) / len(scores)) + 0.005
    assert abs(np.mean(covered) - promised) < tolerance


def test_the_interval_of_curves_draws_whole_runs():
    rng = np.random.default_rng(12)
    curves = rng.normal(size=(7, 3)).cumsum(axis=1)
    draws = np.random.default_rng(3).integers(0, 7, (500, 7))
    drawn = [[slow_iqm(curves[chosen, point]) for point in range(3)] for chosen in draws]
    expected = np.quantile(drawn, [0.025, 0.975], axis=0)
    ends = aggregates.curve_interval(curves, resamples=500, seed=3)
    assert np.array(ends) == pytest.approx(expected)
    low, _ = aggregates.curve_interval(curves)
    shifted = aggregates.curve_interval(np.column_stack([curves, curves[:, 0] + 5]))
    assert shifted[0][3] == pytest.approx(low[0] + 5)  # the same runs at every point
    assert np.isnan(aggregates.curve_interval([[1.0, 2.0]])).all()
    with pytest.raises(ValueError, match="runs, points"):
        aggregates.curve_interval([1.0, 2.0])


@pytest.mark.parametrize("shapes", [((3,), (5,)), ((10,), (10,)), ((4, 3), (6, 3))])
def test_the_probability_of_improvement_counts_pairs(shapes):
    rng = np.random.default_rng(9)
    x, y = (rng.integers(0, 6, shape) for shape in shapes)  # with ties
    probability, (low, high) = aggregates.probability_of_improvement(x, y)
    assert probability == pytest.approx(slow_improvement(x, y))
    assert aggregates.probability_of_improvement(y, x)[0] == pytest.approx(1 - probability)
    assert 0 <= low <= probability <= high <= 1
    if len(shapes[0]) == 1:
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
        aggregates.interval([[3.0, 4.0]]),
        aggregates.paired_interval([1.0]),
        aggregates.probability_of_improvement([2.0], [1.0, 0.5])[1],
        aggregates.probability_of_improvement([2.0, 3.0], [1.0])[1],
    ):
        assert np.isnan(ends).all()
    assert aggregates.iqm([3.0]) == 3.0
    assert aggregates.probability_of_improvement([2.0], [1.0, 2.0])[0] == 0.75


def test_equal_scores_have_an_interval_of_no_width():
    assert aggregates.interval([2.5] * 5) == (2.5, 2.5)
    assert aggregates.interval(np.full((5, 2), 2.5)) == (2.5, 2.5)
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
    for shape in [(0,), (), (2, 0), (2, 2, 2)]:
        with pytest.raises(ValueError, match="shape"):
            aggregates.iqm(np.ones(shape))
    with pytest.raises(ValueError, match="one per pair"):
        aggregates.paired_interval([[1.0, 2.0]])
    with pytest.raises(ValueError, match="same tasks"):
        aggregates.probability_of_improvement(np.ones((3, 2)), np.ones((3, 4)))
    with pytest.raises(ValueError, match="0 resamples"):
        aggregates.interval([1.0, 2.0], resamples=0)


def test_human_normalised():
    assert aggregates.human_normalised("Pong", -20.7) == 0.0
    assert aggregates.human_normalised("Pong", 14.6) == pytest.approx(1.0)
    assert aggregates.human_normalised("Gravitar", (173.0 + 3351.4) / 2) == pytest.approx(0.5)
    assert aggregates.human_normalised("MsPacman", 13_595.9) == pytest.approx(2.0)
    assert aggregates.human_normalised("CartPole-v1", 500.0) is None
