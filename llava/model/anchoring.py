"""AttAnchor between merge and language model: from matched tokens to copies in the layout.

What matches is :mod:`ccra_patch.attanchor`'s business, where copies go :meth:`llava.model.merge.Layout.with_copies`'s.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ccra_patch.attanchor import AttAnchorSettings, best_matches, turn_ends
from llava.errors import UserError
from llava.model.merge import Layout, pack


def attanchor_settings(config: Any) -> AttAnchorSettings:
    """The ``mm_attanchor_*`` keys of a model's config. Raises UserError when they cannot be."""
    try:
        return AttAnchorSettings.from_config(config)
    except ValueError as error:
        raise UserError(str(error)) from error


def think_id_of(config: Any, settings: AttAnchorSettings) -> int | None:
    """The id of the pause token, None without think mode. Raises UserError when the config does not say which it is."""
    if settings.mm_attanchor_think_tokens == 0:
        return None
    think_id = getattr(config, "mm_attanchor_think_id", None)
    if think_id is None:
        raise UserError(
            f"mm_attanchor_think_tokens is {settings.mm_attanchor_think_tokens}, but config.json lacks "
            "mm_attanchor_think_id; switch AttAnchor on by llava.attanchor.enable_attanchor, which looks it up"
        )
    return think_id


@dataclass(frozen=True)
class Matches:
    """Which token each of N tokens is most like, among those of the other modality in its sample.

    place: ``[B, N]``, where the token stands in the layout.
    partner: ``[B, N]``, where the most similar one stands.
    similarity: ``[B, N]`` float32 cosine; -inf where a sample has fewer than N tokens, or none of the other modality.
    """

    place: Tensor
    partner: Tensor
    similarity: Tensor


@torch.no_grad()
def find_matches(layout: Layout, turns: Tensor, direction: str) -> Matches:
    """What each question token (``text_into_image``) or each image token (``image_into_text``) is most like.

    Args:
        layout: of B samples, without copies.
        turns: ``[B, S]``, above 0 at question tokens.
        direction: one of the two.
    """
    text, image = pack(layout.of_tokens(turns) > 0), pack(layout.is_image)
    (place, real), (sought, sought_mask) = (text, image) if direction == "text_into_image" else (image, text)
    similarity, index = best_matches(layout.at(place), layout.at(sought), sought_mask)
    return Matches(place, sought.gather(1, index), similarity.masked_fill(~real, -math.inf))


def insert_anchors(layout: Layout, turns: Tensor, settings: AttAnchorSettings) -> Layout:
    """The layout with the copies that ``settings`` ask for; with think tokens, its last vector but one is a pause's.

    In ``text_into_image`` the copies behind one image token stand in the order of the prompt, in ``image_into_text``
    those behind one question token in the order of the image. Pause tokens follow the last question token of every turn
    and the copies behind it. A sample without image tokens stays as it is.
    """
    matches = find_matches(layout, turns, settings.mm_attanchor_direction)
    copies = layout.source.gather(1, matches.place)
    behind = torch.where(matches.similarity >= settings.mm_attanchor_tau, matches.partner, -1)
    if settings.mm_attanchor_think_tokens > 0:
        has_image = layout.is_image.any(dim=1, keepdim=True)
        ends, real = pack(layout.of_tokens(turn_ends(turns)) & has_image)
        pauses = torch.where(real, ends, -1).repeat_interleave(settings.mm_attanchor_think_tokens, dim=1)
        copies = torch.cat([copies, torch.full_like(pauses, layout.nothing - 1)], dim=1)
        behind = torch.cat([behind, pauses], dim=1)
    return layout.with_copies(copies, behind)
