"""Hyperparameters: where they are first drawn (the prior), and what perturbing may reach (bounds).

A hyperparameter is kept as a real number, its latent value, even if it is an integer. An unroll
length of 2 that is perturbed by 1.2 must be able to grow (2, 2.4, 2.88, 3.46), and one of 1 that is
perturbed by 0.8 must be able to come back. Values are rounded only where they are used (`used`).

The prior says where a run begins and where "resample" draws from. The bounds, by default the same
range, say what a hundred perturbations in a row may reach.
"""

import abc
import contextlib
import dataclasses
import difflib
import itertools
import math
import numbers
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np


@dataclasses.dataclass(frozen=True)
class Dimension(abc.ABC):
    """The prior, the bounds and the moves of one hyperparameter, which has no name here."""

    @abc.abstractmethod
    def sample(self, rng: np.random.Generator) -> float:
        """Draw a latent value from the prior."""

    @abc.abstractmethod
    def perturb(self, value: float, factor: float) -> float:
        """Move a value up (factor above 1) or down (below 1), no further than the bounds."""

    @abc.abstractmethod
    def clip(self, value: float) -> float:
        """Return the nearest value inside the bounds."""

    def contains(self, value: float) -> bool:
        """Return whether a value is finite and inside the bounds."""
        return not math.isnan(value) and self.clip(value) == value

    def used(self, value: float) -> float | int:
        """Return what the learner uses for a latent value."""
        return self.clip(value)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object from which `from_json` makes an equal dimension."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        lists = {name: list(value) for name, value in fields.items() if isinstance(value, tuple)}
        return {"kind": type(self).__name__, **fields, **lists}


@dataclasses.dataclass(frozen=True)
class _Range(Dimension):
    """A prior [low, high] inside bounds, which default to the prior. All ends are included."""

    low: float
    high: float
    bounds: tuple[float, float] | None = None

    _integer: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Convert the ends; refuse a range that is empty or reaches outside its bounds."""
        low, high = (_number(getattr(self, name), name, self._integer) for name in ("low", "high"))
        if low >= high:
            way_out = "Constant(value) for a fixed value" if low == high else "swap them"
            raise ValueError(f"low={low!r} must be below high={high!r}: {way_out}")
        object.__setattr__(self, "low", low)
        object.__setattr__(self, "high", high)
        if self.bounds is None:
            return
        if isinstance(self.bounds, str) or len(self.bounds) != 2:
            raise ValueError(f"bounds={self.bounds!r} must be a pair (low, high)")
        floor, ceiling = (_number(value, "bounds", self._integer) for value in self.bounds)
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
        """The bounds, or the prior's ends if none were given."""
        return (self.low, self.high) if self.bounds is None else self.bounds

    def perturb(self, value: float, factor: float) -> float:
        return self.clip(_number(value, "value") * _number(factor, "factor"))

    def clip(self, value: float) -> float:
        if math.isnan(value):
            raise ValueError("value=nan has no nearest value inside the bounds")
        floor, ceiling = self.reach
        return float(min(max(value, floor), ceiling))

    def used(self, value: float) -> float | int:
        return float(value)


class LogUniform(_Range):
    """A positive real number whose logarithm is uniform, such as a rate, a cost or a weight."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.reach[0] <= 0:
            raise ValueError(
                f"low={self.reach[0]!r} must be above 0 on a logarithmic scale:"
                " raise it, or use Uniform"
            )

    def sample(self, rng: np.random.Generator) -> float:
        """Draw a value from the prior."""
        return _log_uniform(rng, self.low, self.high)


class Uniform(_Range):
    """A uniform real number. Perturbing never changes its sign, but resampling may."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not math.isfinite(self.high - self.low):
            raise ValueError(f"the range from low={self.low!r} to high={self.high!r} is too wide")

    def sample(self, rng: np.random.Generator) -> float:
        """Draw a value from the prior."""
        return float(rng.uniform(self.low, self.high))


@dataclasses.dataclass(frozen=True)
class IntUniform(_Range):
    """An integer. Its latent value is a real number that is rounded half up where it is used.

    The latent value lies in [low, high]. It is drawn from half a unit more on either side and then
    clipped, so that the ends come up as often as every other integer. With `log` the probability
    of k is proportional to log((k + 1/2) / (k - 1/2)), so about to 1/k.
    """

    low: int
    high: int
    bounds: tuple[int, int] | None = None
    log: bool = False

    _integer: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.log and self.reach[0] < 1:
            raise ValueError(
                f"low={self.reach[0]!r} must be at least 1 on a logarithmic scale:"
                " raise it, or set log=False"
            )

    def sample(self, rng: np.random.Generator) -> float:
        """Draw a latent value from the prior."""
        low, high = self.low - 0.5, self.high + 0.5
        drawn = _log_uniform(rng, low, high) if self.log else float(rng.uniform(low, high))
        return min(max(drawn, float(self.low)), float(self.high))

    def used(self, value: float) -> int:
        """Return the value rounded half up. Python's `round` makes 2 of 2.5, and 4 of 3.5."""
        return math.floor(self.clip(value) + 0.5)


