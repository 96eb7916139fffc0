"""The language model's attention to the picture: the average in numbers, and the figure."""

import json

import pytest
import torch
from PIL import Image

from ccra_patch.language_attention import LONGEST_NAME, Reading, draw_attention, middle_layers, text_to_image


def test_the_middle_layers_are_the_middle_third():
    assert list(middle_layers(32)) == list(range(10, 22))
    assert list(middle_layers(24)) == list(range(8, 16))
    assert list(middle_layers(3)) == [1]
    assert list(middle_layers(2)) == [0, 1]


def test_the_average_is_over_layers_heads_and_question_and_sums_up_copies():
    """Places: begin, patch 1, patch 0, a copy of patch 1, a patch of a tile, question, question, other text."""
    patch = torch.tensor([-1, 1, 0, 1, 2, -1, -1, -1])
    question = torch.tensor([False] * 5 + [True, True, False])
    attentions = torch.zeros(2, 2, 8, 8)  # layers, heads
    attentions[0, 0, 5, 2] = 0.8  # one question token looks at patch 0 in one head of one layer
    attentions[1, :, 5:7, 1] = 0.4  # both look at patch 1 in both heads of the other
    attentions[1, 1, 6, 3] = 0.2  # and at its copy
    attentions[:, :, 7, 2] = 1.0  # not of the question
    attentions[:, :, 5, 4] = 1.0  # not of the whole picture
    expected = torch.tensor([0.8 / 8, 0.4 / 2 + 0.2 / 8])
    torch.testing.assert_close(text_to_image(list(attentions), question, patch, 2), expected)


def reading(question: str = "What is it?", names: tuple[str, ...] = ("plain", "ccra")) -> Reading:
    values = {name: torch.rand(16, generator=torch.Generator().manual_seed(n)) / 16 for n, name in enumerate(names)}
    return Reading(question, Image.new("RGB", (64, 40), "green"), values, dict.fromkeys(names, "pad"))


def test_the_figure_and_its_numbers(tmp_path):
    rows = draw_attention([reading(), reading("And why? " * 60)], tmp_path / "new" / "llm.png")
    assert json.loads((tmp_path / "new" / "llm.json").read_text()) == rows
    model = rows[0]["models"]["ccra"]
    torch.testing.assert_close(torch.tensor(model["map"]).flatten(), reading().attention["ccra"])
    assert model["attention_on_picture"] == pytest.approx(reading().attention["ccra"].sum().item())
    assert rows[0]["picture_size"] == [64, 40]
    long, short = (
        Image.open(tmp_path / "new" / "llm.png").size,
        draw_attention([reading()] * 2, tmp_path / "short.png") and Image.open(tmp_path / "short.png").size,
    )
    assert long[0] == short[0]
    assert long[1] > short[1] + 50


def test_what_cannot_be_drawn_is_refused(tmp_path):
    with pytest.raises(ValueError, match="there is no example to draw"):
        draw_attention([], tmp_path / "x.png")
    with pytest.raises(ValueError, match=r"must end in \.png"):
        draw_attention([reading()], tmp_path / "x.pdf")
    names = ("n" * (LONGEST_NAME + 9),)
    assert names[0] in draw_attention([reading(names=names)], tmp_path / "x.png")[0]["models"]
