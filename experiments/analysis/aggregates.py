"""Aggregate scores of several runs as the field reports them.

The interquartile mean, percentile bootstrap intervals and the probability of improvement follow
*Deep Reinforcement Learning at the Edge of the Statistical Precipice*, Agarwal et al. 2021
(https://arxiv.org/abs/2108.13264). The authors' package, rliable 1.2.0, is not used because it
brings nine more packages, two of which do not import together with this suite's versions.

NaN and infinity are refused: the caller has to explain a run without a score. A single run has no
interval, so both ends are NaN. A bootstrap of few runs is too narrow.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.stats
from numpy.typing import ArrayLike, NDArray

LEVEL = 0.95
"""Confidence level of every interval."""
_BATCH = 1_000
"""Resamples held in memory at once."""

HUMAN_SCORES = {
    "Amidar": (5.8, 1719.5),
    "Breakout": (1.7, 30.5),
    "Enduro": (0.0, 860.5),
    "Gravitar": (173.0, 3351.4),
    "MsPacman": (307.3, 6951.6),
    "Pong": (-20.7, 14.6),
}
"""Mean returns of uniformly random play and of a professional human tester, by game.

The four games of the PBT paper and two more of this suite, with up to 30 no-ops at the start and
30 minutes at most. From
https://github.com/google-deepmind/dqn_zoo/blob/359945d/dqn_zoo/atari_data.py."""

trimmed_mean = functools.partial(scipy.stats.trim_mean, proportiontocut=0.25)
"""Interquartile mean along an axis, without the checks of `iqm`."""


def iqm(scores: ArrayLike) -> float:
    """Return the interquartile mean: the mean of the middle half of the scores.

    A quarter of the scores is left out at either end, rounded down. Of fewer than four scores none
    is left out.

    Raises:
        ValueError: There are no scores, or one is not finite.
    """
    return float(trimmed_mean(_checked(scores)))


def interval(
    scores: ArrayLike, statistic: Callable[..., Any] = trimmed_mean, resamples: int = 10_000
) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval of a statistic of the scores.

    Args:
        scores: One score per run, `[runs]`.
        statistic: Function of an array and an `axis`, such as `np.mean`. Default: the
            interquartile mean.
        resamples: Number of bootstrap resamples. They are drawn with a fixed seed, so that the same
            scores have the same interval.

    Returns:
        Low and high end. Both are NaN for a single run.

    Raises:
        ValueError: There are no scores, or one is not finite.
    """
    low, high = _bootstrap((_checked(scores),), statistic, resamples)
    return float(low), float(high)


def band(curves: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return mean, low and high end of the 95 % bootstrap interval at each point of curves.

    Each interval holds for its point alone.

    Args:
        curves: One finite curve per run, `[runs, points]`.

    Returns:
        Three arrays `[points]`. The ends are NaN for a single run.
    """
    by_point = np.ascontiguousarray(np.asarray(curves, np.float64).T)  # [points, runs]
    return by_point.mean(axis=-1), *_bootstrap((by_point,), np.mean)


def probability_of_improvement(x: ArrayLike, y: ArrayLike) -> tuple[float, tuple[float, float]]:
    """Return how likely a run of `x` scores above a run of `y`: P(X > Y) + P(X = Y) / 2.

    All pairs of runs count, whether or not they share a seed.

    Args:
        x: One score per run, `[runs]`.
        y: The same of the other side. The number of runs may differ.

    Returns:
        The probability, and its 95 % percentile bootstrap interval: runs of `x` and of `y` are
        resampled independently. The ends are NaN if either is a single run.

    Raises:
        ValueError: There are no scores, or one is not finite.
    """
    samples = _checked(x), _checked(y)
    low, high = _bootstrap(samples, _improvement)
    return float(_improvement(*samples)), (float(low), float(high))


def paired_interval(differences: ArrayLike) -> tuple[float, float]:
    """Return the 95 % interval of the mean of paired differences by Student's t.

    Differences of the same seed are near enough to normal for it, and too few for a bootstrap.

    Args:
        differences: One difference per pair, `[pairs]`.

    Returns:
        Low and high end. Both are NaN for a single pair.

    Raises:
        ValueError: There are no differences, or one is not finite.
    """
    values = _checked(differences)
    if len(values) == 1:
        return math.nan, math.nan
    if np.ptp(values) == 0:  # SciPy warns of a division by zero
        return float(values[0]), float(values[0])
    ends = scipy.stats.ttest_1samp(values, 0.0).confidence_interval(LEVEL)
    return float(ends.low), float(ends.high)


def human_normalised(game: str, score: float) -> float | None:
    """Return a score on the scale on which random play is 0 and a human tester is 1.

    Args:
        game: Plain name of the game, such as `MsPacman`.
        score: Raw return.

    Returns:
        The normalised score, or None for a game that `HUMAN_SCORES` does not have.
    """
    if game not in HUMAN_SCORES:
        return None
    random, human = HUMAN_SCORES[game]
    return (score - random) / (human - random)


def _bootstrap(
    samples: tuple[NDArray[np.float64], ...],
    statistic: Callable[..., Any],
    resamples: int = 10_000,
) -> tuple[Any, Any]:
    """Return both ends of the interval, `[...]`, from samples `[..., runs]`."""
    if min(sample.shape[-1] for sample in samples) == 1:
        nothing = np.full(samples[0].shape[:-1], math.nan)
        return nothing, nothing
    ends = scipy.stats.bootstrap(
        samples,
        statistic,
        n_resamples=resamples,
        batch=_BATCH,
        axis=-1,
        confidence_level=LEVEL,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return ends.low, ends.high


def _improvement(x: NDArray[np.float64], y: NDArray[np.float64], axis: int = -1) -> Any:
    first, second = np.moveaxis(x, axis, -1), np.moveaxis(y, axis, -1)
    first, second = first[..., :, None], second[..., None, :]  # [..., runs of x, runs of y]
    return ((first > second) + 0.5 * (first == second)).mean(axis=(-2, -1))


def _checked(scores: ArrayLike) -> NDArray[np.float64]:
    values = np.asarray(scores, np.float64)
    if values.ndim != 1 or values.size == 0:
        raise ValueError(f"the scores have shape {values.shape}: give [runs], at least one")
    if not np.isfinite(values).all():
        raise ValueError(
            f"{np.count_nonzero(~np.isfinite(values))} of {values.size} scores are not finite: "
            "leave such runs out, and say so"
        )
    return values
