"""What the trainer reads: samples with pictures, one at a time, and their batches."""

import logging
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset, default_collate, get_worker_info
from transformers import PreTrainedTokenizerBase

from llava import conversation as conversation_lib
from llava.constants import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from llava.conversation import Conversation
from llava.errors import UserError
from llava.mm_utils import process_images
from llava.train.preprocess import Turns, preprocess, preprocess_multimodal
from llava.train.samples import (
    PackedSamples,
    PictureError,
    Sample,
    check_pictures,
    check_sample,
    name_of,
    pictures_of,
    read_samples,
)

logger = logging.getLogger(__name__)

IMAGE_ASPECT_RATIOS = ("square", "pad", "anyres")
BAD_IMAGE_POLICIES = ("fail", "skip")
WORDS_PER_IMAGE = 128  # what a picture counts for in `lengths`
MAX_WORKERS = 256

Item = dict[str, Any]


class LazySupervisedDataset(Dataset[Item]):
    """Samples of a JSON file. Pictures are opened, and text is tokenised, when a sample is asked for.

    The conversation template is ``llava.conversation.default_conversation`` at construction; it stays with the data
    set, also in spawned workers.

    Args:
        data_path: JSON list of samples ``{"id", "image", "conversations"}``; ``image`` is left out, a path, or a list
            of paths, one for each ``<image>`` of the text in that order.
        tokenizer: as in :func:`llava.train.preprocess.preprocess`.
        data_args: ``image_folder``, ``image_aspect_ratio`` (square: centre crop, pad, anyres), ``is_multimodal``; where
            there are pictures ``image_processor``, ``mm_use_im_start_end``, for anyres ``image_grid_pinpoints``;
            optional ``bad_image_policy``: ``fail`` (default), or ``skip``: the collator leaves such samples out.

    An item has ``input_ids`` ``[S]``, ``labels`` ``[S]``, ``index`` (its place in the file) and, in multimodal
    training, ``image``: ``[3, H, W]`` (zeros for a text-only sample), ``[1 + tiles, 3, H, W]`` with anyres, or a list
    of these when the sample has several pictures; with anyres also ``image_sizes``: (width, height) of each picture. A
    skipped sample has ``skipped``, the reason.

    Raises:
        UserError: the file or a sample breaks a rule (all samples are checked at construction, pictures when they are
            opened), or the settings contradict each other.
    """

    def __init__(self, data_path: str | Path, tokenizer: PreTrainedTokenizerBase, data_args: Any) -> None:
        super().__init__()
        self.data_path = data_path
        self.tokenizer = tokenizer
        self.data_args = data_args
        self.template = conversation_lib.default_conversation
        self.skips_bad_images = getattr(data_args, "bad_image_policy", "fail") == "skip"
        samples = read_samples(data_path)
        check_settings(data_args, has_images=any(isinstance(sample, dict) and "image" in sample for sample in samples))
        self._check(samples)
        self.list_data_dict = PackedSamples(samples)

    def __len__(self) -> int:
        return len(self.list_data_dict)

    def __getitem__(self, index: int) -> Item:
        sample = self.list_data_dict[index]
        try:
            return self._encode(sample) | {"index": index}
        except UserError as error:
            message = f"{name_of(self.data_path, index, sample)}: {error}"
            if self.skips_bad_images and isinstance(error, PictureError):
                return self._placeholder(message) | {"index": index}
            raise UserError(message) from error

    @cached_property
    def lengths(self) -> list[int]:
        """Words of each sample, a picture counted as :data:`WORDS_PER_IMAGE`."""
        return [_words(sample) + WORDS_PER_IMAGE * ("image" in sample) for sample in self.list_data_dict]

    @cached_property
    def modality_lengths(self) -> list[int]:
        """Words of each sample, negative when it has no picture. At least one, for a zero would have no sign."""
        return [max(_words(sample), 1) * (1 if "image" in sample else -1) for sample in self.list_data_dict]

    def _check(self, samples: list[Any]) -> None:
        broken = 0
        first = ""
        for index, sample in enumerate(samples):
            try:
                check_sample(sample, self.template)
            except UserError as error:
                if self.skips_bad_images and isinstance(error, PictureError):
                    continue
                first = first or f"{name_of(self.data_path, index, sample)}: {error}"
                broken += 1
        if broken:
            raise UserError(
                first + (f" ({broken - 1} more of {len(samples)} samples break a rule)" if broken > 1 else "")
            )

    def _encode(self, sample: Sample) -> Item:
        check_pictures(sample, self.template)
        return encode_text(sample, self.tokenizer, self.template, self.data_args) | self._pixels(pictures_of(sample))

    def _pixels(self, paths: Sequence[str]) -> Item:
        if not paths:
            return self._blank() if self.data_args.is_multimodal else {}
        pictures = [load_picture(Path(self.data_args.image_folder, path)) for path in paths]
        pixels = [process_images([picture], self.data_args.image_processor, self.data_args)[0] for picture in pictures]
        fields: Item = {"image": pixels if len(pixels) > 1 else pixels[0]}
        return fields | self._sizes([picture.size for picture in pictures])

    def _blank(self) -> Item:
        """Every batch of multimodal training has pictures, or ranks would wait for each other's vision tower."""
        crop = self.data_args.image_processor.crop_size
        blank = torch.zeros(3, crop["height"], crop["width"])
        if self.data_args.image_aspect_ratio == "anyres":
            blank = blank.unsqueeze(0)  # one tile: what arranges tiles, and trains with it, runs on every rank too
        fields: Item = {"image": blank}
        return fields | self._sizes([(crop["width"], crop["height"])])

    def _sizes(self, sizes: list[tuple[int, int]]) -> Item:
        return {"image_sizes": sizes} if self.data_args.image_aspect_ratio == "anyres" else {}

    def _placeholder(self, reason: str) -> Item:
        """What stands in a batch that would be empty without it: a text, nothing of it trained."""
        input_ids = torch.tensor(self.tokenizer("skipped").input_ids)
        item: Item = {"input_ids": input_ids, "labels": torch.full_like(input_ids, IGNORE_INDEX), "skipped": reason}
        return item | self._pixels([])


