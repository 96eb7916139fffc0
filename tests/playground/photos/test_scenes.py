import random
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from playground.photos import cutouts, ocr, scenery, scenes
from playground.photos.cutouts import Shelf
from playground.photos.scenes import SIDE, Combinations, Picture, Scene, Thing, choice, pasted, picture, shared, side_of


@pytest.fixture(scope="module")
def shelf(pictures: tuple[Path, Path]) -> Shelf:
    return cutouts.load(pictures[0], 0)


@pytest.fixture(scope="module")
def backgrounds(pictures: tuple[Path, Path]) -> tuple[Image.Image, ...]:
    return scenery.load(pictures[1])


def make(shelf: Shelf, backgrounds: tuple[Image.Image, ...], number: int) -> Picture:
    return picture(str(number), shelf.known, backgrounds, lambda chosen: True, random.Random(number))


def thing(x: int, y: int, width: int = 20, height: int = 20) -> Thing:
    return Thing(f"{x}-{y}", "cow", "mammal", "cow-1", None, x, y, width, height, 300)


def test_mask_is_what_compositing_opaque_parts_shows(shelf: Shelf) -> None:
    """The picture of opaque, plainly colored copies on a plain ground shows exactly the mask's areas."""
    for seed in range(8):
        plain = []
        for value, cutout in enumerate(choice(shelf.known, 5, random.Random(seed)), start=1):
            flat = Image.new("RGBA", cutout.image.size, (value * 40, 0, 0, 0))
            flat.putalpha(cutout.image.getchannel("A"))
            plain.append(cutouts.Cutout(cutout.name, cutout.category, cutout.source, flat))
        made = pasted("7", plain, Image.new("RGB", (SIDE, SIDE), (0, 0, 255)), random.Random(seed))
        mask, pixels = np.asarray(made.mask), np.asarray(made.image).astype(int)
        # More than half of a pixel is the thing's where the ground's blue is less than half; rims may lie on things.
        assert (pixels[..., 2][mask > 0] <= 128).all()
        assert (pixels[..., 2][mask == 0] >= 60).all()
        inside = np.abs(pixels[..., 0] - 40 * mask.astype(int))[mask > 0]
        assert np.median(inside) == 0


def test_boxes_and_pixels_are_those_of_the_mask(shelf: Shelf, backgrounds: tuple[Image.Image, ...]) -> None:
    for number in range(20):
        made = make(shelf, backgrounds, number)
        mask = np.asarray(made.mask)
        assert set(np.unique(mask)) - {0} == set(range(1, len(made.scene.things) + 1))
        for value, seen in enumerate(made.scene.things, start=1):
            box = Image.fromarray(mask == value).getbbox()
            assert box == (seen.x, seen.y, seen.x + seen.width, seen.y + seen.height)
            assert seen.pixels == (mask == value).sum()


def test_things_hide_each_other_hardly(shelf: Shelf, backgrounds: tuple[Image.Image, ...]) -> None:
    for number in range(20):
        boxes = [(t.x, t.y, t.width, t.height) for t in make(shelf, backgrounds, number).scene.things]
        assert all(shared(one, other) <= 0.12 for one, other in combinations(boxes, 2))


def test_the_same_stream_makes_the_same_picture(shelf: Shelf, backgrounds: tuple[Image.Image, ...]) -> None:
    one, again, other = (make(shelf, backgrounds, number) for number in (3, 3, 4))
    assert one.scene == again.scene
    assert one.image.tobytes() == again.image.tobytes() != other.image.tobytes()


def test_a_choice_is_drawn_again_until_accepted(shelf: Shelf, backgrounds: tuple[Image.Image, ...]) -> None:
    made = picture("1", shelf.known, backgrounds, lambda c: c[0].name == "fox", random.Random(0))
    assert made.scene.things[0].name == "fox"


def test_combinations_do_not_depend_on_the_order_and_keep_their_share() -> None:
    pairs = Combinations(seed=0, share=0.12)
    words = [f"word{number}" for number in range(60)]
    held_out = [pairs.hold_out(one, other) for one, other in combinations(words, 2)]
    assert 0.09 < sum(held_out) / len(held_out) < 0.15
    assert held_out == [pairs.hold_out(other, one) for one, other in combinations(words, 2)]
    assert not any(pairs.hold_out(word, word) for word in words)
    assert held_out != [Combinations(1, 0.12).hold_out(one, other) for one, other in combinations(words, 2)]


def test_sides_need_a_clear_distance() -> None:
    assert side_of(thing(0, 0), thing(scenes.CLEAR, 0), axis=0) == -1
    assert side_of(thing(scenes.CLEAR, 0), thing(0, 0), axis=0) == 1
    assert side_of(thing(0, 0), thing(scenes.CLEAR - 1, 0), axis=0) == 0
    assert side_of(thing(0, 90), thing(0, 0), axis=1) == 1


def test_a_category_or_a_name_or_thing_finds_things() -> None:
    scene = Scene("1", (thing(0, 0), thing(50, 50)))
    assert scene.called("cow") == scene.called("mammal") == scene.called("thing") == scene.things
    assert scene.called("fox") == ()


def test_a_sign_is_told_by_its_word_and_never_mirrored() -> None:
    made = ocr.sign(random.Random(1))
    assert made.source.removeprefix("sign/") in ocr.WORDS
    upright = {scenes.scaled(made, random.Random(seed)).resize((40, 20)).tobytes() for seed in range(2)}
    sign = Thing("1", "sign", "sign", "sign/stop", None, 0, 0, 9, 9, 81)
    assert (sign.word, sign.identity) == ("stop", "sign/stop")
    mirrored = made.image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).resize((40, 20)).tobytes()
    assert mirrored not in upright
