"""Pictures of attention maps: the geometry in numbers, the file and its JSON."""

import json
import sys

import pytest
import torch
from PIL import Image

from ccra_patch.pai import AttentionMaps
from ccra_patch.picture import DPI, Example, covered_box, draw, on_picture

GRID = 8


def maps(images: int = 2, layers: int = 6, grid: int = GRID) -> AttentionMaps:
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).requires_grad_()

    scores = random(images, layers)
    return AttentionMaps(
        alpha=random(images, 3).softmax(1),
        lpwca=random(images, layers, grid * grid),
        layer_scores=scores,
        smoothed_scores=scores / 2,
        layer_weights=(scores / 2).softmax(1),
        pwca=random(images, grid * grid).bfloat16(),
    )


def example(question: str = "What is on the table?", size=(64, 40), **given) -> Example:
    return Example(question, Image.new("RGB", size, "green"), **({"maps": maps()} | given))


@pytest.mark.parametrize(
    ("fit", "size", "box"),
    [
        ("pad", (640, 480), (0, -80, 640, 560)),
        ("pad", (480, 640), (-80, 0, 560, 640)),
        ("crop", (640, 480), (80, 0, 560, 480)),
        ("crop", (480, 640), (0, 80, 480, 560)),
        ("stretch", (640, 480), (0, 0, 640, 480)),
        ("pad", (300, 300), (0, 0, 300, 300)),
    ],
)
def test_the_grid_covers_what_the_tower_saw(fit, size, box):
    assert covered_box(*size, fit) == box


@pytest.mark.parametrize("size", [(64, 32), (32, 64)])
def test_mass_in_the_padding_is_not_drawn(size):
    wide = size[0] > size[1]
    values = torch.ones(GRID, GRID)
    picture_part = (slice(2, 6), slice(None)) if wide else (slice(None), slice(2, 6))
    values[picture_part] = 0
    assert on_picture(values, *size, "pad").abs().max() == 0
    assert torch.equal(on_picture(1 - values, *size, "pad"), torch.ones(size[1], size[0]))


def test_a_patch_lands_on_its_place_in_a_padded_picture():
    values = torch.zeros(GRID, GRID)
    values[2, 5] = 1  # the uppermost row of patches on a 2:1 picture; each covers 8 by 8 pixels
    heat = on_picture(values, 64, 32, "pad")
    row, column = divmod(int(heat.argmax()), 64)
    assert row <= 4
    assert 40 <= column < 48
    assert heat[0, 43] > 0.9
    assert heat[16:, :].abs().max() == 0


def test_outside_the_crop_nothing_is_known():
    heat = on_picture(torch.arange(16.0), 40, 20, "crop")
    assert heat.isnan()[:, :10].all()
    assert heat.isnan()[:, 30:].all()
    assert not heat.isnan()[:, 10:30].any()
    assert (heat[0, 10], heat[19, 29]) == (0, 15)


def test_a_stretched_map_fills_the_picture_and_keeps_linear_ramps():
    ramp = torch.arange(4.0).repeat(4, 1)
    heat = on_picture(ramp, 400, 100, "stretch")
    torch.testing.assert_close(heat[50, 50:350], (torch.arange(50, 350) + 0.5) / 100 - 0.5)


def test_the_figure_and_its_numbers(tmp_path):
    two = maps()
    rows = draw([example(maps=two), example("And under it?", maps=two, index=1, fit="crop")], tmp_path / "maps.png")
    image = Image.open(tmp_path / "maps.png")
    assert image.size == (1565, 685)
    assert len(image.convert("RGB").resize((60, 40)).getcolors(2400)) > 50, "the figure is empty"

    assert json.loads((tmp_path / "maps.json").read_text()) == rows
    assert [row["question"] for row in rows] == ["What is on the table?", "And under it?"]
    assert rows[0]["layers"] == [1, 2, 3, 4, 5, 6]
    assert [shown["layer"] for shown in rows[0]["lpwca"]] == [1, 4, 6]
    second = rows[1]
    assert second["fit"] == "crop"
    assert second["picture_size"] == [64, 40]
    torch.testing.assert_close(torch.tensor(second["lpwca"][1]["map"]), two.lpwca[1, 3].view(GRID, GRID))
    torch.testing.assert_close(torch.tensor(second["pwca"]), two.pwca[1].float().view(GRID, GRID))
    torch.testing.assert_close(torch.tensor(second["raw_layer_weights"]), two.layer_scores[1].softmax(0))
    for name in ("alpha", "layer_scores", "smoothed_scores", "layer_weights"):
        torch.testing.assert_close(torch.tensor(second[name]), getattr(two, name)[1])


def test_a_long_question_wraps_and_dollars_are_no_formula(tmp_path):
    draw([example("Which $ is it, a $x_$ or \\frac{?")], tmp_path / "short.png")
    draw([example("Is there a table in it? " * 40)], tmp_path / "long.png")
    short, long = (Image.open(tmp_path / f"{name}.png").size for name in ("short", "long"))
    assert short[0] == long[0]
    assert long[1] >= short[1] + 3 * 0.2 * DPI


def test_one_layer_an_empty_query_and_named_layers(tmp_path):
    zero = AttentionMaps(
        *(torch.zeros(1, 0), torch.zeros(1, 1, 4), torch.zeros(1, 1), torch.zeros(1, 1)),
        layer_weights=torch.ones(1, 1),
        pwca=torch.zeros(1, 4),
    )
    (row,) = draw([example("", maps=zero, layers=[23])], tmp_path / "one.png")
    assert row["layers"] == [23]
    assert [shown["layer"] for shown in row["lpwca"]] == [23]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], "x.png"), "there is no example to draw"),
        (([example()], "x.jpg"), r"path is 'x\.jpg'; it must end in \.png"),
        (
            ([example(fit="padded")], "x.png"),
            "fit is 'padded'; it must be one of pad, crop, stretch; did you mean 'pad'",
        ),
        (([example(layers=[1, 2])], "x.png"), "2 layers are named, the maps have 6; name each of them or none"),
    ],
)
def test_what_cannot_be_drawn_is_refused(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        draw(*arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_grid_that_is_no_square_is_refused():
    with pytest.raises(ValueError, match="a map has 10 patches; only a square grid"):
        on_picture(torch.zeros(10), 8, 8, "pad")


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match="needs matplotlib; run: pip install matplotlib"):
        draw([example()], tmp_path / "x.png")
