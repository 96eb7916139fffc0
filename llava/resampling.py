"""Pillow's bicubic resizing to the last bit, with vector instructions: needs numba (``pip install numba``).

Pillow resizes rows, rounds to bytes, then resizes columns and rounds again. Each output is a sum of a few inputs by
weights with 22 binary places. Here both passes add up whole rows, the first on the picture laid on its side, so that a
processor can do many at once. Sums of integers are the same in every order. A pixel is four bytes, as Pillow keeps it:
copies move it whole, and the fourth is carried along for nothing, which costs less than taking it out.
"""

from functools import lru_cache

import numpy as np
from numba import njit
from numpy.typing import NDArray
from PIL import Image

Bytes = NDArray[np.uint8]
Pixels = NDArray[np.uint32]

PRECISION = 22  # binary places of Pillow's weights, PRECISION_BITS in its Resample.c
HALF = 1 << (PRECISION - 1)
SUPPORT = 2.0  # of the bicubic filter, in pixels of the smaller picture
A = -0.5  # the bicubic filter's parameter


def resize(
    picture: Image.Image,
    canvas: tuple[int, int],
    color: tuple[int, int, int],
    size: tuple[int, int],
    crop: tuple[int, int, int, int],
) -> Bytes:
    """An RGB picture in the middle of a canvas of one color, resized, cropped.

    Args:
        picture: not larger than ``canvas``.
        canvas: (width, height).
        color: of what the picture does not cover.
        size: (width, height) of the resized canvas.
        crop: (left, top, width, height) of the part that is wanted, inside ``size``.

    Returns:
        ``[crop height, crop width, 4]``: red, green, blue and a byte without meaning.
    """
    left, top, out_width, out_height = crop
    columns, rows = (
        slice((whole - part) // 2, (whole - part) // 2 + part) for whole, part in zip(canvas, picture.size, strict=True)
    )
    background = np.array([*color, 0], dtype=np.uint8).view(np.uint32)
    pixels = np.frombuffer(picture.tobytes("raw", "RGBX"), dtype=np.uint32).reshape(picture.height, picture.width)

    lying = np.empty((canvas[0], picture.height), dtype=np.uint32)
    lying[: columns.start] = lying[columns.stop :] = background
    lying[columns] = pixels.T
    narrow = _weigh(lying, *_weights(canvas[0], size[0]), slice(left, left + out_width))

    standing = np.empty((canvas[1], out_width), dtype=np.uint32)
    standing[: rows.start] = standing[rows.stop :] = background
    standing[rows] = narrow.T
    resized = _weigh(standing, *_weights(canvas[1], size[1]), slice(top, top + out_height))
    return resized.view(np.uint8).reshape(out_height, out_width, 4)


def _weigh(source: Pixels, starts: NDArray[np.int64], weights: NDArray[np.int32], wanted: slice) -> Pixels:
    """The ``wanted`` ones of as many rows as there are weights, made of the rows of ``source``."""
    out = np.empty((wanted.stop - wanted.start, source.shape[1]), dtype=np.uint32)
    _add_rows(source.view(np.uint8), starts[wanted], weights[wanted], out.view(np.uint8))
    return out


@njit(cache=True)
def look_up(image: Bytes, table: NDArray[np.float32], planes: NDArray[np.float32]) -> None:
    """``planes[c, y, x] = table[c, image[y, x, c]]`` for each channel of ``table``."""
    height, width, _ = image.shape
    for y in range(height):
        for channel in range(len(table)):
            for x in range(width):
                planes[channel, y, x] = table[channel, image[y, x, channel]]


@lru_cache(maxsize=4096)
def _weights(before: int, after: int) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """For each of ``after`` outputs: the first of ``before`` inputs that it reads, and the weights of those from there.

    In Pillow's order of operations: weights that differ in the last place of a float64 could round otherwise.
    """
    scale = before / after
    stretch = max(scale, 1.0)
    support = SUPPORT * stretch
    centers = (np.arange(after) + 0.5) * scale
    starts = np.maximum((centers - support + 0.5).astype(np.int64), 0)
    ends = np.minimum((centers + support + 0.5).astype(np.int64), before)
    taps = np.arange((ends - starts).max())
    places = starts[:, None] + taps
    distances = np.abs((places - centers[:, None] + 0.5) * (1.0 / stretch))
    near = ((A + 2.0) * distances - (A + 3.0)) * distances * distances + 1
    far = (((distances - 5) * distances + 8) * distances - 4) * A
    values = np.where(distances < 1.0, near, np.where(distances < SUPPORT, far, 0.0))
    values[places >= ends[:, None]] = 0.0
    values /= np.cumsum(values, axis=1)[:, -1:]  # summed from left to right, as Pillow does
    scaled = values * (1 << PRECISION)
    return starts, np.trunc(scaled + np.where(scaled < 0, -0.5, 0.5)).astype(np.int32)


@njit(cache=True)
def _add_rows(source: Bytes, starts: NDArray[np.int64], weights: NDArray[np.int32], out: Bytes) -> None:
    """``out[i] = sum over t of weights[i, t] * source[starts[i] + t]``, rounded and clipped to bytes."""
    length = source.shape[1]
    total = np.empty(length, dtype=np.int32)
    for i in range(out.shape[0]):
        total[:] = HALF
        for t in range(weights.shape[1]):
            weight = weights[i, t]
            if weight != 0:
                row = source[starts[i] + t]
                for j in range(length):
                    total[j] += np.int32(row[j]) * weight
        for j in range(length):
            out[i, j] = min(max(total[j] >> PRECISION, 0), 255)
