"""CLIP's picture preparation, bit for bit, without doing again for every picture what is the same for all.

The processor of transformers moves a picture back and forth between PIL and numpy, and rescales and normalises every
pixel in float64. These two are functions of one byte and its channel: here they are looked up in a table of 3 x 256
values that the processor itself has made. Resizing is Pillow's, and where numba is installed its arithmetic with vector
instructions.
"""

import importlib
import logging
from collections.abc import Sequence
from functools import cache, lru_cache
from types import ModuleType

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers import CLIPImageProcessorPil

logger = logging.getLogger(__name__)

Color = tuple[int, int, int]
BLACK: Color = (0, 0, 0)


def pixels_of(images: Sequence[Image.Image], processor: CLIPImageProcessorPil) -> Tensor:
    """RGB pictures -> ``[B, 3, H, W]`` float32, what ``processor.preprocess`` returns for them.

    All must come to one size, as they do where the processor crops.
    """
    if not _is_plain(processor):
        return processor.preprocess(list(images), return_tensors="pt")["pixel_values"]
    return _look_up([_resize(image, image.size, BLACK, processor) for image in images], processor)


def padded_pixels_of(images: Sequence[Image.Image], color: Color, processor: CLIPImageProcessorPil) -> Tensor:
    """:func:`pixels_of` of the pictures centred on square canvases of ``color``."""
    if not _is_plain(processor):
        return pixels_of([centred_on_square(image, color) for image in images], processor)
    resized = [_resize(image, (max(image.size), max(image.size)), color, processor) for image in images]
    return _look_up(resized, processor)


def centred_on_square(image: Image.Image, color: Color) -> Image.Image:
    """An RGB picture in the middle of a square of its longer side; a square picture comes back as it is."""
    side = max(image.size)
    return image if image.size == (side, side) else centred(image, (side, side), color)


def centred(image: Image.Image, size: tuple[int, int], color: Color) -> Image.Image:
    """An RGB picture in the middle of a canvas of ``size`` = (width, height)."""
    canvas = Image.new("RGB", size, color)
    canvas.paste(image, ((size[0] - image.width) // 2, (size[1] - image.height) // 2))
    return canvas


def _is_plain(processor: CLIPImageProcessorPil) -> bool:
    """Whether it resizes by the shorter side, crops, rescales and normalises, as CLIP's own do."""
    return (
        type(processor) is CLIPImageProcessorPil
        and processor.do_resize and processor.do_center_crop and processor.do_rescale and processor.do_normalize
        and [name for name, value in dict(processor.size).items() if value] == ["shortest_edge"]
    )  # fmt: skip


def _resize(
    image: Image.Image, canvas: tuple[int, int], color: Color, processor: CLIPImageProcessorPil
) -> NDArray[np.uint8]:
    """The picture in the middle of a canvas, resized and cropped as the processor does: bytes ``[H, W, 3 or more]``."""
    short, (width, height) = processor.size["shortest_edge"], canvas
    # By the ratio of the sides, and not by short / side: that rounds otherwise.
    size = (short, int(short * height / width)) if width <= height else (int(short * width / height), short)
    wanted = processor.crop_size["width"], processor.crop_size["height"]
    left, top = (size[0] - wanted[0]) // 2, (size[1] - wanted[1]) // 2
    fast = _vectorised()
    if fast is not None and left >= 0 and top >= 0 and processor.resample == Image.Resampling.BICUBIC:
        return fast.resize(image, canvas, color, size, (left, top, *wanted))
    whole = image if image.size == canvas else centred(image, canvas, color)
    return np.asarray(whole.resize(size, processor.resample).crop((left, top, left + wanted[0], top + wanted[1])))


@cache
def _vectorised() -> ModuleType | None:
    try:
        return importlib.import_module("llava.resampling")
    except (ImportError, RuntimeError) as error:  # no numba, or no place where it may keep what it has compiled
        logger.info("pictures are resized by Pillow alone (%s); numba makes that several times faster", error)
        return None


def _look_up(images: Sequence[NDArray[np.uint8]], processor: CLIPImageProcessorPil) -> Tensor:
    table = _table(processor.rescale_factor, tuple(processor.image_mean), tuple(processor.image_std))
    fast = _vectorised()
    pixels = np.empty((len(images), 3, *images[0].shape[:2]), dtype=np.float32)
    for image, planes in zip(images, pixels, strict=True):
        if fast is not None:
            fast.look_up(image, table, planes)
            continue
        for channel, (values, plane) in enumerate(zip(table, planes, strict=True)):
            np.take(values, image[..., channel], out=plane, mode="clip")  # the mode that writes into `out` directly
    return torch.from_numpy(pixels)


@lru_cache
def _table(factor: float, mean: tuple[float, ...], std: tuple[float, ...]) -> NDArray[np.float32]:
    """What each of 256 levels becomes in each channel, ``[3, 256]``."""
    processor = CLIPImageProcessorPil()
    levels = np.broadcast_to(np.arange(256, dtype=np.uint8), (3, 1, 256))
    return processor.normalize(processor.rescale(levels, factor), mean, std)[:, 0]
