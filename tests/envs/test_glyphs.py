"""Glyphs: what they are, how they differ, and where they stand."""

from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib import ft2font

from envs import glyphs

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@pytest.fixture(scope="module")
def bank():
    return glyphs.render(np.random.default_rng(0), 1_000)


@pytest.mark.parametrize("font", glyphs.FONTS)
def test_each_font_names_its_glyphs_as_the_digits(font):
    face = ft2font.FT2Font(str(Path(matplotlib.get_data_path(), "fonts", "ttf", f"{font}.ttf")))
    codes = face.get_charmap()
    assert tuple(face.get_glyph_name(codes[ord(digit)]) for digit in "0123456789") == NAMES


def test_batches_have_their_shapes_and_types(bank):
    images, labels = bank.batch(np.random.default_rng(1), 64)
    assert (images.shape, images.dtype) == ((64, 1, 32, 32), np.uint8)
    assert (labels.shape, labels.dtype) == ((64,), np.int64)
    assert images.min() == 0
    assert images.max() == 255


def test_all_digits_come_up_equally_often(bank):
    assert np.bincount(bank.labels).tolist() == [100] * glyphs.CLASSES
    _, labels = bank.batch(np.random.default_rng(1), 10_000)
    assert abs(np.bincount(labels) - 1_000).max() < 5 * 30  # five standard deviations


def test_a_seed_repeats_and_another_one_differs():
    def draw(seed, count=50):
        rng = np.random.default_rng(seed)
        made = glyphs.render(rng, count)
        return made.glyphs, *made.batch(rng, 8)

    for one, same in zip(draw(3), draw(3), strict=True):
        np.testing.assert_array_equal(one, same)
    known = {image.tobytes() for image in draw(3)[0]}
    assert not known & {image.tobytes() for image in draw(4)[0]}


def test_no_two_glyphs_and_no_two_batches_are_alike(bank):
    assert len({image.tobytes() for image in bank.glyphs}) == 1_000
    rng = np.random.default_rng(1)
    first, second = bank.batch(rng, 64)[0], bank.batch(rng, 64)[0]
    assert not np.array_equal(first, second)


def test_each_image_is_a_glyph_of_its_label_that_was_moved_a_little():
    """Against all shifts of all glyphs, one by one."""
    small = glyphs.render(np.random.default_rng(2), 20)
    moved = {}
    for glyph, label in zip(small.glyphs, small.labels, strict=True):
        for down in range(-glyphs.LARGEST_SHIFT, glyphs.LARGEST_SHIFT + 1):
            for right in range(-glyphs.LARGEST_SHIFT, glyphs.LARGEST_SHIFT + 1):
                image = np.zeros((40, 40), np.uint8)
                image[4 + down : 36 + down, 4 + right : 36 + right] = glyph
                moved[image[4:36, 4:36].tobytes()] = (label, down, right)
    images, labels = small.batch(np.random.default_rng(3), 2_000)
    found = [moved[image.tobytes()] for image in images]
    assert [label for label, _, _ in found] == labels.tolist()
    for axis in (1, 2):  # in all directions
        assert {one[axis] for one in found} == set(range(-4, 5))


def test_ink_never_touches_the_outside_of_an_image(bank):
    images, _ = bank.batch(np.random.default_rng(1), 5_000)
    for edge in (images[..., 0, :], images[..., -1, :], images[..., 0], images[..., -1]):
        assert not edge.any()
    extents = [np.ptp(np.nonzero(image), axis=1) + 1 for image in bank.glyphs]
    assert np.max(extents) <= 30
    assert np.min([extent[0] for extent in extents]) >= 12


def test_the_nearest_glyph_of_another_bank_has_the_same_label(bank):
    """So labels are right, and two banks are of one kind."""
    other = glyphs.render(np.random.default_rng(5), 200)
    known = bank.glyphs.reshape(1_000, -1).astype(np.float32)
    asked = other.glyphs.reshape(200, -1).astype(np.float32)
    distance = (known**2).sum(1) - 2 * asked @ known.T  # up to a constant, [200, 1000]
    assert (bank.labels[distance.argmin(1)] == other.labels).mean() > 0.9


@pytest.mark.parametrize("count", [0, -1])
def test_refuses_an_empty_bank(count):
    with pytest.raises(ValueError, match=f"a bank of {count} glyphs is empty: use 1 or more"):
        glyphs.render(np.random.default_rng(0), count)
