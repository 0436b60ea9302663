"""Train a DCGAN behind the engine's interface, `pbt.task.Task`.

The setting is that of Jaderberg et al. 2017 (https://arxiv.org/abs/1711.09846), section 4.3. A
member is a generator with its discriminator. One agent step is one update: several Adam steps of
the discriminator and one of the generator. Every few updates the generator makes fresh images,
which the classifier of `experiments.members.judge` scores.
"""

import dataclasses
import functools
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch

from agents import dcgan, image_scores
from experiments.analysis import tasks
from experiments.members import judge, kept, picture, settings, tensors
from pbt import checkpoint, pictures, task

Copied = Literal["both", "generator", "discriminator"]

TASK = tasks.GAN
"""Task factory of runs whose members are GANs."""
FORMAT_VERSION = 2
"""Format of the files that `GANTask.save` writes."""
HYPERPARAMETERS: Mapping[str, dcgan.Part] = {
    "generator_learning_rate": "generator",
    "discriminator_learning_rate": "discriminator",
}
"""Hyperparameters, with the network whose learning rate each one is."""
PICTURED = 36
"""Images of the picture in a checkpoint. Ours."""
_FIRST_RATE = 2e-4  # until a rate is set; Radford et al. 2015, section 4


@dataclasses.dataclass(frozen=True)
class GANConfig:
    """A member's networks, data and score. A run stores it as its `task_config`.

    Raises:
        ValueError: A value is out of its range.
    """

    data: str | None = None
    """Directory of CIFAR-10's binary files; without one the data are glyphs."""
    data_seed: int = 0
    """Seed of the glyphs and of the classifier, the same for all members."""
    width: int = 16
    """Width of both networks, see `agents.dcgan`."""
    classifier_width: int = 16
    """Channels of the classifier's first layer."""
    classifier_steps: int = 600
    """Steps of training of the classifier."""
    batch_size: int = 64
    """Images of each step of either network."""
    discriminator_steps: int = 5
    """Steps of the discriminator before each one of the generator."""
    evaluation_interval: int = 40
    """Agent steps between two evaluations."""
    samples: int = 2_000
    """Images of one evaluation."""
    splits: int = 10
    """Parts of these images. Each gives one score."""
    copied: Copied = "both"
    """Networks that a member takes from a donor, with their statistics: figure 5e of the paper."""
    device: str = "cpu"
    """Torch device of the networks and of the classifier."""

    def __post_init__(self) -> None:
        settings.check_whole(
            self,
            data_seed=0,
            width=1,
            classifier_width=1,
            classifier_steps=1,
            batch_size=2,  # BatchNorm needs two images
            discriminator_steps=1,
            evaluation_interval=1,
            splits=1,
            samples=1,
        )
        if self.samples < self.splits:
            raise ValueError(f"samples {self.samples}: use at least one per split ({self.splits})")
        if self.copied not in get_args(Copied):
            raise ValueError(f"copied {self.copied!r}: use one of {', '.join(get_args(Copied))}")

    def to_json(self) -> dict[str, Any]:
        """Return a JSON mapping that `from_json` takes back."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, config: Mapping[str, Any]) -> "GANConfig":
        """Return the settings that `to_json` wrote."""
        return cls(**config)


@dataclasses.dataclass(frozen=True)
class Score:
    """Scores of fresh images of one generator."""

    splits: tuple[float, ...]
    """Inception-type score of each split."""
    frechet: float
    """Frechet distance to the held-out images, in the classifier's features."""
    compared: int
    """Number of images on either side of this distance. A smaller number makes it larger."""
    held_out_score: float
    """Mean score of the held-out images in splits of the same size: that of a perfect generator."""
    classifier_accuracy: float
    """Fraction of the held-out images that the classifier gives the right class."""

    @property
    def mean(self) -> float:
        """Return the mean score of the splits."""
        return float(np.mean(self.splits))


def make_task(config: Mapping[str, Any], member: int, seed: int) -> "GANTask":
    """Build a member's learner. Runs store this factory's name, `TASK`.

    Args:
        config: `GANConfig` as JSON.
        member: The member's number.
        seed: Seed of initial weights, noise and batches.
    """
    return GANTask(GANConfig.from_json(config), member, seed, shared(task.run_directory()))


