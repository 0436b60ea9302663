"""`RunConfig`: the settings of a run, fixed when it is created and read by each worker.

What may change when a run is resumed is not in it: directories, the number of workers, and how many
tasks a worker keeps in memory.
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
    """The settings of a run. Construction is the only place that checks them.

    Raises:
        ValueError: A setting is not valid. The message names the field, its value, the values
            allowed and a way out.
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
    """Agent steps between two commits: the length of a slice."""
    ready_interval: int
    """Least agent steps between two times that a member is ready. Checked at the end of a slice, so
    it acts rounded up to slices."""
    task_config: Mapping[str, Any] = field(default_factory=dict)
    """JSON that is passed to the task factory. Tuples become lists."""
    exploit: Exploit = "t-test"
    """How a ready member chooses whom to copy. "none" is random search with an equal budget."""
    explore: Explore = "perturb"
    """How hyperparameters change afterwards."""
    copy: Copy = "both"
    """What is copied from the donor: weights and hyperparameters, either, or neither."""
    explore_at: ExploreAt = "exploit"
    """Explore only after an exploit (the paper's deep learning), or whenever ready (its toy)."""
    significance: float = 0.05
    """Two-sided level of the t-test."""
    truncation_fraction: float = 0.2
    """Part of the population that truncation replaces, and part that it copies from."""
    resample_probability: float = 0.25
    """Probability with which `resample` draws a hyperparameter from its prior, each on its own."""
    perturb_factors: tuple[float, ...] = (0.8, 1.2)
    """Factors, one of which multiplies each adapted hyperparameter in `perturb`."""
    standard_deviation: float = 0.1
    """Standard deviation of the noise that `gaussian` adds, in the hyperparameter's own unit."""
    seed: int = 0
    """Seed of the run. Every draw and every environment derives its seed from (this, member,
    version)."""
    window: int = 10
    """Number of the last counted episodes that are compared."""
    min_episodes: int = 10
    """Counted episodes until the window is valid, at least `window`. Use 2 n with n parallel
    environments: the first episodes to finish are the shortest, so comparing them is unfair."""
    max_attempts: int = 3
    """Crashes in a row at one version after which a member is marked failed."""
    step_multiple: int = 1
    """Agent steps of one step of all parallel environments. Intervals and total are multiples."""
    lease_seconds: float = 60.0
    """Seconds without progress, by the database's clock, until a member may be taken over."""

    def __post_init__(self) -> None:
        self._check_types()
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
        for name, is_valid, problem in (
            (
                "total_steps",
                self.total_steps >= self.report_interval,
                f"is below report_interval {self.report_interval}: use total_steps "
                f"{self.report_interval} or more, or a shorter report_interval",
            ),
            (
                "min_episodes",
                self.min_episodes >= self.window,
                f"is below window {self.window}: use min_episodes {self.window} or more, so that "
                "a valid window is a full one",
            ),
            (
                "significance",
                0 < self.significance < 1,
                'is not between 0 and 1: use e.g. 0.05; to copy nobody, use exploit "none"',
            ),
            (
                "truncation_fraction",
                0 < self.truncation_fraction <= 0.5,
                "is not in (0, 0.5], so top and bottom would overlap or be empty: use e.g. 0.2",
            ),
            (
                "resample_probability",
                0 <= self.resample_probability <= 1,
                "is not in [0, 1]: use e.g. 0.25",
            ),
            (
                "standard_deviation",
                0 < self.standard_deviation < math.inf,
                'is not positive and finite: use e.g. 0.1; to change nothing, use explore "none"',
            ),
            (
                "lease_seconds",
                0 < self.lease_seconds < math.inf,
                "is not positive and finite: use e.g. 60",
            ),
            (
                "perturb_factors",
                self.perturb_factors
                and all(0 < factor < math.inf and factor != 1 for factor in self.perturb_factors),
                "must be positive, finite and not 1 (0 would end at the bound, 1 changes nothing): "
                "use e.g. (0.8, 1.2)",
            ),
        ):
            if not is_valid:
                raise ValueError(f"{name} {getattr(self, name)} {problem}")

    def _check_types(self) -> None:
        """Check types and names, and convert values to the form in which JSON returns them."""
        if not isinstance(self.task, str) or not _FACTORY.fullmatch(self.task):
            raise ValueError(
                f'task {self.task!r} is not "module:function": use e.g. "my_learner:make_task"'
            )
        if not isinstance(self.space, space_lib.Space):
            raise ValueError(f"space {self.space!r} is not a pbt.space.Space")
        for entry in fields(self):
            value, allowed = getattr(self, entry.name), get_args(entry.type)
            if entry.name in ("exploit", "explore", "copy", "explore_at") and value not in allowed:
                raise ValueError(f"{entry.name} {value!r}: use one of {', '.join(allowed)}")
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
        """Return all fields as JSON values, in the order of declaration."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        values["space"] = self.space.to_json()
        values["perturb_factors"] = list(self.perturb_factors)
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "RunConfig":
        """Make the configuration that `to_json` returned.

        Raises:
            ValueError: A field is unknown, missing or not valid.
        """
        known = {entry.name for entry in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ValueError(f"unknown fields of a run's configuration: {', '.join(unknown)}")
        try:
            return cls(**{**values, "space": space_lib.Space.from_json(values["space"])})
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a run's configuration: {error!r}") from error

    def differences(self, given: "RunConfig") -> list[str]:
        """Return what another configuration would change, as "field: stored -> given" each.

        `self` is the stored one. Fields inside `task_config` and `space` have dotted names.
        """
        before, after = _flat(self.to_json()), _flat(given.to_json())
        return [
            f"{name}: {before.get(name, 'absent')} -> {after.get(name, 'absent')}"
            for name in before | after
            if before.get(name) != after.get(name)
        ]


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Flatten JSON mappings to dotted names, with each value as JSON text."""
    result: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, dict) and value:
            result |= _flat(value, f"{prefix}{name}.")
        else:
            result[f"{prefix}{name}"] = json.dumps(value)
    return result
