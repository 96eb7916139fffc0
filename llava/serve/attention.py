"""What the question did to the pictures of one answer, as the JSON that a worker sends on request.

``projector``, ``words`` (the question's T tokens as text), ``layers`` (what the L layers are called, as indices into
``hidden_states``), ``attanchor`` (its direction and threshold, or null), and for each of the ``pictures``:

- ``size`` in pixels, and ``fit``, how it was made a square (see :func:`ccra_patch.picture.on_picture`),
- of a CCRA projector ``alpha [T]``, ``lpwca [L][rows][columns]``, ``layer_scores [L]``, ``smoothed_scores [L]``,
  ``layer_weights [L]`` and ``pwca [rows][columns]`` (see :class:`ccra_patch.pai.AttentionMaps`), with six digits,
- of AttAnchor ``pins`` (see :class:`ccra_patch.anchor_picture.Pin`).

There are no pictures when there is nothing to show of them.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from typing import Any

from PIL import Image
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ccra_patch.pai import AttentionMaps
from ccra_patch.query import QueryMarkers, select_query
from llava.attanchor.draw import pins_in_prompt
from llava.attanchor.loading import Loaded
from llava.conversation import default_conversation
from llava.eval.observe import FITS
from llava.model.anchoring import attanchor_settings
from llava.model.multimodal_projector.registry import needs_of


@dataclass(frozen=True)
class Seen:
    """What a model was shown.

    Attributes:
        prompt: as it was tokenised.
        input_ids: ``[1, S]``.
        pictures: of the prompt, in its order.
        tiles: how many views each of them became; the first shows all of it.
        maps: of all views, if the projector has any.
    """

    prompt: str
    input_ids: Tensor
    pictures: Sequence[Image.Image]
    tiles: Sequence[int]
    maps: AttentionMaps | None


def describe_attention(
    model: Any, tokenizer: PreTrainedTokenizerBase, image_processor: Any, seen: Seen
) -> dict[str, Any]:
    """The message under the key ``maps``."""
    config = model.config
    said: dict[str, Any] = {
        "projector": getattr(config, "mm_projector_type", "none"),
        "words": [],
        "layers": [],
        "attanchor": None,
        "pictures": [],
    }
    fit = FITS.get(getattr(config, "image_aspect_ratio", None) or "", "crop")
    pictures: list[dict[str, Any]] = [{"size": list(picture.size), "fit": fit} for picture in seen.pictures]

    if seen.maps is not None:
        needs = needs_of(model.get_model().mm_projector)
        chosen = select_query(seen.input_ids, None, QueryMarkers.from_dict(config.mm_query_markers), str(needs.query))
        said["words"] = [tokenizer.decode([token]) for token in seen.input_ids[chosen].tolist()]
        said["layers"] = list(model.get_vision_tower().hidden_state_indices(needs.layers))
        first_tiles = accumulate(seen.tiles[:-1], initial=0)
        for picture, tile in zip(pictures, first_tiles, strict=True):
            picture |= _numbers(seen.maps, tile, len(said["words"]))

    settings = attanchor_settings(config)
    if settings.mm_attanchor_direction != "off" and pictures:
        said["attanchor"] = {"direction": settings.mm_attanchor_direction, "tau": settings.mm_attanchor_tau}
        # Which dialogue template it is makes no difference to a prompt that is written.
        loaded = Loaded(tokenizer, model, image_processor, default_conversation, settings)
        for picture, pins in zip(pictures, pins_in_prompt(loaded, seen.pictures, seen.prompt), strict=True):
            picture["pins"] = [asdict(pin) for pin in pins]

    if seen.maps is not None or said["attanchor"]:
        said["pictures"] = pictures
    return said


def _numbers(maps: AttentionMaps, tile: int, words: int) -> dict[str, Any]:
    return {
        "alpha": _list(maps.alpha[tile][:words]),
        "lpwca": [_grid(layer) for layer in maps.lpwca[tile]],
        "layer_scores": _list(maps.layer_scores[tile]),
        "smoothed_scores": _list(maps.smoothed_scores[tile]),
        "layer_weights": _list(maps.layer_weights[tile]),
        "pwca": _grid(maps.pwca[tile]),
    }


def _list(values: Tensor) -> list[float]:
    return [float(f"{value:.6g}") for value in values.float().tolist()]


def _grid(values: Tensor) -> list[list[float]]:
    side = math.isqrt(len(values))
    return [_list(row) for row in values.reshape(side, side)]
