"""Backgrounds: photographs of bark, rocks, water, sky and leaves, in which nothing is that a question could name."""

import random
from pathlib import Path

from PIL import Image, ImageFilter

# Of Tux Paint's templates; the others show a sheep, a lighthouse, machines or mostly black.
PHOTOS = (
    *("burnt_bark", "cliff", "corn_maze", "mossy_bark", "mossy_log", "mudstone", "ocean_splash", "ocean_waves"),
    *("redwoods_above", "rocks", "sun_behind_clouds", "sun_behind_leaves", "trees_above", "trees_at_dusk"),
)
LONGEST_SIDE = 640
FRAME = 0.08  # share of the picture's sides that crops leave out: some photographs have a black border
SMALLEST_CROP = 0.5  # of the picture's shorter side
BLUR = 1.5  # pixels: a camera that is focused on what stands in front


def load(templates: Path) -> tuple[Image.Image, ...]:
    backgrounds = []
    for name in PHOTOS:
        with Image.open(templates / f"{name}.jpg") as photo:
            picture = photo.convert("RGB")
        picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
        width, height = picture.size
        inset = (round(FRAME * width), round(FRAME * height))
        backgrounds.append(picture.crop((*inset, width - inset[0], height - inset[1])))
    return tuple(backgrounds)


def crop(backgrounds: tuple[Image.Image, ...], size: int, draw: random.Random) -> Image.Image:
    """A square part of one of them, perhaps mirrored, in ``size`` x ``size`` pixels."""
    picture = draw.choice(backgrounds)
    side = min(picture.size) * draw.uniform(SMALLEST_CROP, 1)
    left, top = (draw.uniform(0, length - side) for length in picture.size)
    part = picture.resize((size, size), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side))
    part = part.filter(ImageFilter.GaussianBlur(BLUR))
    return part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if draw.random() < 0.5 else part
