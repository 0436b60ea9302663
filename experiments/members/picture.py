"""Put images side by side into one picture, and write it as PNG."""

import io
import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def grid(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return images row by row in a square grid, whose last places may stay black.

    Args:
        images: The images, [N, C, H, W], with one channel or three.

    Returns:
        The picture, [rows H, columns W], or with a last axis of 3 where images are coloured.

    Raises:
        ValueError: There is no image.
    """
    count, channels, height, width = images.shape
    if count < 1:
        raise ValueError(f"{count} images: use 1 image or more")
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    places = np.zeros((rows * columns, channels, height, width), np.uint8)
    places[:count] = images
    picture = (
        places.reshape(rows, columns, channels, height, width)
        .transpose(0, 3, 1, 4, 2)  # [rows, H, columns, W, C]
        .reshape(rows * height, columns * width, channels)
    )
    return picture[:, :, 0] if channels == 1 else picture


def png(picture: NDArray[np.uint8]) -> bytes:
    """Return a picture as a PNG file.

    Args:
        picture: Grey, [H, W], or red, green and blue, [H, W, 3].
    """
    file = io.BytesIO()
    Image.fromarray(picture).save(file, format="PNG")
    return file.getvalue()
