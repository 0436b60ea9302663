"""Hyperparameters: where they are first drawn (prior) and what perturbing may reach (bounds).

A hyperparameter is kept as a real number on its own scale, also an integer one: an unroll
length of 2 perturbed by 1.2 must be able to grow (2 -> 2.4 -> 2.88 -> 3.46), and one of 1
perturbed by 0.8 to come back. It is rounded only where it is used (`used`).

Prior and bounds are two things. The prior says where a run begins and where "resample" draws
from; the bounds, by default the same range, say what a hundred perturbations in a row may
reach.
"""

import contextlib
import dataclasses
import difflib
import itertools
import math
import numbers
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np


@runtime_checkable
class Dimension(Protocol):
    """One hyperparameter's prior, bounds and way of moving. Immutable; knows no name."""

    def sample(self, rng: np.random.Generator) -> float:
        """Draw a latent value from the prior."""

    def perturb(self, value: float, factor: float) -> float:
        """Move `value` by `factor` (above 1: up, below 1: down), no further than the bounds."""

    def clip(self, value: float) -> float:
        """Return the nearest value inside the bounds."""

    def contains(self, value: float) -> bool:
        """Whether `value` is finite and inside the bounds."""

    def used(self, value: float) -> float | int:
        """What the learner uses for the latent `value`."""

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object from which `from_json` makes an equal dimension."""


class _Range:
    """What the three ranges share: prior [low, high] inside bounds, both closed."""

    low: float
    high: float
    bounds: tuple[float, float] | None

    def _check_range(self, convert: type[float] | type[int]) -> None:
        """Convert the limits; refuse a range that is empty or reaches outside its bounds."""
        low, high = (_number(getattr(self, name), name, convert is int) for name in ("low", "high"))
        if low >= high:
            way_out = "Constant(value) for a fixed value" if low == high else "swap them"
            raise ValueError(f"low={low!r} must be below high={high!r}: {way_out}")
        object.__setattr__(self, "low", low)
        object.__setattr__(self, "high", high)
        if self.bounds is None:
            return
        if isinstance(self.bounds, str) or len(self.bounds) != 2:
            raise ValueError(f"bounds={self.bounds!r} must be a pair (low, high)")
        floor, ceiling = (_number(value, "bounds", convert is int) for value in self.bounds)
        if floor >= ceiling:
            raise ValueError(f"bounds=({floor!r}, {ceiling!r}) must be (low, high), low < high")
        if not floor <= low < high <= ceiling:
            raise ValueError(
                f"the prior from low={low!r} to high={high!r} must lie inside"
                f" bounds=({floor!r}, {ceiling!r}): widen the bounds or narrow the prior"
            )
        object.__setattr__(self, "bounds", (floor, ceiling))

    @property
    def reach(self) -> tuple[float, float]:
        """The bounds: what perturbing may reach."""
        return (self.low, self.high) if self.bounds is None else self.bounds

    def perturb(self, value: float, factor: float) -> float:
        """Multiply, and clip to the bounds."""
        return self.clip(_number(value, "value") * _number(factor, "factor"))

    def clip(self, value: float) -> float:
        """Return the nearest value inside the bounds; refuses NaN, which is near to nothing."""
        if math.isnan(value):
            raise ValueError("value=nan has no nearest value inside the bounds")
        floor, ceiling = self.reach
        return float(min(max(value, floor), ceiling))

    def contains(self, value: float) -> bool:
        """Whether `value` is inside the bounds."""
        floor, ceiling = self.reach
        return floor <= value <= ceiling

    def used(self, value: float) -> float | int:
        """Return the value itself: the learner uses real numbers as they are."""
        return float(value)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object from which `from_json` makes an equal dimension."""
        return _to_json(self)


@dataclasses.dataclass(frozen=True)
class LogUniform(_Range):
    """A positive real number whose logarithm is uniform: rates, costs, weights."""

    low: float
    high: float
    bounds: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        self._check_range(float)
        if self.reach[0] <= 0:
            raise ValueError(
                f"low={self.reach[0]!r} must be above 0 on a logarithmic scale:"
                " raise it, or use Uniform"
            )

    def sample(self, rng: np.random.Generator) -> float:
        """Draw from the prior."""
        return _log_uniform(rng, self.low, self.high)


@dataclasses.dataclass(frozen=True)
class Uniform(_Range):
    """A real number, uniform. Perturbing never changes its sign; resampling may."""

    low: float
    high: float
    bounds: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        self._check_range(float)
        if not math.isfinite(self.high - self.low):
            raise ValueError(f"the range from low={self.low!r} to high={self.high!r} is too wide")

    def sample(self, rng: np.random.Generator) -> float:
        """Draw from the prior."""
        return float(rng.uniform(self.low, self.high))


