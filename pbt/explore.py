"""Explore: how a member's hyperparameters change after it copied.

Each strategy is a pure function `(hyperparameters, space, rng) -> Exploration`. It changes
the names in `space.adapt`, each independently and never beyond its bounds, and leaves the
rest alone.

Source: "Population Based Training of Neural Networks", Jaderberg et al. 2017
(https://arxiv.org/abs/1711.09846), section 4.1: each hyperparameter is perturbed by a factor
of 1.2 or 0.8, or resampled from its prior with some probability.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from pbt import space as spaces

FACTORS = (0.8, 1.2)


class Exploration(NamedTuple):
    """New hyperparameters, and how they came about."""

    hyperparameters: dict[str, float]
    evidence: dict[str, Any]
    """JSON-able: "changes" holds before, after and how for each name in `space.adapt`."""


def perturb(
    hyperparameters: Mapping[str, float],
    space: spaces.Space,
    rng: np.random.Generator,
    factors: Sequence[float] = FACTORS,
) -> Exploration:
    """Multiply each adapted hyperparameter by one of `factors`, drawn independently."""
    check_factors(factors)

    def change(dimension: spaces.Dimension, value: float) -> tuple[float, dict[str, Any]]:
        factor = _draw(factors, rng)
        return dimension.perturb(value, factor), {"factor": factor}

    return _explore("perturb", hyperparameters, space, change)


def resample(
    hyperparameters: Mapping[str, float],
    space: spaces.Space,
    rng: np.random.Generator,
    probability: float = 0.25,
    factors: Sequence[float] = FACTORS,
) -> Exploration:
    """Draw each adapted hyperparameter from its prior with `probability`, else perturb it.

    The paper says "with some probability"; 0.25 is our choice.
    """
    check_factors(factors)
    check_probability(probability)

    def change(dimension: spaces.Dimension, value: float) -> tuple[float, dict[str, Any]]:
        if rng.random() < probability:
            return dimension.sample(rng), {"resampled": True}
        factor = _draw(factors, rng)
        return dimension.perturb(value, factor), {"factor": factor}

    return _explore("resample", hyperparameters, space, change)


def gaussian(
    hyperparameters: Mapping[str, float],
    space: spaces.Space,
    rng: np.random.Generator,
    standard_deviation: float = 0.1,
) -> Exploration:
    """Add Gaussian noise to each adapted hyperparameter, in its own unit.

    For the paper's two-parameter example (figure 2), where a weight of 0 must be able to grow.
    """
    if not (math.isfinite(standard_deviation) and standard_deviation > 0):
        raise ValueError(f"standard_deviation={standard_deviation!r} must be finite and above 0")

    def change(dimension: spaces.Dimension, value: float) -> tuple[float, dict[str, Any]]:
        noise = float(rng.normal(0.0, standard_deviation))
        return dimension.clip(value + noise), {"noise": noise}

    return _explore("gaussian", hyperparameters, space, change)


def check_factors(factors: Sequence[float]) -> None:
    """Refuse factors that would leave a hyperparameter where it is, or change its sign."""
    if not factors:
        raise ValueError(
            f"factors={factors!r} must hold at least one number, for example {FACTORS}"
        )
    for factor in factors:
        if not (math.isfinite(factor) and factor > 0 and factor != 1):
            raise ValueError(
                f"factors={tuple(factors)!r}: {factor!r} must be finite, above 0 and not 1,"
                f" for example {FACTORS}"
            )


def check_probability(probability: float) -> None:
    """Refuse what is no probability."""
    if not 0 <= probability <= 1:
        raise ValueError(f"probability={probability!r} must be in [0, 1], for example 0.25")


def _explore(
    strategy: str,
    hyperparameters: Mapping[str, float],
    space: spaces.Space,
    change: Callable[[spaces.Dimension, float], tuple[float, dict[str, Any]]],
) -> Exploration:
    """Apply `change` by the order of names, which survives JSON, so that the draws do too."""
    explored = dict(hyperparameters)
    changes = {}
    for name in sorted(space.adapt):
        with spaces.named(name):
            explored[name], how = change(space.dimensions[name], hyperparameters[name])
        changes[name] = {"before": hyperparameters[name], "after": explored[name], **how}
    return Exploration(explored, {"strategy": strategy, "changes": changes})


def _draw(factors: Sequence[float], rng: np.random.Generator) -> float:
    return float(factors[int(rng.integers(len(factors)))])
