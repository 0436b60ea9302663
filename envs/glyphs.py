"""Images of the ten digits in many fonts: an endless labelled data set without a download.

    bank = glyphs.render(rng, 4_000)             # once: about 0.2 ms per glyph
    images, labels = bank.batch(rng, 64)         # uint8 [64, 1, 32, 32], int64 [64]

The glyphs come from font files that Matplotlib brings along. Each glyph of a bank has a random
font, size and angle. Each image is a random glyph of the bank at a random place, so that a batch
costs no rendering. Ink is 255 on a ground of 0 and never touches the outside of the image.

The data that a model is trained on and the data that it is tested on should be two banks, rendered
and drawn from by generators of their own. Then no angle and size of the one is in the other. Both
banks use all fonts. A distance between generated and held-out images would otherwise measure the
difference between the fonts.
"""

import dataclasses
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib import ft2font
from numpy.typing import NDArray

SIZE = 32
"""Height and width of an image in pixels."""
CLASSES = 10
"""Number of classes. The label of a digit is the digit."""
FONTS = (
    *("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSans-BoldOblique"),
    *("DejaVuSansMono", "DejaVuSansMono-Bold", "DejaVuSansMono-Oblique"),
    *("DejaVuSansMono-BoldOblique", "DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic"),
    *("DejaVuSerif-BoldItalic", "STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic"),
    *("STIXGeneralBolIta", "cmr10", "cmb10", "cmss10", "cmti10", "cmtt10"),
)
"""Matplotlib's font files that have the ten digits. The mathematical fonts have other signs at the
digits' codes."""
SIZES = (22.0, 30.0)
"""Smallest and largest font size in pixels per em. A digit is about 0.7 em high."""
LARGEST_ANGLE = 15.0
"""Largest rotation in degrees to either side. It keeps 6 and 9 apart."""
LARGEST_SHIFT = 4
"""Largest distance in pixels, along each axis, of a glyph from the middle of the image."""


@dataclasses.dataclass(frozen=True)
class Bank:
    """Rendered glyphs, each in the middle of an image of its own."""

    glyphs: NDArray[np.uint8]
    """The images, [N, 32, 32]."""
    labels: NDArray[np.int64]
    """The digits, [N]."""
    shifts: NDArray[np.int64]
    """Pixels by which each glyph may be moved up or down, and left or right, [N, 2]."""

    def batch(
        self, rng: np.random.Generator, count: int
    ) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Draw glyphs with replacement, and put each of them at a random place.

        Args:
            rng: Generator of the draw.
            count: Number of images (B).

        Returns:
            Images, [B, 1, 32, 32], and their labels, [B].
        """
        index = rng.integers(len(self.labels), size=count)
        shift = rng.integers(-self.shifts[index], self.shifts[index], endpoint=True)  # [B, 2]
        # Only ground leaves the image on one side and comes back on the other.
        place = (np.arange(SIZE) - shift[:, :, None]) % SIZE  # [B, 2, 32]
        rows, columns = place[:, 0, :, None], place[:, 1, None, :]
        images = self.glyphs[index[:, None, None], rows, columns]  # [B, 32, 32]
        return images[:, None], self.labels[index]


def render(rng: np.random.Generator, count: int) -> Bank:
    """Render glyphs of random digit, font, size and angle.

    Args:
        rng: Generator of the draw.
        count: Number of glyphs (N). All digits come up equally often if it is a multiple of 10.

    Raises:
        ValueError: The count is below 1.
    """
    if count < 1:
        raise ValueError(f"a bank of {count} glyphs is empty: use 1 or more")
    labels = rng.permutation(np.arange(count) % CLASSES)
    fonts = rng.integers(len(FONTS), size=count)
    sizes = rng.uniform(*SIZES, size=count)
    angles = rng.uniform(-LARGEST_ANGLE, LARGEST_ANGLE, size=count)
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    faces = [ft2font.FT2Font(str(folder / f"{font}.ttf")) for font in FONTS]
    glyphs = np.zeros((count, SIZE, SIZE), np.uint8)
    shifts = np.zeros((count, 2), np.int64)
    for n in range(count):
        ink = _render(faces[fonts[n]], int(labels[n]), float(sizes[n]), float(angles[n]))
        height, width = ink.shape
        top, left = (SIZE - height) // 2, (SIZE - width) // 2
        glyphs[n, top : top + height, left : left + width] = ink
        # One row or column of ground stays on each side.
        shifts[n] = np.clip((top - 1, left - 1), 0, LARGEST_SHIFT)
    return Bank(glyphs, labels, shifts)


def _render(face: ft2font.FT2Font, digit: int, size: float, angle: float) -> NDArray[np.uint8]:
    """Return the smallest image that has all ink of a digit, [h, w]."""
    face.set_size(size, 72)  # 72 dots per inch, so that a point is a pixel
    face.set_text(str(digit), angle)
    face.draw_glyphs_to_bitmap()
    return np.array(face.get_image(), np.uint8)
