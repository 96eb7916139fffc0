"""AttAnchor's pins on their picture: boxes, the file and its JSON."""

import json
import sys

import pytest
from PIL import Image

from ccra_patch.anchor_picture import Pin, PinnedPicture, draw_pins, patch_box
from ccra_patch.picture import covered_box


def pinned(pins=(), size=(64, 40), question="What is on the table?", **given) -> PinnedPicture:
    options = {"direction": "text_into_image", "tau": 0.12} | given
    return PinnedPicture(question, Image.new("RGB", size, "black"), pins, **options)


def test_a_patch_lies_where_the_tower_saw_it():
    assert patch_box(0, 0, 4, 4, covered_box(40, 20, "pad")) == (0, -10, 10, 0)
    assert patch_box(1, 3, 4, 4, covered_box(40, 20, "pad")) == (30, 0, 40, 10)
    assert patch_box(3, 3, 4, 4, covered_box(40, 20, "crop")) == (25, 15, 30, 20)
    assert patch_box(1, 2, 2, 4, covered_box(40, 20, "stretch")) == (20, 10, 30, 20)


def test_numbers_come_in_the_order_of_the_prompt_and_know_the_padding(tmp_path):
    pins = [Pin("table", 9, (10, 0, 20, 10), 0.2), Pin("What", 4, (0, -10, 10, 0), 0.13)]
    (row,) = draw_pins([pinned(pins, size=(40, 20))], tmp_path / "pins.png")
    assert json.loads((tmp_path / "pins.json").read_text()) == json.loads(json.dumps([row]))
    assert [(pin["text"], pin["on_picture"]) for pin in row["pins"]] == [("What", False), ("table", True)]
    assert row["picture_size"] == [40, 20]
    assert (row["direction"], row["tau"]) == ("text_into_image", 0.12)


def test_a_pin_is_drawn_on_its_patch(tmp_path):
    draw_pins([pinned()], tmp_path / "none.png")
    draw_pins([pinned([Pin("table", 9, (32, 20, 48, 30), 0.2)])], tmp_path / "one.png")
    none, one = (Image.open(tmp_path / f"{name}.png").convert("RGB") for name in ("none", "one"))
    assert none.size == one.size
    # The picture is 450 dots wide; outside its right lower part and the legend nothing changes.
    changed = [
        (x, y) for x in range(none.width) for y in range(none.height) if none.getpixel((x, y)) != one.getpixel((x, y))
    ]
    on_picture = [(x, y) for x, y in changed if x < 490]
    assert min(x for x, _ in on_picture) == pytest.approx(30 + 450 / 2, abs=8)
    assert max(x for x, _ in on_picture) == pytest.approx(30 + 450 * 3 / 4, abs=8)


def test_long_questions_many_words_and_dollars(tmp_path):
    many = [Pin(f"word$_{i}$", i, (i % 8 * 8, i // 8 * 8, i % 8 * 8 + 8, i // 8 * 8 + 8), 0.1) for i in range(40)]
    draw_pins([pinned(many, question="Is there a $ in {it? " * 30)], tmp_path / "long.png")
    draw_pins([pinned(many[:2], question="")], tmp_path / "short.png")
    long, short = (Image.open(tmp_path / f"{name}.png").size for name in ("long", "short"))
    assert long[0] == short[0]
    assert long[1] > short[1] + 500, "every word has its line"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], "x.png"), "there is no example to draw; give at least one"),
        (([pinned()], "x.jpg"), r"path is 'x\.jpg'; it must end in \.png"),
    ],
)
def test_what_cannot_be_drawn_is_refused(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        draw_pins(*arguments)
    assert list(tmp_path.iterdir()) == []


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match="needs matplotlib; run: pip install matplotlib"):
        draw_pins([pinned()], tmp_path / "x.png")
