"""Pictures of several images, read by Matplotlib."""

import io

import matplotlib.image
import numpy as np
import pytest

from experiments.members import picture


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("count", "rows", "columns"), [(1, 1, 1), (5, 2, 3), (9, 3, 3)])
def test_images_stand_row_by_row(count, rows, columns, channels):
    images = np.random.default_rng(0).integers(0, 256, (count, channels, 4, 6), dtype=np.uint8)
    file = io.BytesIO(picture.png(picture.grid(images)))
    seen = np.round(255 * matplotlib.image.imread(file, format="png")).astype(int)
    assert seen.shape == (4 * rows, 6 * columns, 3)[: 2 if channels == 1 else 3]
    for n in range(rows * columns):
        top, left = 4 * (n // columns), 6 * (n % columns)
        found = seen[top : top + 4, left : left + 6]
        wanted = np.moveaxis(images[n], 0, -1).squeeze() if n < count else 0
        np.testing.assert_array_equal(found, np.broadcast_to(wanted, found.shape))


def test_a_picture_of_nothing_is_refused():
    with pytest.raises(ValueError, match="0 images: use 1 image or more"):
        picture.grid(np.zeros((0, 1, 4, 4), np.uint8))
