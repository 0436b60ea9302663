"""Explore: change a member's hyperparameters after it copied another one.

Each strategy is a pure function `(hyperparameters, space, rng) -> Exploration`. It changes each
hyperparameter in `space.adapt` on its own, never beyond its bounds, and no other. The settings of
the strategies are checked by `pbt.run.RunConfig`.

Source: "Population Based Training of Neural Networks", Jaderberg et al. 2017
(https://arxiv.org/abs/1711.09846), section 4.1: each hyperparameter is perturbed by a factor
of 1.2 or 0.8, or resampled from its prior with some probability.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from pbt import space as spaces

FACTORS = (0.8, 1.2)


class Exploration(NamedTuple):
    """New hyperparameters, and how they came about."""

    hyperparameters: dict[str, float]
    evidence: dict[str, Any]
    """JSON. "changes" holds the value before and after, and how, by name in `space.adapt`."""


def perturb(
    hyperparameters: Mapping[str, float],
    space: spaces.Space,
    rng: np.random.Generator,
    factors: Sequence[float] = FACTORS,
) -> Exploration:
    """Multiply each adapted hyperparameter by one of `factors`, drawn independently."""

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

    The paper's two-parameter example (figure 2) needs it, because a weight of 0 must be able to
    grow.
    """

    def change(dimension: spaces.Dimension, value: float) -> tuple[float, dict[str, Any]]:
        noise = float(rng.normal(0.0, standard_deviation))
        return dimension.clip(value + noise), {"noise": noise}

    return _explore("gaussian", hyperparameters, space, change)


def _explore(
    strategy: str,
    hyperparameters: Mapping[str, float],
    space: spaces.Space,
    change: Callable[[spaces.Dimension, float], tuple[float, dict[str, Any]]],
) -> Exploration:
    """Apply `change` in the order of the names, so that the draws do not depend on the space's."""
    explored = dict(hyperparameters)
    changes = {}
    for name in sorted(space.adapt):
        with spaces.named(name):
            explored[name], how = change(space.dimensions[name], hyperparameters[name])
        changes[name] = {"before": hyperparameters[name], "after": explored[name], **how}
    return Exploration(explored, {"strategy": strategy, "changes": changes})


def _draw(factors: Sequence[float], rng: np.random.Generator) -> float:
    return float(factors[int(rng.integers(len(factors)))])
