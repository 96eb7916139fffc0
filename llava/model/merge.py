"""Where image tokens take their place between text tokens.

Two vectorised steps over the batch. :func:`lay_out` says which vector stands at which place: every token learns how
many places it fills (padding 0, text 1, ``<image>`` as many as its features), a cumulative sum tells where. What
regroups tokens (AttAnchor) changes that plan, which is whole numbers. :meth:`Layout.arrange` then cuts, pads and copies
every vector once. No loop over rows or tokens, and the same module calls on every rank whatever its batch holds, so
that ZeRO-3 never waits for one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import embedding

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


@dataclass(frozen=True)
class Layout:
    """Which vector stands at which place of each row; rows begin at place 0, and nothing is cut.

    vectors: ``[V, D]``, first all token embeddings of the batch, row by row, then all features, block by block, then
        one of zeros: what stands behind a row's end.
    patch: ``[V]``, which patch of its picture an image token is, -1 for those that are none and for other vectors.
    source: ``[B, L]``, indices into ``vectors``.
    copied: ``[B, L]`` bool, where a copy stands of what also stands elsewhere.
    num_tokens: how many of the vectors are token embeddings.
    """

    vectors: Tensor
    patch: Tensor
    source: Tensor
    copied: Tensor
    num_tokens: int

    @property
    def nothing(self) -> int:
        """The index of the zero vector."""
        return len(self.vectors) - 1

    @property
    def is_image(self) -> Tensor:
        """Where image tokens stand that are patches, ``[B, L]`` bool."""
        return self.patch[self.source] >= 0

    def at(self, places: Tensor) -> Tensor:
        """The vectors ``[B, n, D]`` that stand at ``places [B, n]``."""
        return embedding(self.source.gather(1, places), self.vectors)

    def of_tokens(self, values: Tensor) -> Tensor:
        """What the tokens' ``values [B, S]`` are at each place ``[B, L]``; 0 where no token stands."""
        others = values.new_zeros(len(self.vectors) - self.num_tokens)
        return torch.cat([values.flatten(), others])[self.source]

    def with_copies(self, source: Tensor, behind: Tensor) -> "Layout":
        """Insert copies right behind the places they belong to; all else keeps its order.

        Args:
            source: ``[B, C]``, indices of the vectors to copy.
            behind: ``[B, C]``, the place that each copy follows, -1 for no copy. Copies behind the same place stand in
                the order given.
        """
        end = self.source.shape[1]
        nowhere = behind < 0
        # What stands at a place and the copies behind it have the same key; a stable sort keeps them in this order.
        place = torch.arange(end, device=behind.device).expand_as(self.source)
        place = place.masked_fill(self.source == self.nothing, end)
        order = torch.cat([place, behind.masked_fill(nowhere, end)], dim=1).argsort(dim=1, stable=True)
        sources = torch.cat([self.source, source.masked_fill(nowhere, self.nothing)], dim=1)
        copied = torch.cat([self.copied, ~nowhere], dim=1)
        return replace(self, source=sources.gather(1, order), copied=copied.gather(1, order))

    def arrange(self, labels: Tensor, *, max_length: int | None = None, padding_side: str = "right") -> Merged:
        """Cut to ``max_length`` (None for no limit), pad on ``padding_side``, and put every vector in its place.

        ``labels [B, S]`` are those of the tokens; features and copies get ``IGNORE_INDEX``.
        """
        row_lengths = (self.source != self.nothing).sum(dim=1, keepdim=True)
        if max_length is not None:
            row_lengths = row_lengths.clamp(max=max_length)
        length = int(row_lengths.max())
        shift = length - row_lengths if padding_side == "left" else torch.zeros_like(row_lengths)
        place = torch.arange(length, device=labels.device) - shift
        valid = (place >= 0) & (place < row_lengths)
        place = place.masked_fill(~valid, 0)

        source = self.source.gather(1, place).masked_fill(~valid, self.nothing)
        labelled = valid & (source < self.num_tokens) & ~self.copied.gather(1, place)
        merged_labels = labels.flatten()[source.clamp(max=self.num_tokens - 1)].masked_fill(~labelled, IGNORE_INDEX)
        return Merged(embedding(source, self.vectors, padding_idx=self.nothing), merged_labels, valid, place)


def lay_out(
    token_embeds: Tensor,
    input_ids: Tensor,
    valid: Tensor,
    blocks: Sequence[Tensor],
    patches: Sequence[Tensor],
    slots: ImageSlots,
) -> Layout:
    """Each ``<image>`` gives way to its feature block, and the padding goes.

    Args:
        token_embeds: ``[B, S, D]``, whatever at ``<image>`` and padding.
        input_ids: ``[B, S]`` with ``IMAGE_TOKEN_INDEX`` at images.
        valid: ``[B, S]`` bool, False at padding.
        blocks: image features ``[n_i, D]`` each.
        patches: the numbers of their patches ``[n_i]`` each, -1 for features that are none.
        slots: which block goes where.
    """
    device, num_tokens = token_embeds.device, input_ids.numel()
    is_image = valid & (input_ids == IMAGE_TOKEN_INDEX)
    block_lengths = torch.tensor([len(block) for block in blocks], device=device)
    block_starts = block_lengths.cumsum(0) - block_lengths
    # All blocks, so that the projector is in the graph even where no feature is used.
    features = [block.to(token_embeds.dtype) for block in blocks]
    zero = token_embeds.new_zeros(1, token_embeds.shape[-1])
    vectors = torch.cat([token_embeds.flatten(0, 1), *features, zero])
    none = torch.full((num_tokens + 1,), -1, device=device)
    patch = torch.cat([none[:-1], *patches, none[-1:]])

    first_source = torch.arange(num_tokens, device=device).view_as(input_ids)
    first_source[is_image] = num_tokens + block_starts[slots.block_of_slot]
    filled = valid.long()
    filled[is_image] = block_lengths[slots.block_of_slot]
    ends = filled.cumsum(dim=1)

    # Each place belongs to the first token that ends behind it.
    place = torch.arange(int(ends[:, -1].max()), device=device).repeat(len(input_ids), 1)
    token = torch.searchsorted(ends, place, right=True)
    behind_end = token == input_ids.shape[1]
    token = token.masked_fill(behind_end, 0)
    within = place - (ends - filled).gather(1, token)
    source = (first_source.gather(1, token) + within).masked_fill(behind_end, len(vectors) - 1)
    return Layout(vectors, patch, source, torch.zeros_like(behind_end), num_tokens)


def pack(marked: Tensor) -> tuple[Tensor, Tensor]:
    """The marked places of every row, in their order: ``places [B, n]``, and which of these are real ``[B, n]``.

    ``marked`` is ``[B, S]`` bool; n is the number of marks in the fullest row, at least 1.
    """
    length = max(int(marked.sum(dim=1).max()), 1)
    places = torch.argsort(~marked, dim=1, stable=True)[:, :length]
    return places, marked.gather(1, places)
