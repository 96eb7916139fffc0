"""Scenes: cut-outs pasted on a background, with everything that there is to know about them.

A scene is drawn from its own random stream, so that scenes can be made in any order or by several processes.
"""

import hashlib
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import sqrt

import numpy as np
from PIL import Image

from playground.photos import scenery
from playground.photos.cutouts import OPAQUE, Cutout, by_name
from playground.photos.ocr import sign

SIDE = 224  # pixels, of a picture
# Pixels: square root of a thing's width times its height. Alike for all things, or names would tell which is larger.
SMALLEST, LARGEST = 58, 96
FEWEST, MOST = 2, 5  # things in a scene
SIGN_SHARE = 0.35  # scenes with a sign
SAME_CATEGORY, SAME_NAME = 0.25, 0.08  # chance that a thing is chosen to be like one that is there
# Two boxes may share this part of the smaller one: things touch now and then, none hides another.
OVERLAP = 0.08
PLACES_TRIED = 60
SHRINK = 0.92
# Centres closer than this, in pixels, are neither left nor right (or above, below) of each other: one patch of 7 x 7.
CLEAR = 32
CLEARLY_LARGER = 1.6  # ratio of width times height


@dataclass(frozen=True)
class Thing:
    """One object of a scene. ``x``, ``y``, ``width``, ``height`` and ``pixels`` count what is visible of it."""

    id: str
    name: str
    category: str
    source: str
    color: str | None
    x: int
    y: int
    width: int
    height: int
    pixels: int

    @property
    def centre(self) -> tuple[float, float]:
        return self.x + self.width / 2, self.y + self.height / 2

    @property
    def size(self) -> int:
        return self.width * self.height

    @property
    def identity(self) -> str:
        """What it counts as in a combination of things: its name, or what a sign says."""
        return self.source if self.category == "sign" else self.name

    @property
    def word(self) -> str:
        """What a sign says."""
        return self.source.removeprefix("sign/")

    def is_called(self, word: str) -> bool:
        return word in (self.name, self.category)


@dataclass(frozen=True)
class Scene:
    """The things of one picture, in the order of the mask's values: thing i has value 1 + i."""

    id: str
    things: tuple[Thing, ...]

    def called(self, word: str) -> tuple[Thing, ...]:
        """All things whose name or category is ``word``; ``thing`` means any."""
        return tuple(thing for thing in self.things if word == "thing" or thing.is_called(word))


@dataclass(frozen=True)
class Combinations:
    """Which two names never appear in one training picture: ``share`` of all pairs, chosen by ``seed``."""

    seed: int
    share: float

    def hold_out(self, one: str, other: str) -> bool:
        low, high = sorted((one, other))
        digest = hashlib.sha256(f"{self.seed}|{low}|{high}".encode()).digest()
        return low != high and int.from_bytes(digest[:4]) < self.share * 2**32

    def held_out_in(self, things: Iterable[Thing | Cutout]) -> bool:
        identities = (t.source if t.category == "sign" else t.name for t in things)
        return any(self.hold_out(one, other) for one, other in combinations(identities, 2))


@dataclass(frozen=True, eq=False)
class Picture:
    """A scene with its pixels: ``image`` RGB and ``mask`` with 0 where the background shows, both SIDE x SIDE."""

    scene: Scene
    image: Image.Image
    mask: Image.Image


def picture(
    scene_id: str,
    cutouts: Sequence[Cutout],
    backgrounds: tuple[Image.Image, ...],
    accept: Callable[[Sequence[Cutout]], bool],
    draw: random.Random,
) -> Picture:
    """Choose things until ``accept`` takes the choice, and paste them where they hide each other hardly."""
    count = draw.randint(FEWEST, MOST)
    while not accept(chosen := choice(cutouts, count, draw)):
        pass
    return pasted(scene_id, chosen, scenery.crop(backgrounds, SIDE, draw), draw)


