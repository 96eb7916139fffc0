from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from playground.photos import cutouts
from playground.photos.cutouts import COLORS, color_indices, load, measured_color, trimmed


@pytest.mark.parametrize(
    ("pixel", "color"),
    [
        ((200, 20, 25), "red"),
        ((240, 140, 20), "orange"),
        ((240, 220, 30), "yellow"),
        ((40, 160, 50), "green"),
        ((30, 60, 200), "blue"),
        ((130, 40, 190), "purple"),
        ((250, 120, 190), "pink"),
        ((120, 70, 30), "brown"),
        ((15, 15, 15), "black"),
        ((250, 250, 245), "white"),
        ((128, 128, 130), "gray"),
    ],
)
def test_a_plain_thing_has_its_color(pixel: tuple[int, int, int], color: str) -> None:
    assert COLORS[color_indices(np.array([pixel], np.uint8))[0]] == color
    assert measured_color(Image.new("RGBA", (8, 8), (*pixel, 255))) == color


def test_only_opaque_pixels_count() -> None:
    picture = Image.new("RGBA", (10, 10), (30, 60, 200, 100))
    picture.paste((200, 20, 25, 255), (0, 0, 3, 3))
    assert measured_color(picture) == "red"


@pytest.mark.parametrize("red_rows", [4, 5, 6])
def test_a_thing_of_two_colors_has_none(red_rows: int) -> None:
    picture = Image.new("RGBA", (10, 10), (30, 60, 200, 255))
    picture.paste((200, 20, 25, 255), (0, 0, 10, red_rows))
    assert measured_color(picture) is None


def test_a_color_that_people_call_differently_is_none() -> None:
    assert measured_color(Image.new("RGBA", (4, 4), (20, 170, 170, 255))) is None


def test_trimmed_to_what_is_opaque_and_shrunk() -> None:
    picture = Image.new("RGBA", (900, 700), (0, 0, 0, 100))
    picture.paste((200, 20, 25, 255), (100, 50, 900, 450))
    assert trimmed(picture).size == (cutouts.LONGEST_SIDE, cutouts.LONGEST_SIDE // 2)


def test_a_third_of_the_pictures_of_a_name_is_held_out(pictures: tuple[Path, Path]) -> None:
    shelf = load(pictures[0], seed=0)
    known, held_out = ([cutout.source for cutout in part] for part in (shelf.known, shelf.held_out))
    assert not set(known) & set(held_out)
    assert sum(source.startswith("fruit/apple") for source in held_out) == 1
    assert "mammal/fox.png" in known  # a name's only picture
    assert "mammal/yak.png" in held_out
    assert "yak" not in {cutout.name for cutout in shelf.known}


def test_the_seed_decides_which(pictures: tuple[Path, Path]) -> None:
    choices = {tuple(cutout.source for cutout in load(pictures[0], seed).held_out) for seed in range(5)}
    assert len(choices) > 1
    assert len({tuple(cutout.source for cutout in load(pictures[0], 3).held_out) for _ in range(2)}) == 1


def test_the_catalog_lists_no_picture_twice() -> None:
    for category, names in cutouts.CATALOG.items():
        sources = [source for group in names.values() for source in group] + list(cutouts.UNNAMED.get(category, ()))
        assert len(sources) == len(set(sources)), category
