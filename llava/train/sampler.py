"""Batches of similar length: fewer padding tokens, and no rank waits for a longer neighbour.

A *megabatch* is what all ranks consume together: ``world_size * batch_size`` samples. Where gradients are accumulated
the caller multiplies ``world_size`` by the accumulation steps. Lengths are in words; their sign tells the modality
(positive: with image, negative: text only).
"""

import heapq
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch.utils.data import Sampler

from llava.errors import UserError


def split_to_even_chunks(indices: Sequence[int], lengths: Sequence[int], num_chunks: int) -> list[list[int]]:
    """Deal ``indices`` into ``num_chunks`` chunks of equal count and nearly equal total length.

    Each index, in the order given, goes to the open chunk with the smallest total so far; a chunk closes when it has
    its share. A number of indices that does not divide evenly is dealt in turn, lengths ignored.
    """
    share, remainder = divmod(len(indices), num_chunks)
    if remainder:
        return [list(indices[start::num_chunks]) for start in range(num_chunks)]
    chunks: list[list[int]] = [[] for _ in range(num_chunks)]
    open_chunks = [(0, number) for number in range(num_chunks)]
    for index in indices:
        total, number = heapq.heappop(open_chunks)
        chunks[number].append(index)
        if len(chunks[number]) < share:
            heapq.heappush(open_chunks, (total + lengths[index], number))
    return chunks


def get_length_grouped_indices(
    lengths: Sequence[int],
    batch_size: int,
    world_size: int,
    generator: torch.Generator | None = None,
    merge: bool = True,
) -> list[Any]:
    """Order samples so that neighbours have similar lengths, random otherwise.

    Args:
        lengths: one number per sample.
        batch_size: samples per device and step.
        world_size: ranks times gradient accumulation steps.
        generator: source of randomness; ``None`` is torch's global one.
        merge: ``True`` gives one flat list of indices, ``False`` a list of them per megabatch.
    """
    shuffled = torch.randperm(len(lengths), generator=generator).tolist()
    megabatches = []
    for start in range(0, len(shuffled), world_size * batch_size):
        longest_first = sorted(shuffled[start : start + world_size * batch_size], key=lengths.__getitem__, reverse=True)
        megabatches.append(_flatten(split_to_even_chunks(longest_first, lengths, world_size)))
    return _flatten(megabatches) if merge else megabatches


def get_modality_length_grouped_indices(
    lengths: Sequence[int], batch_size: int, world_size: int, generator: torch.Generator | None = None
) -> list[int]:
    """As :func:`get_length_grouped_indices`, and a megabatch is all image or all text as far as possible.

    The last megabatch of either modality may be short; the two are joined into one, mixed, at the end.

    Args:
        lengths: positive for a sample with an image, negative for text only.
        generator: orders the megabatches of a mixed dataset (the grouping inside uses torch's global source).

    Raises:
        UserError: a length is zero, so it has no modality.
    """
    if 0 in lengths:
        raise UserError(
            f"sample {list(lengths).index(0)} has length 0; a length must be positive (with image) or negative "
            "(text only): give the sample some text, or train without --group_by_modality_length"
        )
    image_samples = [index for index, length in enumerate(lengths) if length > 0]
    text_samples = [index for index, length in enumerate(lengths) if length < 0]
    if not image_samples or not text_samples:
        # Signs stay on, as upstream: a text-only dataset then sorts shortest first. Same seed, same order of data.
        return get_length_grouped_indices(lengths, batch_size, world_size, generator)

    megabatches, leftovers = [], []
    for samples in (image_samples, text_samples):
        own_lengths = [abs(lengths[index]) for index in samples]
        groups = get_length_grouped_indices(own_lengths, batch_size, world_size, merge=False)
        *full, last = [[samples[position] for position in group] for group in groups]
        megabatches += full
        leftovers += last
    order = torch.randperm(len(megabatches), generator=generator).tolist()
    return _flatten(megabatches[number] for number in order) + sorted(leftovers)


class LengthGroupedSampler(Sampler[int]):
    """A new length-grouped order in every epoch.

    Args:
        batch_size: samples per device and step.
        world_size: ranks times gradient accumulation steps.
        lengths: one number per sample, signed when ``group_by_modality``.
        generator: source of randomness; ``None`` is torch's global one.
        group_by_modality: keep image samples and text samples in separate megabatches.

    Raises:
        UserError: ``lengths`` is missing.
    """

    def __init__(
        self,
        batch_size: int,
        world_size: int,
        lengths: Sequence[int] | None = None,
        generator: torch.Generator | None = None,
        group_by_modality: bool = False,
    ) -> None:
        if lengths is None:
            raise UserError("lengths is None; grouping by length needs one length per sample: pass dataset.lengths")
        arrange = get_modality_length_grouped_indices if group_by_modality else get_length_grouped_indices
        self._new_order = partial(arrange, lengths, batch_size, world_size, generator)
        self._length = len(lengths)

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[int]:
        return iter(self._new_order())


def _flatten(lists: Iterable[Sequence[int]]) -> list[int]:
    return list(chain.from_iterable(lists))
