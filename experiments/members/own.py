"""`Learner`: the base class of a learner of one's own, for `experiments.tuning.tune`."""

import abc
import contextlib
import json
import math
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
import safetensors
import safetensors.torch
import torch

from experiments.members import learner as agents_learner
from experiments.members import nested, tensors
from pbt import checkpoint, task

STATE, TENSORS = "state.json", "state.safetensors"
"""Names of the files of a checkpoint."""


class Learner(abc.ABC):
    """A learner that takes steps of training, each of which has a score.

    A subclass has `step`, and an attribute for each hyperparameter, with a first value. It is set
    before each interval of training, also after `load_state_dict`. Those of `pbt.space.IntUniform`
    are ints. What must survive a kill is named in `saved`, or `state_dict` and `load_state_dict`
    are written out.

    The global generators of Python, NumPy and PyTorch are seeded before a learner is built. Each
    member has its own stream of them, which its checkpoints keep. So a learner need not seed or
    save them, and a copy does not draw what its donor draws. Generators of GPUs are not among them.
    """

    score_name: ClassVar[str] = "score"
    """What the score is called in tables, pages and TensorBoard."""
    step_name: ClassVar[str] = "step"
    """What a step is called there, in the singular."""
    saved: ClassVar[tuple[str, ...]] = ()
    """Attributes that a checkpoint keeps: by their own `state_dict`, or as they are."""
    metrics: Mapping[str, float] = MappingProxyType({})
    """Further numbers of the last step, which are shown and decide nothing. `step` may set them."""

    @abc.abstractmethod
    def step(self) -> float:
        """Train for a step, such as an epoch, and return a score, where more is better.

        A score that is not finite is a divergence: the member becomes a copy of another one.
        """

    def state_dict(self) -> Mapping[str, Any]:
        """Return all that training needs to go on; see `experiments.members.nested.split`.

        Raises:
            NotImplementedError: `saved` names nothing, and the subclass has no own method.
        """
        if not self.saved:
            raise NotImplementedError(
                f'{type(self).__name__} saves nothing: give it saved = ("model", "optimiser"), or '
                "write state_dict and load_state_dict"
            )
        parts = {name: getattr(self, name) for name in self.saved}
        return {
            name: part.state_dict() if hasattr(part, "state_dict") else part
            for name, part in parts.items()
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` returned, of this member or of a donor."""
        for name in self.saved:
            part = getattr(self, name)
            if hasattr(part, "load_state_dict"):
                part.load_state_dict(state[name])
            else:
                setattr(self, name, state[name])

    @classmethod
    def make_task(cls, config: Mapping[str, Any], member: int, seed: int) -> "LearnerTask":
        """Build a member's learner behind the engine's interface; see `pbt.task.MakeTask`."""
        return LearnerTask(cls, config, member, seed)


class LearnerTask:
    """A `Learner` behind the engine's interface, `pbt.task.Task`.

    Args:
        learner: The class, whose constructor is called with the settings.
        config: A mapping with `settings`, the constructor's keywords, and `whole`, the names of the
            hyperparameters that are whole numbers.
        member: The member's number.
        seed: Seed of the global generators, of which the member has its own stream.
    """

    def __init__(
        self, learner: type[Learner], config: Mapping[str, Any], member: int, seed: int
    ) -> None:
        self._member = member
        self._whole = frozenset(config.get("whole", ()))
        self._names: tuple[str, ...] = ()
        outside = _generators()
        try:
            _seed(seed)
            self.learner = learner(**config.get("settings", {}))
            self._generators = _generators()
        finally:
            _set_generators(outside)

    @contextlib.contextmanager
    def _own_generators(self) -> Iterator[None]:
        """Let the global generators go on with the member's stream in the `with` statement."""
        outside = _generators()
        _set_generators(self._generators)
        try:
            yield
        finally:
            self._generators = _generators()
            _set_generators(outside)

    def train(self, agent_steps: int, limit: int) -> Iterator[task.Progress]:
        """See `pbt.task.Task.train`. Each step is an update and has a score.

        Raises:
            TypeError: `Learner.step` returned no number.
            pbt.task.Diverged: It returned one that is not finite.
        """
        for step in range(1, agent_steps + 1):
            with self._own_generators():
                returned = self.learner.step()
            try:
                score = float(returned)
            except (TypeError, ValueError):
                raise TypeError(
                    f"{type(self.learner).__name__}.step() returned {returned!r:.40}: return the "
                    "score, a number"
                ) from None
            if not math.isfinite(score):
                raise task.Diverged(f"the score is {score}")
            metrics = {name: float(value) for name, value in self.learner.metrics.items()}
            yield task.Progress(1, (task.Episode(step, score, 1, True),), metrics)

    def set_hyperparameters(self, values: Mapping[str, float]) -> None:
        """Set the attributes of these names.

        Raises:
            ValueError: The learner has no such attribute.
        """
        if unknown := sorted(name for name in values if not hasattr(self.learner, name)):
            raise ValueError(
                f"unknown hyperparameters {unknown}: {type(self.learner).__name__} has no "
                "attribute of that name; give it one with a first value"
            )
        for name, value in values.items():
            used = agents_learner.round_half_up(value) if name in self._whole else value
            setattr(self.learner, name, used)
        self._names = tuple(dict.fromkeys((*self._names, *values)))

    def hyperparameters(self) -> Mapping[str, float]:
        """Return the values of the attributes that were set."""
        return {name: float(getattr(self.learner, name)) for name in self._names}

    def save(self, directory: Path) -> None:
        """Write `state.json` and `state.safetensors`.

        Raises:
            pbt.task.Diverged: A tensor holds NaN. Nothing was written.
            TypeError: The learner's state holds something that cannot be saved.
        """
        parts: dict[str, torch.Tensor] = {}
        state = {
            "member": self._member,
            "learner": nested.split(self.learner.state_dict(), "state", parts),
            "generators": nested.split(self._generators, "generators", parts),
        }
        for name, tensor in parts.items():
            if tensor.is_floating_point() and bool(tensor.isnan().any()):
                raise task.Diverged(f"{name} holds NaN")
        safetensors.torch.save_file(parts, directory / TENSORS)
        (directory / STATE).write_text(json.dumps(state))

    def load(self, directory: Path) -> None:
        """See `pbt.task.Task.load`. The generators of a donor stay with the donor.

        Raises:
            pbt.checkpoint.CheckpointError: A file is damaged.
        """
        try:
            parts, _ = tensors.read(directory / TENSORS)
            read = json.loads((directory / STATE).read_text())
            member = read["member"]
            state = nested.join(read["learner"], parts)
            generators = nested.join(read["generators"], parts)
        except (
            *(OSError, ValueError, KeyError, TypeError, RecursionError),
            safetensors.SafetensorError,
        ) as error:
            raise checkpoint.CheckpointError(
                f"unreadable checkpoint {directory}: {error}"
            ) from error
        with self._own_generators():
            self.learner.load_state_dict(state)
        if member == self._member:
            self._generators = generators

    def close(self) -> None:
        """Call the learner's own `close`, if it has one."""
        if (close := getattr(self.learner, "close", None)) is not None:
            close()


# The global generators are legacy to NumPy, but what a learner or its libraries may draw from.


def _generators() -> dict[str, Any]:
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),  # noqa: NPY002
        "torch": torch.get_rng_state(),
    }


def _set_generators(state: Mapping[str, Any]) -> None:
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])  # noqa: NPY002
    torch.set_rng_state(state["torch"])


def _seed(seed: int) -> None:
    first, second, third = (int(one) for one in np.random.SeedSequence(seed).generate_state(3))
    random.seed(first)
    np.random.seed(second)  # noqa: NPY002
    torch.manual_seed(third)
