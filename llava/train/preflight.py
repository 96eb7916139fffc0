"""What would spoil a run in the end is looked for before its first step: labels, files, disk space."""

import math
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers.trainer_utils import SaveStrategy

from llava.constants import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from llava.errors import UserError
from llava.fast_tokenizer import save_tokenizer
from llava.train.checkpoint import is_stage_one, save_trained_parts
from llava.train.dataset import LazySupervisedDataset, encode_text
from llava.train.samples import PictureError, check_pictures, name_of

LOOKED_AT = 256
REHEARSAL = ".rehearsal"
GB = 10**9
# Beside the weights: AdamW's two moments of each trained one; DeepSpeed keeps a float32 original too.
OPTIMIZER_BYTES, DEEPSPEED_BYTES = 8, 12


def check_writable(output_dir: str) -> None:
    """Make the output folder and write into it; UserError when that is not possible."""
    try:
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output_dir):
            pass
    except OSError as error:
        raise UserError(f"--output_dir {output_dir} cannot be written ({error.strerror}); choose another") from error


def check(trainer: Any, max_masked_share: float) -> None:
    """Everything that needs the finished trainer. All ranks must call; UserError for what would spoil the run."""
    if trainer.is_world_process_zero():
        check_labels(trainer.train_dataset, trainer.image_tokens, max_masked_share)
    check_saving(trainer)


def check_labels(dataset: LazySupervisedDataset, image_tokens: int, max_share: float) -> None:
    """Tokenise up to 256 samples, spread over the file, without their pictures.

    Args:
        dataset: the training data.
        image_tokens: what one picture becomes; a long sample may lose its answer to the cut behind it.
        max_share: how many of them may have nothing to learn from.

    Raises:
        UserError: more of them are masked altogether. One is named.
    """
    places = range(0, len(dataset), math.ceil(len(dataset) / LOOKED_AT))
    masked = [place for place in places if not _has_labels(dataset, place, image_tokens)]
    if len(masked) > max_share * len(places):
        example = name_of(dataset.data_path, masked[0], dataset.list_data_dict[masked[0]])
        raise UserError(
            f"{example}: nothing to learn from, its labels are all masked, like those of {len(masked)} out of "
            f"{len(places)} samples looked at ({max_share:.1%} may be); is --version {dataset.template.version} right, "
            f"and --model_max_length {dataset.tokenizer.model_max_length} long enough? If so, raise --max_masked_share"
        )


def _has_labels(dataset: LazySupervisedDataset, place: int, image_tokens: int) -> bool:
    sample = dataset.list_data_dict[place]
    try:
        check_pictures(sample, dataset.template)
    except PictureError:
        return True  # what becomes of it is for --bad_image_policy to say
    encoded = encode_text(sample, dataset.tokenizer, dataset.template, dataset.data_args)
    pictures = (encoded["input_ids"] == IMAGE_TOKEN_INDEX).cumsum(0)
    position = torch.arange(len(pictures)) + pictures * (image_tokens - 1)
    return bool(((encoded["labels"] != IGNORE_INDEX) & (position < dataset.tokenizer.model_max_length)).any())


def check_saving(trainer: Any) -> None:
    """Write what is small of a save, and reckon whether the rest will fit on the disk. All ranks must call.

    Raises:
        UserError: the save at the end would fail.
    """
    folder = Path(trainer.args.output_dir, REHEARSAL)
    try:
        save_trained_parts(trainer, str(folder))
        if trainer.args.should_save:
            folder.mkdir(parents=True, exist_ok=True)
            trainer.model.config.save_pretrained(folder)
            if trainer.model.generation_config is not None:
                trainer.model.generation_config.validate(strict=True)  # as saving does once training has touched it
            save_tokenizer(trainer.processing_class, folder)
    except Exception as error:  # whatever a library's writer raises now, it would raise after the last step
        reason = " ".join(str(error).split())
        raise UserError(f"the model could not be saved to --output_dir {trainer.args.output_dir}: {reason}") from error
    finally:
        if trainer.args.should_save:
            shutil.rmtree(folder, ignore_errors=True)
    if trainer.args.should_save:
        _check_disk_space(trainer)


def _check_disk_space(trainer: Any) -> None:
    args = trainer.args
    weights, checkpoint, kept = space_needed(trainer)
    own = sum(file.stat().st_size for file in Path(args.output_dir).rglob("*") if file.is_file())
    free = shutil.disk_usage(args.output_dir).free + own
    if weights + kept * checkpoint > free:
        raise UserError(
            f"--output_dir {args.output_dir} has room for {free / GB:.1f} GB, but {kept} checkpoints of about "
            f"{checkpoint / GB:.1f} GB and the final weights need {(weights + kept * checkpoint) / GB:.1f} GB; free "
            "some space, lower --save_total_limit, or choose another folder"
        )


def space_needed(trainer: Any) -> tuple[int, int, int]:
    """(bytes of the final weights, bytes of a checkpoint, how many of them stand there at the same time)."""
    args = trainer.args
    sizes = [(getattr(p, "ds_numel", p.numel()), p.element_size(), p.requires_grad) for p in trainer.model.parameters()]
    only_trained = is_stage_one(args) or args.lora_enable
    weights = sum(number * width for number, width, trains in sizes if trains or not only_trained)
    trained = sum(number for number, _, trains in sizes if trains)
    checkpoint = weights + trained * (DEEPSPEED_BYTES if args.deepspeed else OPTIMIZER_BYTES)
    written = _number_of_saves(trainer)
    # The new one is there before the oldest goes.
    return weights, checkpoint, min(written, args.save_total_limit + 1) if args.save_total_limit else written


def _number_of_saves(trainer: Any) -> int:
    args = trainer.args
    updates_per_epoch = max(
        len(trainer.train_dataset) // (args.train_batch_size * args.world_size * args.gradient_accumulation_steps), 1
    )
    match SaveStrategy(args.save_strategy):
        case SaveStrategy.NO:
            return 0
        case SaveStrategy.BEST:
            return 1
        case SaveStrategy.EPOCH:
            return math.ceil(args.num_train_epochs if args.max_steps <= 0 else args.max_steps / updates_per_epoch)
    updates = args.max_steps if args.max_steps > 0 else math.ceil(args.num_train_epochs * updates_per_epoch)
    every = args.save_steps if args.save_steps >= 1 else args.save_steps * updates
    return math.ceil(updates / every)  # the last update is saved too
