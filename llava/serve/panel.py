"""The attention panel: what the question did to the picture, as pictures, a curve and words.

Everything here is made of the numbers that the worker sends (:mod:`llava.serve.attention`).
"""

from typing import Any

import numpy as np
import torch
from PIL import Image

from ccra_patch.picture import on_picture

LONGEST_SIDE = 448  # pixels of a drawn map
HEAT = 0.7  # how much of the colour is the map's or the pin's; the rest is the picture's
# From the least to the greatest value, in equal steps: the colours of the figures that matplotlib draws (inferno).
COLOURS = np.array([[0, 0, 4], [66, 10, 104], [147, 38, 103], [221, 81, 58], [252, 165, 10], [252, 255, 164]])

Maps = dict[str, Any]


def has_maps(maps: Maps | None) -> bool:
    """Whether there is something of CCRA to draw."""
    return maps is not None and any("lpwca" in picture for picture in maps["pictures"])


def has_pins(maps: Maps | None) -> bool:
    """Whether AttAnchor was at work."""
    return maps is not None and any("pins" in picture for picture in maps["pictures"])


def explanation(maps: Maps | None) -> str:
    """What there is to see, or why there is nothing."""
    if maps is None:
        return "After an answer, this panel shows where the question made the model look, and how deep."
    told = []
    if has_maps(maps):
        told.append(
            f"How the question changed what the model saw (`{maps['projector']}`). LPWCA weighs every patch of every "
            "layer, LWCA the layers, PWCA the patches of their mixture. Bright is the most and dark the least; each "
            "has a scale of its own."
        )
        if not maps["words"]:
            told.append("**The question was not found in the prompt**: check the conversation template.")
    if has_pins(maps):
        direction, tau = maps["attanchor"]["direction"].replace("_", " "), maps["attanchor"]["tau"]
        count = len(maps["pictures"][0]["pins"])
        told.append(f"AttAnchor ({direction}, threshold {tau:g}) pinned words to patches: {count} pins.")
    if told:
        return " ".join(told)
    if maps["projector"] == "ccra":
        return "Nothing to show: this dialogue has no picture."
    return (
        f"Nothing to show: the projector `{maps['projector']}` has no attention maps. "
        "A `ccra` checkpoint has them, and one trained with AttAnchor has pinned words."
    )


def default_places(count: int) -> tuple[int, int, int]:
    """Which of ``count`` layers are shown: shallow, middle and deep."""
    return 0, count // 2, count - 1


def overlay(picture: Image.Image, grid: list[list[float]], fit: str) -> tuple[Image.Image, float, float]:
    """A map over its picture, in the picture's own geometry, with the least and greatest value that lie on it.

    What the vision tower did not see stays grey.
    """
    shown = _at_drawn_size(picture).convert("L")
    values = on_picture(torch.tensor(grid), *shown.size, fit)
    seen = ~values.isnan()
    low, high = values[seen].min().item(), values[seen].max().item()
    heat = (values.nan_to_num(low) - low) / max(high - low, 1e-12)
    steps = np.linspace(0, 1, len(COLOURS))
    colours = np.stack([np.interp(heat.numpy(), steps, channel) for channel in COLOURS.T], axis=-1)
    gray = shown.convert("RGB")
    blended = Image.blend(gray, Image.fromarray(colours.astype(np.uint8)), HEAT)
    return Image.composite(blended, gray, Image.fromarray(seen.byte().mul(255).numpy())), low, high


def lpwca_picture(maps: Maps, picture: Image.Image, place: int) -> tuple[Image.Image, str]:
    """LPWCA of the layer at ``place``, and its caption."""
    numbers = maps["pictures"][0]
    image, low, high = overlay(picture, numbers["lpwca"][place], numbers["fit"])
    return image, f"LPWCA, layer {maps['layers'][place]}: {low:.3g} to {high:.3g}"


def pwca_picture(maps: Maps, picture: Image.Image) -> tuple[Image.Image, str]:
    """PWCA, and its caption."""
    numbers = maps["pictures"][0]
    image, low, high = overlay(picture, numbers["pwca"], numbers["fit"])
    return image, f"PWCA: {low:.3g} to {high:.3g}"


def layer_names(maps: Maps) -> list[str]:
    """The layers as places of an axis, not as numbers between which there could be others."""
    return [str(layer) for layer in maps["layers"]]


def layer_weights(maps: Maps) -> dict[str, list[Any]]:
    """Columns ``layer``, ``weight`` and ``kind``: LWCA's softmax of the scores as computed, and smoothed."""
    numbers, layers = maps["pictures"][0], layer_names(maps)
    raw = torch.tensor(numbers["layer_scores"]).softmax(dim=0).tolist()
    return {
        "layer": [*layers, *layers],
        "weight": [*raw, *numbers["layer_weights"]],
        "kind": ["raw"] * len(layers) + ["smoothed"] * len(layers),
    }


def word_weights(maps: Maps) -> tuple[list[tuple[str, float]], str]:
    """The question's tokens, each with its importance relative to the greatest, and a caption."""
    alpha = maps["pictures"][0]["alpha"]
    low, high = min(alpha, default=0.0), max(alpha, default=0.0)
    words = [(word, value / (high or 1.0)) for word, value in zip(maps["words"], alpha, strict=True)]
    return words, f"Importance of the question's tokens (alpha): {low:.3g} to {high:.3g}"


def pinned_words(maps: Maps, picture: Image.Image) -> tuple[Image.Image, list[tuple[np.ndarray, str]]]:
    """The picture, and for each pinned word the patches it belongs to as a mask, in the order of the prompt."""
    shown = _at_drawn_size(picture)
    scale = shown.width / picture.width
    masks: dict[tuple[int, str], np.ndarray] = {}
    for pin in sorted(maps["pictures"][0]["pins"], key=lambda pin: pin["token"]):
        mask = masks.setdefault((pin["token"], pin["text"]), np.zeros((shown.height, shown.width)))
        left, top, right, bottom = (max(0, round(side * scale)) for side in pin["box"])
        mask[top:bottom, left:right] = HEAT
    return shown, [(mask, text) for (_, text), mask in masks.items()]


def _at_drawn_size(picture: Image.Image) -> Image.Image:
    scale = LONGEST_SIDE / max(picture.size)
    return picture.resize((max(1, round(picture.width * scale)), max(1, round(picture.height * scale))))
