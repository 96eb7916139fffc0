"""Figure 4: layer weights of several questions."""

import json

import pytest
import torch
from PIL import Image

from ccra_patch.depth_picture import draw_layer_weights
from ccra_patch.pai import AttentionMaps
from ccra_patch.picture import Example


def example(question: str, seed: int = 0, layers: int = 6) -> Example:
    scores = torch.randn(1, layers, generator=torch.Generator().manual_seed(seed))
    maps = AttentionMaps(
        torch.ones(1, 1), torch.zeros(1, layers, 4), scores, scores / 2, (scores / 2).softmax(1), torch.zeros(1, 4)
    )
    return Example(question, Image.new("RGB", (8, 8)), maps)


def test_the_figure_and_its_numbers(tmp_path):
    rows = draw_layer_weights([example("What?"), example("Where?", 1, layers=4)], tmp_path / "layers.png")
    assert json.loads((tmp_path / "layers.json").read_text()) == rows
    assert [row["layers"] for row in rows] == [[1, 2, 3, 4, 5, 6], [1, 2, 3, 4]]
    scores = example("What?").maps.layer_scores[0]
    torch.testing.assert_close(torch.tensor(rows[0]["raw_layer_weights"]), scores.softmax(0))
    torch.testing.assert_close(torch.tensor(rows[0]["layer_weights"]), (scores / 2).softmax(0))
    colors = Image.open(tmp_path / "layers.png").convert("RGB").getcolors(10**6)
    assert {(31, 119, 180), (255, 127, 14)} <= {color for _, color in colors}, "each question has a colour"


def test_questions_of_any_length_stand_below_the_plot(tmp_path):
    for name, text in (("short", "What?"), ("long", "Is there, $ by $ any _chance_, a table? " * 30), ("none", "")):
        draw_layer_weights([example(text)] * 3, tmp_path / f"{name}.png")
    short, long, none = (Image.open(tmp_path / f"{name}.png").size for name in ("short", "long", "none"))
    assert short == none
    assert long[0] == short[0]
    assert long[1] > short[1] + 3 * 10 * 15


def test_what_cannot_be_drawn_is_refused(tmp_path):
    with pytest.raises(ValueError, match="there is no example to draw"):
        draw_layer_weights([], tmp_path / "x.png")
    with pytest.raises(ValueError, match=r"must end in \.png"):
        draw_layer_weights([example("What?")], tmp_path / "x.svg")