def choice(cutouts: Sequence[Cutout], count: int, draw: random.Random) -> list[Cutout]:
    """``count`` cut-outs. Categories with more names come more often, though less than in proportion."""
    shelf = by_name(cutouts)
    categories = list(shelf)
    weights = [sqrt(len(shelf[category])) for category in categories]
    chosen = [sign(draw)] if draw.random() < SIGN_SHARE else []
    while len(chosen) < count:
        category = draw.choices(categories, weights)[0]
        model = draw.choice(chosen) if chosen else None
        like = draw.random()
        if model and model.category in shelf and like < SAME_CATEGORY:
            category = model.category
        names = shelf[category]
        same = model is not None and model.category == category and like < SAME_NAME
        name = model.name if model and same else draw.choice(list(names))
        chosen.append(draw.choice(names[name]))
    draw.shuffle(chosen)
    return chosen


def pasted(scene_id: str, chosen: Sequence[Cutout], background: Image.Image, draw: random.Random) -> Picture:
    """Paste in order; where two overlap, the later one is seen, in the mask as in the picture."""
    sprites = [scaled(cutout, draw) for cutout in chosen]
    while (corners := places([sprite.size for sprite in sprites], draw)) is None:
        sprites = [
            sprite.resize((round(SHRINK * sprite.width), round(SHRINK * sprite.height)), Image.Resampling.BILINEAR)
            for sprite in sprites
        ]
    image, mask = background.copy(), Image.new("L", background.size)
    for value, (sprite, corner) in enumerate(zip(sprites, corners, strict=True), start=1):
        alpha = sprite.getchannel("A")
        image.paste(sprite, corner, alpha)
        mask.paste(value, corner, alpha.point(lambda opacity: 255 * (opacity > OPAQUE)))
    return Picture(Scene(scene_id, things(scene_id, chosen, np.asarray(mask))), image, mask)


def scaled(cutout: Cutout, draw: random.Random) -> Image.Image:
    """The cut-out in a random size, perhaps mirrored; a sign is never mirrored."""
    width, height = cutout.image.size
    scale = draw.uniform(SMALLEST, LARGEST) / sqrt(width * height)
    sprite = cutout.image.resize((round(scale * width), round(scale * height)), Image.Resampling.BICUBIC)
    mirrored = draw.random() < 0.5 and cutout.category != "sign"
    return sprite.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else sprite


def places(sizes: Sequence[tuple[int, int]], draw: random.Random) -> list[tuple[int, int]] | None:
    """Upper left corners at which boxes of these sizes keep apart, None if none were found."""
    boxes: list[tuple[int, int, int, int]] = []
    for width, height in sizes:
        for _ in range(PLACES_TRIED):
            x, y = draw.randint(0, SIDE - width), draw.randint(0, SIDE - height)
            if all(shared((x, y, width, height), box) <= OVERLAP for box in boxes):
                boxes.append((x, y, width, height))
                break
        else:
            return None
    return [(x, y) for x, y, _, _ in boxes]


def shared(one: tuple[int, int, int, int], other: tuple[int, int, int, int]) -> float:
    """Area that two boxes (x, y, width, height) share, as part of the smaller one."""
    sides = (min(one[i] + one[i + 2], other[i] + other[i + 2]) - max(one[i], other[i]) for i in (0, 1))
    width, height = (max(0, side) for side in sides)
    return width * height / min(one[2] * one[3], other[2] * other[3])


def things(scene_id: str, chosen: Sequence[Cutout], mask: np.ndarray) -> tuple[Thing, ...]:
    found = []
    for value, cutout in enumerate(chosen, start=1):
        rows, columns = np.nonzero(mask == value)
        x, y = int(columns.min()), int(rows.min())
        box = (x, y, int(columns.max()) + 1 - x, int(rows.max()) + 1 - y)
        identity = f"{scene_id}{value}"
        found.append(Thing(identity, cutout.name, cutout.category, cutout.source, cutout.color, *box, len(rows)))
    return tuple(found)


def side_of(one: Thing, other: Thing, axis: int) -> int:
    """-1 if ``one`` is clearly left of (axis 0) or above (axis 1) ``other``, 1 if right or below, 0 if neither."""
    offset = one.centre[axis] - other.centre[axis]
    return 0 if abs(offset) < CLEAR else (1 if offset > 0 else -1)
