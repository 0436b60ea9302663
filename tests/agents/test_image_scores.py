"""Scores against loops in the papers' notation, closed forms, and SciPy's root of a matrix."""

import math

import numpy as np
import pytest
import scipy.linalg

from agents import image_scores


def random_probabilities(count=60, classes=7, seed=0):
    return np.random.default_rng(seed).dirichlet(np.full(classes, 0.3), size=count)


def slow_inception(probabilities):
    """exp(E_x KL(p(y|x) || p(y))), one image and one class at a time."""
    count, classes = probabilities.shape
    marginal = [sum(row[y] for row in probabilities) / count for y in range(classes)]
    total = 0.0
    for row in probabilities:
        for y in range(classes):
            if row[y] > 0:
                total += row[y] * math.log(row[y] / marginal[y])
    return math.exp(total / count)


@pytest.mark.parametrize("splits", [1, 3, 4, 60])
def test_each_split_is_the_score_of_its_own_images(splits):
    rows = random_probabilities()
    size = len(rows) // splits
    found = image_scores.inception_scores(rows, splits)
    wanted = [slow_inception(rows[n * size : (n + 1) * size]) for n in range(splits)]
    np.testing.assert_allclose(found, wanted)


def test_the_rest_of_a_division_is_left_out():
    rows = random_probabilities(23)
    np.testing.assert_array_equal(
        image_scores.inception_scores(rows, 5), image_scores.inception_scores(rows[:20], 5)
    )


@pytest.mark.parametrize("classes", [2, 10])
def test_certain_and_even_images_score_the_number_of_classes(classes):
    rows = np.tile(np.eye(classes), (30, 1))
    np.testing.assert_allclose(image_scores.inception_scores(rows, 3), classes)


@pytest.mark.parametrize("row", [[0.1] * 10, [1.0] + [0.0] * 9, [0.5, 0.3, 0.2]])
def test_images_that_are_all_alike_score_1(row):
    np.testing.assert_allclose(image_scores.inception_scores(np.array([row] * 12), 2), 1)


def test_single_precision_and_rounded_sums_are_taken():
    rows = random_probabilities().astype(np.float32)
    found = image_scores.inception_scores(rows, 1)
    np.testing.assert_allclose(found, slow_inception(rows.astype(float)), rtol=1e-6)


def test_nan_stays_in_its_split():
    rows = random_probabilities()
    rows[0] = np.nan
    found = image_scores.inception_scores(rows, 3)
    assert np.isnan(found).tolist() == [True, False, False]


@pytest.mark.parametrize(
    ("rows", "splits", "message"),
    [
        (np.ones(4), 1, r"shape \(4,\): use \[images, classes\]"),
        (np.full((3, 2), 0.5), 4, "splits 4: use 1 to the number of images, 3"),
        (np.full((3, 2), 0.5), 0, "splits 0: use 1"),
        (np.full((3, 2), 0.6), 1, "the rows are no probabilities"),
        (np.array([[1.5, -0.5]]), 1, "the rows are no probabilities"),
    ],
)
def test_refuses_what_has_no_score(rows, splits, message):
    with pytest.raises(ValueError, match=message):
        image_scores.inception_scores(rows, splits)


def with_moments(mean, covariance, count=400, seed=0):
    """Return features whose mean and covariance are exactly these."""
    rows = np.random.default_rng(seed).normal(size=(count, len(mean)))
    rows -= rows.mean(0)
    covered = np.atleast_2d(np.cov(rows, rowvar=False))
    rows = rows @ np.linalg.inv(np.linalg.cholesky(covered)).T
    return mean + rows @ scipy.linalg.sqrtm(covariance).real.T


def random_covariance(size, seed):
    root = np.random.default_rng(seed).normal(size=(size, size))
    return root @ root.T + 0.1 * np.eye(size)


def test_for_independent_features_it_is_the_closed_form():
    """Then it is the sum of (m1 - m2)^2 + (s1 - s2)^2 over the features."""
    m1, m2 = np.array([0.0, 1.0, -2.0]), np.array([3.0, 1.0, 2.0])
    s1, s2 = np.array([1.0, 2.0, 0.5]), np.array([4.0, 2.0, 1.5])
    first = with_moments(m1, np.diag(s1**2), seed=1)
    second = with_moments(m2, np.diag(s2**2), count=150, seed=2)
    wanted = ((m1 - m2) ** 2 + (s1 - s2) ** 2).sum()
    assert image_scores.frechet_distance(first, second) == pytest.approx(wanted)


@pytest.mark.parametrize("size", [1, 2, 9])
def test_it_is_equation_6_with_scipys_root(size):
    c1, c2 = random_covariance(size, 1), random_covariance(size, 2)
    m1, m2 = np.random.default_rng(3).normal(size=(2, size))
    found = image_scores.frechet_distance(
        with_moments(m1, c1, seed=4), with_moments(m2, c2, seed=5)
    )
    root = scipy.linalg.sqrtm(c1 @ c2).real
    wanted = np.sum((m1 - m2) ** 2) + np.trace(c1 + c2 - 2 * root)
    assert found == pytest.approx(wanted, rel=1e-6)
    swapped = image_scores.frechet_distance(
        with_moments(m2, c2, seed=5), with_moments(m1, c1, seed=4)
    )
    assert swapped == pytest.approx(found)


def test_equal_sets_have_distance_0_and_a_shift_its_square():
    rows = np.random.default_rng(0).normal(size=(50, 6))
    assert image_scores.frechet_distance(rows, rows[::-1]) == pytest.approx(0, abs=1e-9)
    shift = np.arange(6.0)
    assert image_scores.frechet_distance(rows, rows + shift) == pytest.approx((shift**2).sum())


def test_features_that_never_fire_and_sets_smaller_than_their_dimension_are_fine():
    rows = np.random.default_rng(0).normal(size=(5, 20))
    rows[:, 7:] = 0
    found = image_scores.frechet_distance(rows, 2 * rows)
    # C2 = 4 C1, so the root of C1 C2 is 2 C1.
    wanted = np.sum(rows.mean(0) ** 2) + np.trace(np.cov(rows, rowvar=False))
    assert found == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("one", "other"),
    [((4, 3), (4, 2)), ((1, 3), (4, 3)), ((4, 3), (1, 3)), ((4,), (4,))],
)
def test_refuses_features_without_a_distance(one, other):
    with pytest.raises(ValueError, match=r"use \[N, D\] and \[M, D\]"):
        image_scores.frechet_distance(np.zeros(one), np.zeros(other))