class DataCollatorForSupervisedDataset:
    """Items to a batch, right-padded and cut to the tokenizer's ``model_max_length``.

    ``input_ids``, ``labels``, ``attention_mask`` are ``[B, S]``. ``images`` holds all pictures in the order of the
    ``<image>`` tokens, one for a sample without: a tensor ``[pictures, ...]`` when all have one shape, else a list.
    ``image_sizes`` goes with it where items have them.

    Skipped items are left out and counted; only a batch of nothing else keeps one, so that no rank waits.

    Attributes:
        with_indices: add ``indices``, the samples' places in their file. For a trainer that takes them out again.
    """

    with_indices: bool = False

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        # One cell per loader worker, in memory that they share with the main process.
        self._skipped = torch.zeros(MAX_WORKERS, dtype=torch.long).share_memory_()

    def __call__(self, instances: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        instances = self._leave_out_skipped(instances)
        limit = self.tokenizer.model_max_length
        pad_id = self.tokenizer.pad_token_id
        ids = [instance["input_ids"][:limit] for instance in instances]
        labels = [instance["labels"][:limit] for instance in instances]
        input_ids = pad_sequence(ids, batch_first=True, padding_value=pad_id)
        batch: dict[str, Any] = {
            "input_ids": input_ids,
            "labels": pad_sequence(labels, batch_first=True, padding_value=IGNORE_INDEX),
            "attention_mask": input_ids.ne(pad_id),
        }
        if self.with_indices:
            batch["indices"] = [instance["index"] for instance in instances]
        if "image" not in instances[0]:
            return batch
        # The cut may have taken <image> tokens away; their pictures go too, or the next sample would be shown them.
        counts = [max(int((row == IMAGE_TOKEN_INDEX).sum()), 1) for row in ids]
        images: list[Tensor] = []
        for instance, count in zip(instances, counts, strict=True):
            pictures = instance["image"] if isinstance(instance["image"], list) else [instance["image"]]
            images += pictures[:count]
        # default_collate stacks, too, and in a loader worker straight into the memory that it shares with the trainer.
        batch["images"] = default_collate(images) if len({image.shape for image in images}) == 1 else images
        if "image_sizes" in instances[0]:
            sizes = zip(instances, counts, strict=True)
            batch["image_sizes"] = [size for instance, count in sizes for size in instance["image_sizes"][:count]]
        return batch

    @property
    def skipped(self) -> int:
        """How many samples were left out so far, by all workers of this process."""
        return int(self._skipped.sum())

    def _leave_out_skipped(self, instances: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        kept = [instance for instance in instances if "skipped" not in instance]
        worker = get_worker_info()
        for instance in instances:
            if "skipped" in instance:
                self._skipped[0 if worker is None else worker.id % MAX_WORKERS] += 1
                logger.warning("left out %s (%d left out so far)", instance["skipped"], self.skipped)
        return kept or list(instances[:1])


def make_supervised_data_module(tokenizer: PreTrainedTokenizerBase, data_args: Any) -> dict[str, Any]:
    """The keyword arguments of the trainer that have to do with data."""
    return {
        "train_dataset": LazySupervisedDataset(data_args.data_path, tokenizer, data_args),
        "eval_dataset": None,
        "data_collator": DataCollatorForSupervisedDataset(tokenizer),
    }


def check_settings(data_args: Any, has_images: bool) -> None:
    """Raises UserError when the data settings are unknown, or not enough for a file with pictures."""
    aspect_ratio = data_args.image_aspect_ratio
    if aspect_ratio not in IMAGE_ASPECT_RATIOS:
        raise UserError(f"image_aspect_ratio is {aspect_ratio!r}; it must be one of {', '.join(IMAGE_ASPECT_RATIOS)}")
    policy = getattr(data_args, "bad_image_policy", "fail")
    if policy not in BAD_IMAGE_POLICIES:
        raise UserError(f"bad_image_policy is {policy!r}; it must be one of {', '.join(BAD_IMAGE_POLICIES)}")
    if not has_images:
        return
    if getattr(data_args, "image_processor", None) is None:
        raise UserError(f"{data_args.data_path} has samples with images; give --vision_tower, or take the images out")
    if data_args.image_folder is None:
        raise UserError(f"{data_args.data_path} has samples with images; give the folder they are in: --image_folder")
    if aspect_ratio == "anyres" and not getattr(data_args, "image_grid_pinpoints", None):
        raise UserError(
            "image_aspect_ratio is anyres; it needs --image_grid_pinpoints, such as [[336, 672], [672, 336]]"
        )


def encode_text(sample: Sample, tokenizer: PreTrainedTokenizerBase, template: Conversation, data_args: Any) -> Item:
    """``input_ids`` and ``labels`` ``[S]`` of a well-formed sample; ``data_args`` as :func:`preprocess_multimodal`."""
    paths = pictures_of(sample)
    sources: Sequence[Turns] = [sample["conversations"]]
    if paths:
        sources = preprocess_multimodal(sources, data_args, template, keep_places=len(paths) > 1)
    encoded = preprocess(sources, tokenizer, has_image=bool(paths), template=template)
    return {"input_ids": encoded["input_ids"][0], "labels": encoded["labels"][0]}


def load_picture(path: Path) -> Image.Image:
    """The picture at ``path`` in RGB.

    Raises:
        PictureError: there is none, or it cannot be read.
    """
    try:
        with Image.open(path) as picture:
            picture.load()
            return picture if picture.mode == "RGB" else picture.convert("RGB")  # which copies even what is RGB
    except FileNotFoundError as error:
        raise PictureError(
            f"its image {path} does not exist; check --image_folder and the path in the sample"
        ) from error
    except Exception as error:  # decoders raise whatever a damaged file makes them stumble over
        raise PictureError(f"its image {path} cannot be read ({error}); replace the file") from error


def _words(sample: Sample) -> int:
    return sum(len(turn["value"].split()) for turn in sample["conversations"])