@dataclasses.dataclass(frozen=True)
class Choice(Dimension):
    """One of several numbers in increasing order. Perturbing moves to a neighbour."""

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
        """Draw one of the values, each with the same probability."""
        return self.values[int(rng.integers(len(self.values)))]

    def perturb(self, value: float, factor: float) -> float:
        """Move to the next higher or lower value, or stay at the end."""
        index = self.values.index(self.clip(value))
        index += (factor > 1) - (factor < 1)
        return self.values[min(max(index, 0), len(self.values) - 1)]

    def clip(self, value: float) -> float:
        """Return the nearest of the values, the smaller one of two."""
        if math.isnan(value):
            raise ValueError("value=nan has no nearest value among the choices")
        # Infinity is equally far from all values, so clamp it first.
        inside = min(max(value, self.values[0]), self.values[-1])
        return min(self.values, key=lambda choice: abs(choice - inside))


@dataclasses.dataclass(frozen=True)
class Constant(Dimension):
    """A number that all members have and that never changes."""

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


@dataclasses.dataclass(frozen=True)
class Space:
    """All hyperparameters of a run by name, and which of them PBT adapts."""

    dimensions: Mapping[str, Dimension]
    adapt: tuple[str, ...] = ()
    """Names that explore changes. All others keep their first value, or that of their donor."""

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
                    " because no factor leads away from 0: raise its lower bound to 1"
                )

    def sample(self, rng: np.random.Generator) -> dict[str, float]:
        """Draw every hyperparameter from its prior."""
        # In the order of the names, so that a space that went through JSON draws the same.
        drawn = {name: self.dimensions[name].sample(rng) for name in sorted(self.dimensions)}
        return {name: drawn[name] for name in self.dimensions}

    def clip(self, values: Mapping[str, float]) -> dict[str, float]:
        """Return the values clipped to their bounds. There must be exactly one for each name."""
        self._check_names(values)
        clipped = {}
        for name, dimension in self.dimensions.items():
            with named(name):
                clipped[name] = dimension.clip(values[name])
        return clipped

    def used(self, values: Mapping[str, float]) -> dict[str, float | int]:
        """Return what the learner uses for the given values. Integers are rounded."""
        return {name: self.dimensions[name].used(value) for name, value in values.items()}

    def validate(self, values: Mapping[str, float]) -> None:
        """Raise `ValueError` for values that are missing, unknown, not finite or out of bounds."""
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
        """Return a space in which the given hyperparameters are constant."""
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
        """Make the space that `to_json` returned."""
        dimensions = {}
        for name, described in json_object["dimensions"].items():
            with named(name):
                dimensions[name] = from_json(described)
        return cls(dimensions, tuple(json_object["adapt"]))

    def _check_known(self, names: Sequence[str]) -> None:
        for name in names:
            if name not in self.dimensions:
                close = difflib.get_close_matches(str(name), self.dimensions, n=3)
                known = f"known are {', '.join(self.dimensions) or 'none'}"
                hint = f"did you mean {' or '.join(close)}?" if close else known
                raise ValueError(f"unknown hyperparameter {name!r}: {hint}")

    def _check_names(self, values: Mapping[str, float]) -> None:
        self._check_known(tuple(values))
        missing = [name for name in self.dimensions if name not in values]
        if missing:
            raise ValueError(f"hyperparameter {missing[0]!r} has no value: give one for each name")


def from_json(json_object: Mapping[str, Any]) -> Dimension:
    """Make the dimension that its `to_json` returned."""
    fields = dict(json_object)
    kind = fields.pop("kind", None)
    if kind not in Space.KINDS:
        raise ValueError(f"kind={kind!r} must be one of {', '.join(Space.KINDS)}")
    known = {field.name for field in dataclasses.fields(Space.KINDS[kind])}
    if unknown := sorted(set(fields) - known):
        raise ValueError(f"{kind} has no field {unknown[0]!r}: it has {', '.join(sorted(known))}")
    lists = {name: tuple(value) for name, value in fields.items() if isinstance(value, list)}
    dimension: Dimension = Space.KINDS[kind](**{**fields, **lists})
    return dimension


@contextlib.contextmanager
def named(name: str) -> Iterator[None]:
    """Put a hyperparameter's name before the message of a `ValueError` raised inside."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"hyperparameter {name!r}: {error}") from None


def _number(value: Any, what: str, integer: bool = False) -> Any:
    """Return a finite float, or an int if `integer`; refuse anything else, even a bool."""
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