def shared(run_dir: Path | None) -> Path | None:
    """Return the directory of the files that a run's members share, which need not exist.

    It holds the classifier, and the networks of members that copied the other one.
    """
    return None if run_dir is None else run_dir / "shared"


def has_judge(run_dir: Path) -> bool:
    """Return whether a classifier was trained for a run."""
    return any((run_dir / "shared").glob("classifier-*"))


def load_data(config: GANConfig) -> judge.Data:
    """Return the images that a configuration names, kept for all tasks of this process.

    Raises:
        ValueError: The data cannot be read; one line that says what to do.
    """
    return judge.load_data(config.data, config.data_seed)


def load_judge(config: GANConfig, run_dir: Path | None) -> judge.Judge:
    """Return the classifier of a run, trained now unless its file is there.

    Call it before a run starts its workers. A worker would train the classifier too, but one that
    trains it for longer than three leases is taken for hung.

    Raises:
        ValueError: The data cannot be read; one line that says what to do.
        OSError: The file cannot be written.
    """
    return _trained_judge(config, shared(run_dir))


def _trained_judge(config: GANConfig, directory: Path | None) -> judge.Judge:
    return judge.trained(
        load_data(config),
        directory,
        config.classifier_width,
        config.classifier_steps,
        config.device,
    )


def describe(config: GANConfig) -> str:
    """Return in words what images are learned, for people."""
    if config.data is None:
        return "digits in many fonts, generated"
    return f"CIFAR-10 in {Path(config.data).name}"


def _draw_noise(rng: np.random.Generator, *shape: int) -> torch.Tensor:
    """Return noise, uniform in [-1, 1], of the given shape and 100 dimensions."""
    return torch.from_numpy(2 * rng.random((*shape, dcgan.NOISE), np.float32) - 1)


def _sample(gan: dcgan.DCGAN, rng: np.random.Generator, count: int) -> torch.Tensor:
    """Return fresh images in [-1, 1], [count, C, 32, 32].

    Raises:
        pbt.task.Diverged: A pixel is not finite.
    """
    parts = [gan.sample(part) for part in torch.split(_draw_noise(rng, count), 500)]
    images = torch.cat(parts)
    if not bool(torch.isfinite(images).all()):
        raise task.Diverged("the generator's images are not finite")
    return images


