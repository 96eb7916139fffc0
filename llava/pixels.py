"""CLIP's picture preparation, bit for bit, without doing again for every picture what is the same for all.

The processor of transformers moves a picture back and forth between PIL and numpy, and rescales and normalises every
pixel in float64. These two are functions of one byte and its channel: here they are looked up in a table of 3 x 256
values that the processor itself has made. Pillow resizes, as it does there.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import CLIPImageProcessorPil

Color = tuple[int, int, int]


def pixels_of(images: Sequence[Image.Image], processor: CLIPImageProcessorPil) -> Tensor:
    """RGB pictures -> ``[B, 3, H, W]`` float32, what ``processor.preprocess`` returns for them.

    All must come to one size, as they do where the processor crops.
    """
    if not _is_plain(processor):
        return processor.preprocess(list(images), return_tensors="pt")["pixel_values"]
    return _look_up([_crop(_resize(image, processor), processor) for image in images], processor)


def padded_pixels_of(images: Sequence[Image.Image], color: Color, processor: CLIPImageProcessorPil) -> Tensor:
    """:func:`pixels_of` of the pictures centred on square canvases of ``color``."""
    if not _is_plain(processor):
        return pixels_of([centred_on_square(image, color) for image in images], processor)
    return _look_up([_crop(_resize_padded(image, color, processor), processor) for image in images], processor)


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


def _resize(image: Image.Image, processor: CLIPImageProcessorPil) -> Image.Image:
    short = processor.size["shortest_edge"]
    width, height = image.size
    # Scale by the ratio of the sides, not by short / side: it rounds otherwise.
    size = (short, int(short * height / width)) if width <= height else (int(short * width / height), short)
    return image.resize(size, processor.resample)


def _resize_padded(image: Image.Image, color: Color, processor: CLIPImageProcessorPil) -> Image.Image:
    width, height = image.size
    if width <= height:
        return _resize(centred_on_square(image, color), processor)
    # Pillow resizes rows first, then columns, and a row of one colour stays what it is: the rows above and below a wide
    # picture can be added in between.
    side = processor.size["shortest_edge"]
    narrow = image.resize((side, height), processor.resample)
    return centred(narrow, (side, width), color).resize((side, side), processor.resample)


def _crop(image: Image.Image, processor: CLIPImageProcessorPil) -> Image.Image:
    height, width = processor.crop_size["height"], processor.crop_size["width"]
    if image.size == (width, height):
        return image
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def _look_up(images: Sequence[Image.Image], processor: CLIPImageProcessorPil) -> Tensor:
    table = _table(processor.rescale_factor, tuple(processor.image_mean), tuple(processor.image_std))
    width, height = images[0].size
    pixels = np.empty((len(images), 3, height, width), dtype=np.float32)
    for image, planes in zip(images, pixels, strict=True):
        for values, band, plane in zip(table, image.split(), planes, strict=True):
            np.take(values, np.asarray(band), out=plane, mode="clip")  # the mode that writes into `out` directly
    return torch.from_numpy(pixels)


@lru_cache
def _table(factor: float, mean: tuple[float, ...], std: tuple[float, ...]) -> np.ndarray:
    """What each of 256 levels becomes in each channel, ``[3, 256]``."""
    processor = CLIPImageProcessorPil()
    levels = np.broadcast_to(np.arange(256, dtype=np.uint8), (3, 1, 256))
    return processor.normalize(processor.rescale(levels, factor), mean, std)[:, 0]
