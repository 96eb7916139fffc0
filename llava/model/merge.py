"""Where image tokens take their place between text tokens.

One vectorised pass over the batch: every token learns how many positions it fills (padding 0, text 1, ``<image>`` as
many as its features), a cumulative sum tells where, and two scatters write text and features. No loop over rows or
tokens, and the same module calls on every rank whatever its batch holds, so that ZeRO-3 never waits for one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llava.constants import IGNORE_INDEX, IMAGE_TOKEN_INDEX


@dataclass(frozen=True)
class ImageSlots:
    """Which feature block stands at which ``<image>``: blocks are used up row by row, in order.

    A row without ``<image>`` uses up one block too (the data set gives text-only samples a blank picture), which then
    shows nowhere.

    sample_of_block: ``[number of blocks]``, the row of each block; -1 for blocks nobody uses.
    block_of_slot: ``[number of <image>]``, in reading order.
    """

    sample_of_block: Tensor
    block_of_slot: Tensor

    @classmethod
    def assign(cls, is_image: Tensor, num_blocks: int) -> "ImageSlots":
        """From ``is_image [B, S]``. Raises IndexError when there are fewer blocks than the rows use up."""
        slots = is_image.sum(dim=1)
        used = slots.clamp(min=1)
        needed = int(used.sum())
        if needed > num_blocks:
            raise IndexError(
                f"the batch has {num_blocks} images but its {len(slots)} samples use {needed} (one for each <image>, "
                "and one blank for a sample without); pass as many images"
            )
        rows = torch.arange(len(slots), device=slots.device)
        sample_of_block = torch.full((num_blocks,), -1, device=slots.device)
        sample_of_block[:needed] = rows.repeat_interleave(used)
        first_block = used.cumsum(0) - used
        nth_in_row = (is_image.long().cumsum(dim=1) - 1)[is_image]
        block_of_slot = first_block.repeat_interleave(slots) + nth_in_row
        return cls(sample_of_block, block_of_slot)


@dataclass(frozen=True)
class Merged:
    """The sequence the language model sees: ``[B, S', D]`` embeddings; labels, valid mask, positions ``[B, S']``."""

    inputs_embeds: Tensor
    labels: Tensor
    valid: Tensor
    position_ids: Tensor


def merge(
    token_embeds: Tensor,
    input_ids: Tensor,
    valid: Tensor,
    labels: Tensor,
    blocks: Sequence[Tensor],
    slots: ImageSlots,
    *,
    max_length: int | None = None,
    padding_side: str = "right",
) -> Merged:
    """Replace each ``<image>`` by its feature block, drop the padding, cut to ``max_length`` and pad anew.

    Args:
        token_embeds: ``[B, S, D]``, whatever at ``<image>`` and padding.
        input_ids: ``[B, S]`` with ``IMAGE_TOKEN_INDEX`` at images.
        valid: ``[B, S]`` bool, False at padding.
        labels: ``[B, S]``; image positions become ``IGNORE_INDEX``.
        blocks: image features ``[n_i, D]`` each.
        slots: which block goes where.
        max_length: longest merged row, None for no limit.
        padding_side: "right" or "left", of the result.
    """
    device, width = token_embeds.device, token_embeds.shape[-1]
    is_image = valid & (input_ids == IMAGE_TOKEN_INDEX)
    block_lengths = torch.tensor([len(block) for block in blocks], device=device)

    filled = valid.long()
    filled[is_image] = block_lengths[slots.block_of_slot]
    ends = filled.cumsum(dim=1)
    starts = ends - filled
    row_lengths = ends[:, -1] if max_length is None else ends[:, -1].clamp(max=max_length)
    length = int(row_lengths.max())
    shift = (length - row_lengths if padding_side == "left" else torch.zeros_like(row_lengths)).unsqueeze(1)

    text = valid & ~is_image & (starts < length)
    text_row = text.nonzero(as_tuple=True)[0]
    text_place = (text_row, starts[text] + shift[text_row, 0])

    # Feature j of a slot's block goes j places behind the slot's start.
    slot_row = is_image.nonzero(as_tuple=True)[0]
    slot_lengths = block_lengths[slots.block_of_slot]
    slot_of_feature = torch.arange(len(slot_row), device=device).repeat_interleave(slot_lengths)
    within = (
        torch.arange(len(slot_of_feature), device=device) - (slot_lengths.cumsum(0) - slot_lengths)[slot_of_feature]
    )
    target = starts[is_image][slot_of_feature] + within
    source = (block_lengths.cumsum(0) - block_lengths)[slots.block_of_slot][slot_of_feature] + within
    kept = target < length
    feature_row = slot_row[slot_of_feature][kept]
    feature_place = (feature_row, target[kept] + shift[feature_row, 0])
    # index_select on all blocks keeps the projector in the graph even where no feature is used.
    features = torch.cat(list(blocks)).to(token_embeds.dtype).index_select(0, source[kept])

    inputs_embeds = token_embeds.new_zeros(len(input_ids), length, width)
    inputs_embeds = inputs_embeds.index_put(text_place, token_embeds[text])
    inputs_embeds = inputs_embeds.index_put(feature_place, features)
    merged_labels = labels.new_full((len(input_ids), length), IGNORE_INDEX)
    merged_labels[text_place] = labels[text]

    columns = torch.arange(length, device=device)
    merged_valid = (columns >= shift) & (columns < shift + row_lengths.unsqueeze(1))
    position_ids = (columns - shift).masked_fill(~merged_valid, 0)
    return Merged(inputs_embeds, merged_labels, merged_valid, position_ids)