class GANTask:
    """A DCGAN that learns the images of its data. Implements `pbt.task.Task`.

    The hyperparameters are `generator_learning_rate` and `discriminator_learning_rate`. An agent
    step is an update. An evaluation gives one episode per split, whose return is the split's score.

    A checkpoint holds both networks with BatchNorm's and Adam's statistics, the generator of random
    numbers, the number of updates, and a picture of images from noise that is always the same.
    Another member's random numbers are not loaded.

    With `copied` other than "both", `load` takes only that network of another member's checkpoint,
    and the task keeps its own other network. The engine does not store this mixture before the
    member's next slice is committed. A task that is built in between puts it together from the
    donor's files and the file of `experiments.members.kept`. If that file was lost, the member goes
    on with both networks of the donor, contrary to the setting, and the metric `copied_whole` says
    so after the first update. A member that replaces a dead one has nothing worth keeping, so it
    always takes both. No member ever goes on with a network of fresh random weights.

    Args:
        config: Networks, data and score.
        member: The member's number.
        seed: Seed of initial weights, noise and batches.
        shared_dir: Directory of the files that the run's members share. None shares none: the
            classifier is trained at the first evaluation, and no network is kept in a file.
    """

    def __init__(
        self, config: GANConfig, member: int, seed: int, shared_dir: Path | None = None
    ) -> None:
        self._config = config
        self._member = member
        self._shared_dir = shared_dir
        self._data = load_data(config)
        weights, draws = np.random.SeedSequence(seed).spawn(2)
        self._gan = dcgan.DCGAN(
            self._data.channels,
            config.width,
            _FIRST_RATE,
            int(weights.generate_state(1)[0]),
            config.device,
        )
        self._rng = np.random.default_rng(draws)
        self._updates = 0  # of the weights
        self._own_updates = 0  # since a donor's weights were loaded
        self._kept = kept.KeptNetwork(
            None if shared_dir is None else shared_dir / f"kept-{member}.safetensors"
        )
        self._is_fresh = True  # no update and no load so far: nothing here is worth keeping
        self._was_copied_whole = False

    @functools.cached_property
    def _judge(self) -> judge.Judge:
        """The classifier. Only evaluations need it."""
        return _trained_judge(self._config, self._shared_dir)

    def train(self, agent_steps: int, limit: int) -> Iterator[task.Progress]:
        """See `pbt.task.Task.train`.

        Args:
            agent_steps: Updates to make.
            limit: Not needed, since updates are counted one by one.

        Yields:
            One entry per update.

        Raises:
            pbt.task.Diverged: A loss, an image or a score is not finite.
        """
        interval = self._config.evaluation_interval
        for taken in range(1, agent_steps + 1):
            metrics = self._update()
            episodes: tuple[task.Episode, ...] = ()
            if self._updates % interval == 0:
                counted = self._own_updates >= interval  # else part of it was a donor's
                scores = self._evaluate()
                episodes = tuple(task.Episode(taken, score, interval, counted) for score in scores)
            yield task.Progress(1, episodes, metrics)

    def _update(self) -> dict[str, float]:
        steps, batch_size = self._config.discriminator_steps, self._config.batch_size
        images, _ = self._data.training.batch(self._rng, steps * batch_size)
        real = torch.from_numpy(images).reshape(steps, batch_size, *images.shape[1:])
        self._is_fresh = False
        try:
            metrics = self._gan.update(real, _draw_noise(self._rng, steps + 1, batch_size))
        except FloatingPointError as error:
            raise task.Diverged(str(error)) from error
        self._updates += 1
        self._own_updates += 1
        if self._was_copied_whole:
            metrics["copied_whole"] = 1.0
            self._was_copied_whole = False
        return metrics

    def _evaluate(self) -> tuple[float, ...]:
        """Return the score of each split of fresh images."""
        images = _sample(self._gan, self._rng, self._config.samples)
        scores = self._judge.scores(images, self._config.splits)
        if not all(map(math.isfinite, scores)):
            raise task.Diverged(f"scores {scores} are not finite")
        return scores

    def set_hyperparameters(self, values: Mapping[str, float]) -> None:
        """Apply learning rates from the next update on.

        Args:
            values: New values by name; the others stay.

        Raises:
            ValueError: This learner has no such hyperparameter.
        """
        if unknown := values.keys() - HYPERPARAMETERS.keys():
            raise ValueError(
                f"unknown hyperparameters {sorted(unknown)}: this learner has "
                f"{', '.join(HYPERPARAMETERS)}"
            )
        for name, value in values.items():
            self._gan.set_learning_rate(HYPERPARAMETERS[name], float(value))

    def hyperparameters(self) -> Mapping[str, float]:
        """Return the learning rates that both optimisers have."""
        return {name: self._gan.learning_rate(part) for name, part in HYPERPARAMETERS.items()}

    def save(self, directory: Path) -> None:
        """Write `agent.safetensors`, `gan.json` and `picture.png`.

        Raises:
            pbt.task.Diverged: A weight, a statistic or an image is not finite.
        """
        tensors.save_state(directory, self._gan.state_dict())
        header = {
            "format_version": FORMAT_VERSION,
            "member": self._member,
            "updates": self._updates,
            "own_updates": self._own_updates,
            "random": self._rng.bit_generator.state,
        }
        (directory / "gan.json").write_text(json.dumps(header))
        images = _sample(self._gan, np.random.default_rng(0), PICTURED)
        drawn = picture.grid(dcgan.to_pixels(images).cpu().numpy())
        (directory / pictures.FILE_NAME).write_bytes(picture.png(drawn))

    def load(self, directory: Path) -> None:
        """See `pbt.task.Task.load`, and the docstring of this class on a donor's checkpoint.

        Raises:
            ValueError: It is no checkpoint of this GAN; the message lists what differs.
            pbt.checkpoint.CheckpointError: It is damaged, or its weights are not finite.
        """
        header = _read_header(directory)
        state = tensors.load_state(directory)
        donor = kept.digest(directory / tensors.STATE)
        self._own_updates = header.own_updates if header.member == self._member else 0
        if header.member == self._member:
            self._gan.load_state_dict(state)
            self._rng, self._updates = header.rng, header.updates
        elif self._config.copied == "both":
            self._gan.load_state_dict(state)
            self._updates = header.updates if self._is_fresh else self._updates
        elif not self._is_fresh:
            parts = [part for part in dcgan.PARTS if part != self._config.copied]
            self._gan.load_state_dict(state, (self._config.copied,))
            self._kept.write(self._gan.state_dict(parts), donor, self._updates)
        elif kept.is_published_for(directory, self._member):
            found = self._kept.read(donor)
            own, self._updates = found or ({}, header.updates)
            self._gan.load_state_dict({**state, **own})
            self._was_copied_whole = found is None
        else:
            self._gan.load_state_dict(state)
            self._updates = header.updates
            self._kept.write({}, donor, self._updates)
        self._is_fresh = False

    def close(self) -> None:
        """Do nothing: a task holds no files and no processes."""


