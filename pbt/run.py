"""`RunConfig`: what a run is, fixed when it is created and read back from the store by each worker.

Not in it is all that may change when a run is resumed: directories, number of workers, how many
members a worker keeps resident.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

from pbt import space as space_lib

Exploit = Literal["t-test", "truncation", "binary-tournament", "none"]
Explore = Literal["perturb", "resample", "gaussian", "none"]
Copy = Literal["both", "weights", "hyperparameters", "none"]
ExploreAt = Literal["exploit", "ready"]

_FACTORY = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")


@dataclass(frozen=True)
class RunConfig:
    """The settings of a run. Counts are agent steps per member unless they say otherwise.

    Raises:
        ValueError: at construction, naming the field, the value given, the values allowed and the
            way out.
    """

    task: str
    """Task factory, "module:function" (`pbt.task.MakeTask`), imported by each worker."""
    space: space_lib.Space
    """Priors and bounds of the hyperparameters, and which of them explore changes."""
    population: int
    """Number of members."""
    total_steps: int
    """Agent steps of each member, exact."""
    report_interval: int
    """A slice: agent steps between two commits."""
    ready_interval: int
    """A member is ready when at least so many agent steps have passed since it last was. Looked at
    only at the end of a slice, so it acts rounded up to slices."""
    task_config: Mapping[str, Any] = field(default_factory=dict)
    """Handed to the task factory; JSON. Stored as it comes back from JSON (tuples become lists)."""
    exploit: Exploit = "t-test"
    """How a ready member chooses whom to copy; "none" is random search with equal budget."""
    explore: Explore = "perturb"
    """How hyperparameters change afterwards."""
    copy: Copy = "both"
    """What is copied from the donor: weights and hyperparameters, either, or neither."""
    explore_at: ExploreAt = "exploit"
    """Explore after an exploit only (the paper's deep learning), or whenever ready (its toy)."""
    significance: float = 0.05
    """Two-sided level of the t-test."""
    truncation_fraction: float = 0.2
    """Part of the population that truncation replaces, and part it copies from."""
    resample_probability: float = 0.25
    """With which `resample` draws a hyperparameter anew from its prior, each independently."""
    perturb_factors: tuple[float, ...] = (0.8, 1.2)
    """One of them multiplies each adapted hyperparameter in `perturb`."""
    standard_deviation: float = 0.1
    """Of the noise that `gaussian` adds, in the hyperparameter's own unit."""
    seed: int = 0
    """Every draw and every world derives its seed from (this, member, version)."""
    window: int = 10
    """How many of the last counted episodes are compared."""
    min_episodes: int = 10
    """Counted episodes until the window is valid; at least `window`. With n parallel environments
    2 n: the first to finish are the shortest, and would make the comparison unfair."""
    max_attempts: int = 3
    """Crashes in a row at one version after which a member is marked failed."""
    step_multiple: int = 1
    """Agent steps of one step of all parallel environments: intervals and total are multiples."""
    lease_seconds: float = 60.0
    """Without a sign of progress for so long (database's clock) a member may be taken over."""

    def __post_init__(self) -> None:
        self._check_kinds()
        for name, least in (
            ("population", 1),
            ("total_steps", 1),
            ("report_interval", 1),
            ("ready_interval", 1),
            ("window", 1),
            ("max_attempts", 1),
            ("step_multiple", 1),
            ("seed", 0),
        ):
            if (value := getattr(self, name)) < least:
                raise ValueError(f"{name} {value} is too small: use {least} or more")
        for name in ("total_steps", "report_interval", "ready_interval"):
            self._check_multiple(name)
        if self.total_steps < self.report_interval:
            raise ValueError(
                f"total_steps {self.total_steps} is below report_interval {self.report_interval}: "
                f"use total_steps {self.report_interval} or more, or a shorter report_interval"
            )
        if self.min_episodes < self.window:
            raise ValueError(
                f"min_episodes {self.min_episodes} is below window {self.window}: use "
                f"min_episodes {self.window} or more, so that a valid window is a full one"
            )
        if not 0 < self.significance < 1:
            raise ValueError(
                f"significance {self.significance} is not between 0 and 1: use e.g. 0.05; "
                'to never copy anybody, use exploit "none"'
            )
        if not 0 < self.truncation_fraction <= 0.5:
            raise ValueError(
                f"truncation_fraction {self.truncation_fraction} is not in (0, 0.5]: top and "
                "bottom would overlap or be empty; the paper uses 0.2"
            )
        if not 0 <= self.resample_probability <= 1:
            raise ValueError(
                f"resample_probability {self.resample_probability} is not in [0, 1]: use e.g. 0.25"
            )
        if not 0 < self.standard_deviation < math.inf:
            raise ValueError(
                f"standard_deviation {self.standard_deviation} is not positive and finite: use "
                'e.g. 0.1; to change nothing, use explore "none"'
            )
        if not 0 < self.lease_seconds < math.inf:
            raise ValueError(
                f"lease_seconds {self.lease_seconds} is not positive and finite: use e.g. 60"
            )
        if not self.perturb_factors or any(
            not 0 < factor < math.inf or factor == 1 for factor in self.perturb_factors
        ):
            raise ValueError(
                f"perturb_factors {self.perturb_factors}: each must be positive, finite and not 1 "
                "(0 would end at the bound, 1 changes nothing): use e.g. (0.8, 1.2)"
            )

    def _check_kinds(self) -> None:
        """Check types and names; put mappings and sequences into the form that JSON gives back."""
        if not isinstance(self.task, str) or not _FACTORY.fullmatch(self.task):
            raise ValueError(
                f'task {self.task!r} is not "module:function": use e.g. "my_learner:make_task"'
            )
        if not isinstance(self.space, space_lib.Space):
            raise ValueError(f"space {self.space!r} is not a pbt.space.Space")
        for name, allowed in (
            ("exploit", get_args(Exploit)),
            ("explore", get_args(Explore)),
            ("copy", get_args(Copy)),
            ("explore_at", get_args(ExploreAt)),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} {getattr(self, name)!r}: use one of {', '.join(allowed)}")
        for entry in fields(self):
            value = getattr(self, entry.name)
            if entry.type is int and (isinstance(value, bool) or not isinstance(value, int)):
                raise ValueError(f"{entry.name} {value!r} is not a whole number")
            if entry.type is float:
                if isinstance(value, bool) or not isinstance(value, int | float):
                    raise ValueError(f"{entry.name} {value!r} is not a number")
                object.__setattr__(self, entry.name, float(value))
        try:
            factors = tuple(float(factor) for factor in self.perturb_factors)
        except (TypeError, ValueError):
            raise ValueError(
                f"perturb_factors {self.perturb_factors!r} are not numbers: use e.g. (0.8, 1.2)"
            ) from None
        object.__setattr__(self, "perturb_factors", factors)
        try:
            plain = json.loads(json.dumps(dict(self.task_config), allow_nan=False))
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"task_config is not JSON ({error}): use finite numbers, strings, true, false, "
                "null, lists and mappings only"
            ) from None
        object.__setattr__(self, "task_config", plain)

    def _check_multiple(self, name: str) -> None:
        value, multiple = getattr(self, name), self.step_multiple
        if value % multiple:
            below = value // multiple * multiple
            nearest = f"{below} or {below + multiple}" if below else f"{multiple}"
            raise ValueError(
                f"{name} {value} is no multiple of {multiple}, the agent steps of one step of all "
                f"parallel environments: use {nearest}"
            )

    def to_json(self) -> dict[str, Any]:
        """All fields as JSON-able values, in the order of declaration."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        values["space"] = self.space.to_json()
        values["perturb_factors"] = list(self.perturb_factors)
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "RunConfig":
        """The inverse of `to_json`.

        Raises:
            ValueError: a field is unknown, missing or invalid.
        """
        known = {entry.name for entry in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ValueError(f"unknown fields of a run's configuration: {', '.join(unknown)}")
        arguments = dict(values)
        try:
            arguments["space"] = space_lib.Space.from_json(arguments["space"])
            if "perturb_factors" in arguments:
                arguments["perturb_factors"] = tuple(arguments["perturb_factors"])
            return cls(**arguments)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a run's configuration: {error!r}") from error

    def differences(self, other: "RunConfig") -> list[str]:
        """What another configuration would change, one "field: stored -> given" each.

        `self` is the stored one. Fields inside `task_config` and `space` are named with dots.
        """
        stored, given = _flat(self.to_json()), _flat(other.to_json())
        return [
            f"{name}: {stored.get(name, 'absent')} -> {given.get(name, 'absent')}"
            for name in [*stored, *(name for name in given if name not in stored)]
            if stored.get(name) != given.get(name)
        ]


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """JSON mappings as one level of dotted names, each value as JSON text."""
    result: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, dict) and value:
            result |= _flat(value, f"{prefix}{name}.")
        else:
            result[f"{prefix}{name}"] = json.dumps(value)
    return result
