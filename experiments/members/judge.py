"""The images that a GAN learns from, and the classifier that judges the images it makes.

The paper scores its GANs with a classifier that was trained on the same images (Jaderberg et al.
2017, section 4.3). All members of a run need the same one, so it is trained once and kept in a
file.
"""

import dataclasses
import functools
import hashlib
import json
import logging
import math
from pathlib import Path
from typing import Protocol

import numpy as np
import safetensors
import torch
from numpy.typing import NDArray

from agents import dcgan, image_scores
from envs import cifar, glyphs
from experiments.members import tensors
from pbt import files

_LOG = logging.getLogger(__name__)

CLASSES = 10
"""Number of classes of both data sets."""
TRAINING_GLYPHS = 8_000
"""Rendered glyphs to learn from. Ours."""
HELD_OUT_GLYPHS = 2_000
"""Rendered glyphs, and images, to score with. Ours."""
LEARNING_RATE = 3e-3
"""Adam's first learning rate of the classifier, which falls linearly to 0. Ours."""
BATCH_SIZE = 64
"""Images per step of the classifier. Ours."""
_PART = 500  # images that are scored at once


class ImageSet(Protocol):
    """Labelled images to draw batches from."""

    def batch(
        self, rng: np.random.Generator, count: int
    ) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Return random images, [B, C, 32, 32], and their classes, [B]."""


@dataclasses.dataclass(frozen=True)
class Data:
    """Images to learn from, and others to score with."""

    training: ImageSet
    """Images that the GAN and the classifier learn from."""
    held_out: NDArray[np.uint8]
    """Images that neither learns from, [N, C, 32, 32]."""
    held_out_labels: NDArray[np.int64]
    """Their classes, [N]."""
    seed: int
    """Seed of the glyphs, and of the classifier's weights and batches."""

    @property
    def channels(self) -> int:
        """Return the number of channels of the images (C)."""
        return int(self.held_out.shape[1])


@functools.lru_cache(maxsize=1)
def load_data(directory: str | None, seed: int) -> Data:
    """Return CIFAR-10 or, without a directory, glyphs. A process loads its data once.

    Args:
        directory: Directory of the files that `envs.cifar.read` reads, or None.
        seed: Seed of the glyphs, and of the classifier.

    Raises:
        ValueError: The files are not CIFAR-10's; one line that says what to do.
    """
    if directory is not None:
        training, test = cifar.read(Path(directory), cifar.RECORDS)
        return Data(training, test.images, test.labels, seed)
    learned, held_out = (np.random.default_rng([seed, purpose]) for purpose in (0, 1))
    images, labels = glyphs.render(held_out, HELD_OUT_GLYPHS).batch(held_out, HELD_OUT_GLYPHS)
    return Data(glyphs.render(learned, TRAINING_GLYPHS), images, labels, seed)


@dataclasses.dataclass(frozen=True)
class Judge:
    """A trained classifier. It takes images in [-1, 1], [N, C, 32, 32]."""

    network: dcgan.Classifier
    """The network, in evaluation mode."""
    accuracy: float
    """Fraction of the held-out images that it gives the right class."""

    @torch.no_grad()
    def classify(self, images: torch.Tensor) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the class probabilities, [N, 10], and the features, [N, 64], of images."""
        device = self.network.logits.weight.device
        parts = [self.network(part.to(device)) for part in torch.split(images, _PART)]
        features, logits = (torch.cat(one).double() for one in zip(*parts, strict=True))
        return logits.softmax(1).cpu().numpy(), features.cpu().numpy()

    def scores(self, images: torch.Tensor, splits: int) -> tuple[float, ...]:
        """Return the Inception score of each split of images, in their order."""
        probabilities, _ = self.classify(images)
        return tuple(map(float, image_scores.inception_scores(probabilities, splits)))


def trained(
    data: Data, directory: Path | None, width: int, steps: int, device: str = "cpu"
) -> Judge:
    """Return the classifier of the data, from its file or, if there is none, by training it.

    The first process that comes trains it, and others wait. An unreadable file is replaced. The
    file's name is a digest of the held-out images and of the settings, so that a directory may hold
    several classifiers. A file that was deleted is made again with the same weights.

    Args:
        data: The images.
        directory: Directory of the file, made if it is missing. None keeps no file.
        width: Channels of the classifier's first layer.
        steps: Steps of training.
        device: Torch device of the classifier.
    """
    if directory is None:
        return _train(data, width, steps, device)
    settings = [data.seed, width, steps, data.channels, LEARNING_RATE, BATCH_SIZE]
    digest = hashlib.sha256(json.dumps(settings).encode() + data.held_out.tobytes())
    path = directory / f"classifier-{digest.hexdigest()[:16]}.safetensors"
    directory.mkdir(parents=True, exist_ok=True)
    with files.locked(directory):
        known = _load(path, dcgan.Classifier(data.channels, CLASSES, width).to(device))
        if known is None:
            known = _train(data, width, steps, device)
            metadata = {"held_out_accuracy": repr(known.accuracy)}
            tensors.write(path, known.network.state_dict(), metadata)
            _LOG.info("classifier trained: %.2f %% of held-out images right", 100 * known.accuracy)
    return known


def _load(path: Path, network: dcgan.Classifier) -> Judge | None:
    """Load the weights in a file. Return None if it is not there or cannot be used."""
    if not path.exists():
        return None
    try:
        state, metadata = tensors.read(path)
        network.load_state_dict(state)
        return Judge(network.eval(), float(metadata["held_out_accuracy"]))
    except (OSError, safetensors.SafetensorError, RuntimeError, KeyError, ValueError) as error:
        _LOG.warning("%s cannot be used and is made again: %s", path, error)
        return None


def _train(data: Data, width: int, steps: int, device: str) -> Judge:
    """Train a classifier on random batches, and measure its accuracy."""
    network = dcgan.Classifier(data.channels, CLASSES, width)
    dcgan.initialise(network, torch.Generator().manual_seed(data.seed))
    network.to(device)
    rng = np.random.default_rng([data.seed, 2])
    optimiser = torch.optim.Adam(network.parameters(), LEARNING_RATE)
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = LEARNING_RATE * (1 - step / steps)
        images, labels = map(torch.from_numpy, data.training.batch(rng, BATCH_SIZE))
        _, logits = network(dcgan.to_input(images.to(device)))
        loss = torch.nn.functional.cross_entropy(logits, labels.to(device))
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    held_out = dcgan.to_input(torch.from_numpy(data.held_out))
    probabilities, _ = Judge(network.eval(), math.nan).classify(held_out)
    accuracy = (probabilities.argmax(1) == data.held_out_labels).mean()
    return Judge(network, float(accuracy))
