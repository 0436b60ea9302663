"""CIFAR-10 from the files of its binary version (Krizhevsky 2009).

The files are `data_batch_1.bin` to `data_batch_5.bin` and `test_batch.bin`, from the archive
`cifar-10-binary.tar.gz` at https://www.cs.toronto.edu/~kriz/cifar.html. Each has 10,000 records of
3,073 bytes: the label, then the red, the green and the blue plane of 32 x 32 pixels, row by row.
Nothing is downloaded here.
"""

import dataclasses
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SIZE = 32
"""Height and width of an image in pixels."""
CLASSES = 10
"""Number of classes."""
RECORDS = 10_000
"""Number of images in each file."""
TRAINING = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
"""Names of the files with training images."""
TEST = ("test_batch.bin",)
"""Name of the file with test images."""
_RECORD_BYTES = 1 + 3 * SIZE * SIZE


@dataclasses.dataclass(frozen=True)
class Images:
    """Labelled images in memory."""

    images: NDArray[np.uint8]
    """The images, red, green and blue plane, [N, 3, 32, 32]."""
    labels: NDArray[np.int64]
    """The classes, [N]."""

    def batch(
        self, rng: np.random.Generator, count: int
    ) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Draw images with replacement.

        Args:
            rng: Generator of the draw.
            count: Number of images (B).

        Returns:
            Images, [B, 3, 32, 32], and their labels, [B].
        """
        index = rng.integers(len(self.labels), size=count)
        return self.images[index], self.labels[index]


def read(directory: Path, records: int = RECORDS) -> tuple[Images, Images]:
    """Read the training images and the test images.

    Args:
        directory: Directory of the six files.
        records: Number of images that each file must have. Tests make smaller files.

    Returns:
        The training images, five times `records`, and the test images.

    Raises:
        ValueError: A file is missing, cannot be read, has another size, or a label that is no
            class. The message is one line that says what to do.
    """
    training, test = (
        np.concatenate([_read_file(directory / name, records) for name in names])
        for names in (TRAINING, TEST)
    )
    return _images(training), _images(test)


def _read_file(path: Path, records: int) -> NDArray[np.uint8]:
    """Return the records of a file, [records, 3073]."""
    advice = "unpack cifar-10-binary.tar.gz and name the directory that has its six .bin files"
    try:
        found = path.stat().st_size
        if found != records * _RECORD_BYTES:
            raise ValueError(
                f"{path} has {found:,} bytes, not {records * _RECORD_BYTES:,} "
                f"({records:,} records of {_RECORD_BYTES:,}): it is not CIFAR-10's binary version, "
                f"or is incomplete; {advice}"
            )
        table = np.fromfile(path, np.uint8).reshape(records, _RECORD_BYTES)
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror or error}): {advice}") from error
    if (largest := int(table[:, 0].max())) >= CLASSES:
        raise ValueError(
            f"{path} has the label {largest}, but classes are 0 to {CLASSES - 1}: it is not "
            f"CIFAR-10's binary version, or is damaged; {advice}"
        )
    return table


def _images(table: NDArray[np.uint8]) -> Images:
    return Images(
        table[:, 1:].reshape(-1, 3, SIZE, SIZE).copy(),  # without the table's column of labels
        table[:, 0].astype(np.int64),
    )