@dataclasses.dataclass(frozen=True)
class IntUniform(_Range):
    """An integer, kept as a latent real number and rounded (half up) where it is used.

    The latent value lies in [low, high]. It is drawn from half a unit more on either side and
    then clipped, so that the ends come up as often as every other integer. With `log` the
    chance of k is proportional to log((k + 1/2) / (k - 1/2)), so about to 1/k.
    """

    low: int
    high: int
    bounds: tuple[int, int] | None = None
    log: bool = False

    def __post_init__(self) -> None:
        self._check_range(int)
        if self.log and self.reach[0] < 1:
            raise ValueError(
                f"low={self.reach[0]!r} must be at least 1 on a logarithmic scale:"
                " raise it, or set log=False"
            )

    def sample(self, rng: np.random.Generator) -> float:
        """Draw a latent value from the prior; rounded, it is any of low, ..., high."""
        low, high = self.low - 0.5, self.high + 0.5
        drawn = _log_uniform(rng, low, high) if self.log else float(rng.uniform(low, high))
        return min(max(drawn, float(self.low)), float(self.high))

    def used(self, value: float) -> int:
        """Round half up: round(2.5) is 2 in Python, and 3.5 would be 4."""
        return math.floor(self.clip(value) + 0.5)


@dataclasses.dataclass(frozen=True)
class Choice:
    """One of several numbers, in increasing order. Perturbing moves to a neighbour."""

    values: tuple[float, ...]

    def __post_init__(self) -> None:
        if isinstance(self.values, (str, Mapping)) or len(self.values) == 0:
            raise ValueError(f"values={self.values!r} must be at least one number")
        values = tuple(_number(value, "values") for value in self.values)
        if any(a >= b for a, b in itertools.pairwise(values)):
            raise ValueError(
                f"values={values!r} must increase, so that a factor above 1 means up:"
                f" {tuple(sorted(set(values)))!r}"
            )
        object.__setattr__(self, "values", values)

    def sample(self, rng: np.random.Generator) -> float:
        """Draw one of the values, each as often."""
        return self.values[int(rng.integers(len(self.values)))]

    def perturb(self, value: float, factor: float) -> float:
        """Move one up (factor above 1) or one down (below 1), or stay at the end."""
        index = self.values.index(self.clip(value))
        index += (factor > 1) - (factor < 1)
        return self.values[min(max(index, 0), len(self.values) - 1)]

    def clip(self, value: float) -> float:
        """Return the nearest of the values, the smaller one of two."""
        if math.isnan(value):
            raise ValueError("value=nan has no nearest value among the choices")
        # Infinity is equally far from all: clamp it first.
        inside = min(max(value, self.values[0]), self.values[-1])
        return min(self.values, key=lambda choice: abs(choice - inside))

    def contains(self, value: float) -> bool:
        """Whether `value` is one of the values."""
        return value in self.values

    def used(self, value: float) -> float:
        """Return the nearest of the values."""
        return self.clip(value)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object from which `from_json` makes an equal dimension."""
        return _to_json(self)


@dataclasses.dataclass(frozen=True)
class Constant:
    """A number that is given to every member and never changes."""

    value: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "value", _number(self.value, "value"))

    def sample(self, rng: np.random.Generator) -> float:
        """Return the constant."""
        return self.value

    def perturb(self, value: float, factor: float) -> float:
        """Return the constant."""
        return self.value

    def clip(self, value: float) -> float:
        """Return the constant."""
        return self.value

    def contains(self, value: float) -> bool:
        """Whether `value` is the constant."""
        return value == self.value

    def used(self, value: float) -> float:
        """Return the constant."""
        return self.value

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object from which `from_json` makes an equal dimension."""
        return _to_json(self)


