"""The attention panel's pictures, made of numbers as a worker sends them."""

import numpy as np
import pytest
from PIL import Image

from llava.serve import panel

WIDE = Image.new("RGB", (60, 20), "white")


def maps(**changes):
    """Two layers of a 3 x 3 grid over a wide, padded picture, of which only the middle row shows."""
    numbers = {
        "size": [60, 20],
        "fit": "pad",
        "alpha": [0.25, 0.75],
        "lpwca": [[[9, 9, 9], [0, 1, 2], [9, 9, 9]], [[9, 9, 9], [3, 3, 3], [9, 9, 9]]],
        "layer_scores": [0.0, 0.0],
        "smoothed_scores": [0.0, 1.0],
        "layer_weights": [0.3, 0.7],
        "pwca": [[-9, -9, -9], [1, 0, -1], [-9, -9, -9]],
    }
    said = {"projector": "ccra", "words": ["Wh", "at"], "layers": [4, 8], "attanchor": None, "pictures": [numbers]}
    return said | changes


def test_maps_lie_on_the_picture_and_padding_stays_out():
    image, caption = panel.lpwca_picture(maps(), WIDE, 0)
    assert caption == "LPWCA, layer 4: 0 to 2"
    assert image.size == (448, 149)
    red = np.asarray(image)[:, :, 0].astype(int)
    assert (np.diff(red.mean(axis=0)) >= 0).all()
    assert red[:, -1].mean() > red[:, 0].mean() + 50
    assert panel.pwca_picture(maps(), WIDE)[1] == "PWCA: -1 to 1"


def test_a_constant_map_and_what_the_crop_left_out():
    cropped = maps()
    cropped["pictures"][0]["fit"] = "crop"
    image, caption = panel.lpwca_picture(cropped, WIDE, 1)
    assert caption == "LPWCA, layer 8: 3 to 9"
    pixels = np.asarray(image)
    assert (pixels[:, :140] == 255).all()
    assert (pixels[:, 160:280] != 255).any()
    assert panel.lpwca_picture(maps(), WIDE, 1)[1] == "LPWCA, layer 8: 3 to 3"


def test_curve_and_words():
    columns = panel.layer_weights(maps())
    assert columns["layer"] == ["4", "8", "4", "8"]
    assert columns["weight"] == pytest.approx([0.5, 0.5, 0.3, 0.7])
    assert columns["kind"] == ["raw", "raw", "smoothed", "smoothed"]
    words, caption = panel.word_weights(maps())
    assert words == [("Wh", pytest.approx(1 / 3)), ("at", 1.0)]
    assert caption == "Importance of the question's tokens (alpha): 0.25 to 0.75"
    assert [panel.default_places(count) for count in (1, 2, 24)] == [(0, 0, 0), (0, 1, 1), (0, 12, 23)]


def test_pinned_words_are_masks_within_the_picture():
    pins = [
        {"text": "at", "token": 7, "box": [20, 0, 40, 20], "similarity": 0.3},
        {"text": "Wh", "token": 6, "box": [-10, -10, 20, 10], "similarity": 0.2},
        {"text": "at", "token": 7, "box": [40, 10, 60, 30], "similarity": 0.2},
    ]
    said = maps(attanchor={"direction": "text_into_image", "tau": 0.12}, projector="linear")
    said["pictures"] = [{"size": [60, 20], "fit": "pad", "pins": pins}]
    image, masks = panel.pinned_words(said, WIDE)
    assert [label for _, label in masks] == ["Wh", "at"]
    assert all(mask.shape == (image.height, image.width) for mask, _ in masks)
    first, second = (mask.mean() for mask, _ in masks)
    assert first == pytest.approx(panel.HEAT / 6, abs=0.02)
    assert second == pytest.approx(panel.HEAT / 2, abs=0.02)
    assert "AttAnchor (text into image, threshold 0.12) pinned words to patches: 3 pins." in panel.explanation(said)
    assert not panel.has_maps(said)


@pytest.mark.parametrize(
    ("said", "text"),
    [
        (None, "After an answer, this panel shows"),
        (maps(), "LPWCA weighs every patch of every layer"),
        (maps(words=[]), "The question was not found in the prompt"),
        (maps(pictures=[]), "Nothing to show: this dialogue has no picture."),
        (maps(pictures=[], projector="mlp2x_gelu"), "the projector `mlp2x_gelu` has no attention maps"),
    ],
)
def test_explanation(said, text):
    assert text in panel.explanation(said)
