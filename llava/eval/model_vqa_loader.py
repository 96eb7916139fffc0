"""Answers to visual questions: ``python -m llava.eval.model_vqa_loader``, the driver of most benchmarks.

Questions are JSON Lines with ``question_id``, ``text`` and ``image`` (a file in ``--image-folder``); a question without
``image`` is asked as text only, one with a list of files shows them where its text says ``<image>``. Each answer is a
line with ``question_id``, ``prompt``, ``text``, ``answer_id``, ``model_id`` and ``metadata``, in the questions' order.
"""

import argparse
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from llava.constants import DEFAULT_IMAGE_TOKEN
from llava.errors import UserError, exit_on_user_error
from llava.eval.batches import ItemDataset
from llava.eval.driver import answer_items
from llava.eval.items import Item, picture_path
from llava.eval.records import get_chunk, read_json_lines, require_keys, split_list
from llava.eval.settings import DriverSettings, add_driver_flags

__all__ = ["CustomDataset", "collate_fn", "create_data_loader", "eval_model", "get_chunk", "split_list"]


def question_to_item(question: dict[str, Any], image_folder: str) -> Item:
    """A record of the question file as an item; the picture comes first.

    A list of pictures stands where the text says ``<image>``, in that order.
    """
    record = {"question_id": question["question_id"], "prompt": question["text"]}
    images = question.get("image") or []
    if isinstance(images, str):
        return Item(record, f"{DEFAULT_IMAGE_TOKEN}\n{question['text']}", (picture_path(image_folder, images),))
    return Item(record, question["text"], tuple(picture_path(image_folder, image) for image in images))


def read_items(settings: DriverSettings, image_folder: str) -> list[Item]:
    """The items of the chunk that the settings ask for, from a question file in JSON Lines."""
    questions = read_json_lines(settings.question_file)
    require_keys(questions, ("question_id", "text"), settings.question_file)
    chunk = get_chunk(questions, settings.num_chunks, settings.chunk_idx)
    return [question_to_item(question, image_folder) for question in chunk]


class CustomDataset(Dataset):
    """Questions with a picture -> (``input_ids [S]``, pixels ``[3, H, W]``, (width, height)), for loops of one's own.

    Raises UserError for a picture that cannot be read.
    """

    def __init__(
        self,
        questions: Sequence[dict[str, Any]],
        image_folder: str,
        tokenizer: Any,
        image_processor: Any,
        model_config: Any,
        conv_mode: str = "llava_v1",
    ) -> None:
        items = [question_to_item(question, image_folder) for question in questions]
        self.samples = ItemDataset(items, tokenizer, image_processor, model_config, conv_mode)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, tuple[int, int]]:
        sample = self.samples[index]
        if isinstance(sample, UserError):
            raise sample
        return sample.input_ids, sample.pixels[0], sample.image_sizes[0]


def collate_fn(batch: Sequence[tuple[Tensor, Tensor, tuple[int, int]]]) -> tuple[Tensor, Tensor, list[tuple[int, int]]]:
    """Samples of equal length -> (``input_ids [B, S]``, pixels ``[B, ...]``, sizes)."""
    ids, pixels, sizes = (list(column) for column in zip(*batch, strict=True))
    return torch.stack(ids), torch.stack(pixels), sizes


def create_data_loader(
    questions: Sequence[dict[str, Any]],
    image_folder: str,
    tokenizer: Any,
    image_processor: Any,
    model_config: Any,
    batch_size: int = 1,
    num_workers: int = 4,
    conv_mode: str = "llava_v1",
) -> DataLoader:
    """Questions one by one in their order. Raises UserError for another batch size: prompts differ in length."""
    if batch_size != 1:
        raise UserError(
            f"batch_size is {batch_size}; this loader does not pad: use 1 here, or eval_model with --batch-size"
        )
    dataset = CustomDataset(questions, image_folder, tokenizer, image_processor, model_config, conv_mode)
    return DataLoader(dataset, batch_size=1, num_workers=num_workers, collate_fn=collate_fn)


def eval_model(args: Any) -> None:
    """Answers the chunk of ``args.question_file`` that ``args`` asks for; ``args`` needs upstream's flags at least."""
    settings = DriverSettings.from_args(args)
    answer_items(read_items(settings, args.image_folder), settings, plain_uses_mmtag=True)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="llava.eval.model_vqa_loader", description="Answer visual questions.")
    add_driver_flags(parser, max_new_tokens=128)
    return parser


@exit_on_user_error
def main() -> None:
    eval_model(build_parser().parse_args())


if __name__ == "__main__":
    main()