@dataclasses.dataclass(frozen=True)
class Space:
    """All hyperparameters of a run by name, and which of them PBT adapts."""

    dimensions: Mapping[str, Dimension]
    adapt: tuple[str, ...] = ()
    """Names that explore changes; all others keep their first value, or their donor's."""

    KINDS: ClassVar[Mapping[str, type]] = {
        kind.__name__: kind for kind in (LogUniform, Uniform, IntUniform, Choice, Constant)
    }

    def __post_init__(self) -> None:
        adapt: object = self.adapt
        if isinstance(adapt, str):
            raise ValueError(f"adapt={adapt!r} must be a sequence of names, not one string")
        object.__setattr__(self, "dimensions", dict(self.dimensions))
        object.__setattr__(self, "adapt", tuple(self.adapt))
        for name, dimension in self.dimensions.items():
            if not isinstance(name, str) or not name:
                raise ValueError(f"hyperparameter {name!r}: a name must be a string, not empty")
            if not isinstance(dimension, tuple(self.KINDS.values())):
                raise ValueError(
                    f"hyperparameter {name!r}: {dimension!r} must be one of {', '.join(self.KINDS)}"
                )
        self._check_known(self.adapt)
        for position, name in enumerate(self.adapt):
            dimension = self.dimensions[name]
            if name in self.adapt[:position]:
                raise ValueError(f"hyperparameter {name!r} stands twice in adapt={self.adapt!r}")
            single = isinstance(dimension, Choice) and len(dimension.values) == 1
            if single or isinstance(dimension, Constant):
                raise ValueError(
                    f"hyperparameter {name!r}: {dimension!r} cannot be adapted:"
                    " give it a range, or leave it out of adapt"
                )
            if isinstance(dimension, IntUniform) and dimension.reach[0] < 1:
                raise ValueError(
                    f"hyperparameter {name!r}: {dimension!r} cannot be adapted below 1,"
                    " since no factor leads away from 0: raise its lower bound to 1"
                )

    def sample(self, rng: np.random.Generator) -> dict[str, float]:
        """Draw every hyperparameter from its prior.

        In the order of the names, so that a space that went through JSON draws the same.
        """
        drawn = {name: self.dimensions[name].sample(rng) for name in sorted(self.dimensions)}
        return {name: drawn[name] for name in self.dimensions}

    def clip(self, values: Mapping[str, float]) -> dict[str, float]:
        """Return `values` inside their bounds; names must be known and complete."""
        self._check_names(values)
        clipped = {}
        for name, dimension in self.dimensions.items():
            with named(name):
                clipped[name] = dimension.clip(values[name])
        return clipped

    def used(self, values: Mapping[str, float]) -> dict[str, float | int]:
        """Return what the learner uses: integers rounded."""
        return {name: self.dimensions[name].used(value) for name, value in values.items()}

    def validate(self, values: Mapping[str, float]) -> None:
        """Refuse values that are missing, unknown, not finite or outside their bounds."""
        self._check_names(values)
        for name, dimension in self.dimensions.items():
            with named(name):
                value = _number(values[name], "value")
            if not dimension.contains(value):
                raise ValueError(
                    f"hyperparameter {name!r}: value={value!r} is outside {dimension!r}:"
                    f" the nearest value inside is {dimension.clip(value)!r}"
                )

    def fix(self, values: Mapping[str, float]) -> "Space":
        """Return a space in which the named hyperparameters are constant."""
        self._check_known(tuple(values))
        dimensions = dict(self.dimensions)
        for name, value in values.items():
            with named(name):
                dimensions[name] = Constant(value)
        return Space(dimensions, tuple(name for name in self.adapt if name not in values))

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object from which `Space.from_json` makes an equal space."""
        dimensions = {name: dimension.to_json() for name, dimension in self.dimensions.items()}
        return {"dimensions": dimensions, "adapt": list(self.adapt)}

    @classmethod
    def from_json(cls, json_object: Mapping[str, Any]) -> "Space":
        """Make the space that `to_json` described."""
        dimensions = {}
        for name, described in json_object["dimensions"].items():
            with named(name):
                dimensions[name] = from_json(described)
        return cls(dimensions, tuple(json_object["adapt"]))

    def _check_known(self, names: Sequence[str]) -> None:
        for name in names:
            if name not in self.dimensions:
                close = difflib.get_close_matches(str(name), self.dimensions, n=3)
                hint = f"did you mean {' or '.join(close)}?" if close else "known are"
                known = "" if close else f" {', '.join(self.dimensions) or 'none'}"
                raise ValueError(f"unknown hyperparameter {name!r}: {hint}{known}")

    def _check_names(self, values: Mapping[str, float]) -> None:
        self._check_known(tuple(values))
        missing = [name for name in self.dimensions if name not in values]
        if missing:
            raise ValueError(f"hyperparameter {missing[0]!r} has no value: give one for each name")


def from_json(json_object: Mapping[str, Any]) -> Dimension:
    """Make the dimension that its `to_json` described."""
    fields = dict(json_object)
    kind = fields.pop("kind", None)
    if kind not in Space.KINDS:
        raise ValueError(f"kind={kind!r} must be one of {', '.join(Space.KINDS)}")
    known = {field.name for field in dataclasses.fields(Space.KINDS[kind])}
    if unknown := sorted(set(fields) - known):
        raise ValueError(f"{kind} has no field {unknown[0]!r}: it has {', '.join(sorted(known))}")
    for name, value in fields.items():
        if isinstance(value, list):
            fields[name] = tuple(value)
    dimension: Dimension = Space.KINDS[kind](**fields)
    return dimension


@contextlib.contextmanager
def named(name: str) -> Iterator[None]:
    """Put the hyperparameter's name before the message of a ValueError raised inside."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"hyperparameter {name!r}: {error}") from None


def _number(value: Any, what: str, integer: bool = False) -> Any:
    """Return a finite float, or an int if `integer`; refuse anything else, bool included."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, numbers.Real)):
        raise ValueError(f"{what}={value!r} must be a number, not {type(value).__name__}")
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{what}={value!r} must be finite")
    if not integer:
        return number
    if not number.is_integer():
        raise ValueError(f"{what}={value!r} must be a whole number: round it, or use Uniform")
    return int(number)


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    drawn = math.exp(rng.uniform(math.log(low), math.log(high)))
    return min(max(drawn, low), high)  # exp(log(high)) may round to just above high


def _to_json(dimension: Any) -> dict[str, Any]:
    fields = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in dataclasses.asdict(dimension).items()
    }
    return {"kind": type(dimension).__name__, **fields}