@dataclasses.dataclass(frozen=True)
class _Header:
    member: int
    updates: int
    own_updates: int
    rng: np.random.Generator


def _read_header(directory: Path) -> _Header:
    """Read `gan.json`.

    Raises:
        ValueError: It has another format.
        pbt.checkpoint.CheckpointError: It is damaged.
    """
    try:
        header = json.loads((directory / "gan.json").read_text())
        version = header["format_version"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise checkpoint.CheckpointError(f"unreadable checkpoint {directory}: {error}") from error
    if version != FORMAT_VERSION:
        raise ValueError(
            f"checkpoint {directory} has format {version}, this code reads {FORMAT_VERSION}"
        )
    rng = np.random.default_rng()
    try:
        rng.bit_generator.state = header["random"]
        return _Header(
            int(header["member"]), int(header["updates"]), int(header["own_updates"]), rng
        )
    except (ValueError, KeyError, TypeError) as error:
        raise checkpoint.CheckpointError(
            f"unreadable checkpoint {directory}: gan.json: {error!r}"
        ) from error


def _load_gan(directory: Path, config: GANConfig, channels: int) -> dcgan.DCGAN:
    """Return the networks in a checkpoint, whosever it is."""
    _read_header(directory)
    gan = dcgan.DCGAN(channels, config.width, _FIRST_RATE, 0, config.device)
    gan.load_state_dict(tensors.load_state(directory))
    return gan


def score(directory: Path, config: GANConfig, seed: int, run_dir: Path | None = None) -> Score:
    """Score fresh images of the generator in a checkpoint.

    Args:
        directory: The checkpoint.
        config: The run's settings. `samples` and `splits` may be others than in training.
        seed: Seed of the images.
        run_dir: The run's directory, which has the classifier.

    Raises:
        ValueError: The checkpoint does not fit the settings, or there is one sample only.
        pbt.checkpoint.CheckpointError: The checkpoint is damaged.
    """
    data, classifier = load_data(config), load_judge(config, run_dir)
    gan = _load_gan(directory, config, data.channels)
    images = _sample(gan, np.random.default_rng(seed), config.samples)
    probabilities, features = classifier.classify(images)
    real = dcgan.to_input(torch.from_numpy(data.held_out))
    real_probabilities, real_features = classifier.classify(real)
    splits = image_scores.inception_scores(probabilities, config.splits)
    size, compared = config.samples // config.splits, min(len(features), len(real_features))
    held_out = image_scores.inception_scores(real_probabilities, max(1, len(real) // size))
    return Score(
        splits=tuple(map(float, splits)),
        frechet=image_scores.frechet_distance(features[:compared], real_features[:compared]),
        compared=compared,
        held_out_score=float(held_out.mean()),
        classifier_accuracy=classifier.accuracy,
    )
