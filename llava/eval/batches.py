"""Items as batches: which ones go together, and their pictures decoded by workers ahead of the model."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from llava.errors import UserError
from llava.eval.items import Item, open_image, render_prompt
from llava.mm_utils import process_images, tokenizer_image_token

# Items are sorted by length within this many batches and answered before the next ones start: enough for batches of
# nearly equal lengths, and no more than this is lost when a run is killed.
BATCHES_IN_WINDOW = 16
PAD_ID = 0  # under the mask; never looked at


@dataclass(frozen=True)
class Sample:
    """One item as the model gets it.

    input_ids: ``[S]`` with ``IMAGE_TOKEN_INDEX`` at pictures.
    pixels: one float tensor per picture, ``[3, H, W]`` or ``[tiles, 3, H, W]``.
    image_sizes: (width, height) of each picture as it is in its file.
    digest: SHA-256 over all of it, as a number.
    """

    input_ids: Tensor
    pixels: list[Tensor]
    image_sizes: list[tuple[int, int]]
    digest: int


@dataclass(frozen=True)
class Batch:
    """``input_ids`` and ``attention_mask [B, S]``, padded on the left; the pictures of all rows, one after another."""

    input_ids: Tensor
    attention_mask: Tensor
    images: Tensor | list[Tensor] | None
    image_sizes: list[tuple[int, int]] | None
    digests: list[int]

    def model_inputs(self) -> dict[str, Any]:
        """Everything that generation takes, by its names there."""
        return {
            "input_ids": self.input_ids,
            "attention_mask": self.attention_mask,
            "images": self.images,
            "image_sizes": self.image_sizes,
        }


class ItemDataset(Dataset):
    """Items -> :class:`Sample`. Prompts are tokenised at once, pictures are decoded when their item is asked for.

    An unreadable picture comes back as its UserError: raised in a worker process it would lose its one-line message.
    """

    def __init__(
        self, items: Sequence[Item], tokenizer: Any, image_processor: Any, model_config: Any, conv_mode: str
    ) -> None:
        start_end = getattr(model_config, "mm_use_im_start_end", False)
        self.items = items
        self.prompt_ids: list[Tensor] = [
            torch.tensor(tokenizer_image_token(render_prompt(item.text, conv_mode, start_end), tokenizer))
            for item in tqdm(items, unit="question", desc="Tokenising", delay=2)
        ]
        self.image_processor = image_processor
        self.model_config = model_config

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Sample | UserError:
        item, input_ids = self.items[index], self.prompt_ids[index]
        try:
            images = [open_image(image, item.name) for image in item.images]
        except UserError as error:
            return error
        pixels = [process_images([image], self.image_processor, self.model_config)[0] for image in images]
        return Sample(input_ids, pixels, [image.size for image in images], _digest(item, input_ids, pixels))


def _digest(item: Item, input_ids: Tensor, pixels: list[Tensor]) -> int:
    sha = hashlib.sha256(repr(item.record["question_id"]).encode())
    sha.update(input_ids.numpy().tobytes())
    for tensor in pixels:
        sha.update(repr(tuple(tensor.shape)).encode())
        sha.update(tensor.float().contiguous().numpy().tobytes())
    return int.from_bytes(sha.digest(), "big")


def plan_batches(dataset: ItemDataset, batch_size: int) -> list[list[int]]:
    """Indices of ``dataset`` batch by batch: neighbours of similar length together, with and without pictures apart.

    A pure function of the items and the batch size, so that a resumed run forms the batches of the first one.
    """
    plan = []
    window = batch_size * BATCHES_IN_WINDOW if batch_size > 1 else 1
    for start in range(0, len(dataset), window):
        indices = range(start, min(start + window, len(dataset)))
        for with_images in (False, True):
            group = [index for index in indices if bool(dataset.items[index].images) == with_images]
            group.sort(key=lambda index: len(dataset.prompt_ids[index]))
            plan += [group[first : first + batch_size] for first in range(0, len(group), batch_size)]
    return plan


def collate(samples: Sequence[Sample | UserError]) -> Batch | UserError:
    """Samples, all with or all without pictures -> one batch; the first error among them instead, if there is one."""
    good: list[Sample] = []
    for sample in samples:
        if isinstance(sample, UserError):
            return sample
        good.append(sample)
    lengths = torch.tensor([len(sample.input_ids) for sample in good])
    longest = int(lengths.max())
    input_ids = torch.full((len(good), longest), PAD_ID)
    for row, sample in enumerate(good):
        input_ids[row, longest - len(sample.input_ids) :] = sample.input_ids
    pixels = [tensor for sample in good for tensor in sample.pixels]
    images = torch.stack(pixels) if len({tensor.shape for tensor in pixels}) == 1 else pixels
    return Batch(
        input_ids=input_ids,
        attention_mask=(torch.arange(longest) >= (longest - lengths).unsqueeze(1)).long(),
        images=images if pixels else None,
        image_sizes=[size for sample in good for size in sample.image_sizes] if pixels else None,
        digests=[sample.digest for sample in good],
    )


def load_batches(dataset: ItemDataset, plan: list[list[int]], workers: int) -> Iterator[tuple[list[int], Batch]]:
    """The plan's batches in order, read ahead by ``workers`` processes (0: in this one).

    Raises UserError for the first picture that cannot be read.
    """
    loader = DataLoader(dataset, batch_sampler=plan, num_workers=workers, collate_fn=collate)
    for indices, batch in zip(plan, loader, strict=True):
        if isinstance(batch, UserError):
            raise batch
        yield indices, batch
