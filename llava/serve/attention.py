"""What the question did to the pictures of one answer, as the JSON that a worker sends on request."""

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ccra_patch.pai import AttentionMaps

# How the vision tower's square was made of a picture, by image_aspect_ratio. An anyres picture shows its overview.
_FITS = {"pad": "pad", "anyres": "stretch"}


def describe_maps(
    maps: AttentionMaps,
    first_tiles: Sequence[int],
    sizes: Sequence[tuple[int, int]],
    words: Sequence[str],
    layers: Sequence[int],
    projector: str,
    image_aspect_ratio: str | None,
) -> dict[str, Any]:
    """The message under the key ``maps`` of an answer's last frame; numbers have six digits.

    Args:
        maps: of all tiles of all pictures.
        first_tiles: for each picture, its place in the maps' batch.
        sizes: (width, height) of the pictures.
        words: the question's tokens as text, T of them.
        layers: what the L layers are called, as indices into ``hidden_states``.
        projector: ``mm_projector_type``.
        image_aspect_ratio: of the model's config.

    Returns:
        ``projector``, ``words``, ``layers``, and for each picture under ``pictures``: ``size``, ``fit`` (see
        :func:`ccra_patch.picture.on_picture`), ``alpha [T]``, ``lpwca [L][rows][columns]``, ``layer_scores [L]``,
        ``smoothed_scores [L]``, ``layer_weights [L]``, ``pwca [rows][columns]``.
    """
    fit = _FITS.get(image_aspect_ratio or "", "crop")
    pictures = [
        {
            "size": list(size),
            "fit": fit,
            "alpha": _numbers(maps.alpha[tile][: len(words)]),
            "lpwca": [_grid(layer) for layer in maps.lpwca[tile]],
            "layer_scores": _numbers(maps.layer_scores[tile]),
            "smoothed_scores": _numbers(maps.smoothed_scores[tile]),
            "layer_weights": _numbers(maps.layer_weights[tile]),
            "pwca": _grid(maps.pwca[tile]),
        }
        for tile, size in zip(first_tiles, sizes, strict=True)
    ]
    return no_maps(projector) | {"words": list(words), "layers": list(layers), "pictures": pictures}


def no_maps(projector: str) -> dict[str, Any]:
    """The message of a projector that has no maps, or of an answer without pictures."""
    return {"projector": projector, "words": [], "layers": [], "pictures": []}


def _numbers(values: Tensor) -> list[float]:
    return [float(f"{value:.6g}") for value in values.float().tolist()]


def _grid(values: Tensor) -> list[list[float]]:
    side = math.isqrt(len(values))
    return [_numbers(row) for row in values.reshape(side, side)]
