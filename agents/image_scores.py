"""Scores of generated images: the Inception score and the Frechet distance, in double precision.

Both see images only through a classifier. Scores of two classifiers must not be compared.
"""

import numpy as np
import scipy.special
from numpy.typing import NDArray

Array = NDArray[np.floating]


def inception_scores(probabilities: Array, splits: int) -> NDArray[np.float64]:
    """Return exp(E_x KL(p(y|x) || p(y))) of each split of a set of images.

    The score is 1 if every image has the same class probabilities. It is the number of classes if
    each image certainly is of one class and all classes come up equally often. Salimans et al. 2016
    (https://arxiv.org/abs/1606.03498), section 4. p(y) is the mean of p(y|x) over the split, so the
    score of a small split is a little too high.

    Args:
        probabilities: p(y|x), one row per image, [N, classes].
        splits: Number of parts of equal size, in the order of the images. The last N mod `splits`
            images are left out.

    Returns:
        The score of each split, [splits]. It is NaN where a probability is.

    Raises:
        ValueError: The array has another shape, there are fewer images than splits, or rows are no
            probabilities.
    """
    if probabilities.ndim != 2:
        raise ValueError(f"probabilities of shape {probabilities.shape}: use [images, classes]")
    if not 1 <= splits <= len(probabilities):
        raise ValueError(f"splits {splits}: use 1 to the number of images, {len(probabilities)}")
    size = len(probabilities) // splits
    parts = np.asarray(probabilities, np.float64)[: size * splits].reshape(splits, size, -1)
    if (parts < 0).any() or (np.abs(parts.sum(-1) - 1) > 1e-3).any():
        raise ValueError("the rows are no probabilities: use numbers from 0 on with the sum 1")
    marginal = parts.mean(1, keepdims=True)  # p(y), [splits, 1, classes]
    divergence = scipy.special.rel_entr(parts, marginal).sum(-1)  # [splits, size]; 0 log 0 is 0
    return np.asarray(np.exp(divergence.mean(1)))


def frechet_distance(features: Array, other_features: Array) -> float:
    """Return the squared Frechet distance of the Gaussians that fit two sets of features.

        |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2))

    Heusel et al. 2017 (https://arxiv.org/abs/1706.08500), equation 6. The trace of the root is that
    of (R C2 R)^(1/2) with R = C1^(1/2), whose argument is symmetric, so that singular covariances
    make no trouble. The estimate of a small set is too high: compare sets of equal size.

    Args:
        features: One row per image, [N, D].
        other_features: One row per image, [M, D].

    Raises:
        ValueError: The arrays have other shapes, or one has fewer than two rows.
    """
    sets = [np.asarray(one, np.float64) for one in (features, other_features)]
    shapes = [one.shape for one in sets]
    if any(len(shape) != 2 or shape[0] < 2 for shape in shapes) or shapes[0][1] != shapes[1][1]:
        raise ValueError(
            f"features of shapes {shapes[0]} and {shapes[1]}: use [N, D] and [M, D] with N and M "
            "from 2 on"
        )
    means = [one.mean(0) for one in sets]
    first, second = (np.cov(one, rowvar=False).reshape(one.shape[1], -1) for one in sets)
    values, vectors = np.linalg.eigh(first)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    squares = np.linalg.eigvalsh(root @ second @ root)
    trace_of_root = np.sqrt(np.maximum(squares, 0)).sum()
    distance = np.sum((means[0] - means[1]) ** 2) + np.trace(first + second) - 2 * trace_of_root
    return max(0.0, float(distance))  # rounding may leave equal sets slightly below 0
