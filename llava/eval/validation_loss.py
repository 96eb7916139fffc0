"""The loss on any LLaVA-format JSON: ``python -m llava.eval.validation_loss --model-path ... --data-path data.json``.

Samples go through the training code's own data set, with the checkpoint's picture settings. The loss is the mean
cross-entropy of all trained tokens (nats); its standard error treats samples as the units. ``--output`` gets a line for
each sample, and the scores beside it, so that :mod:`llava.eval.compare` can set two checkpoints against each other.
"""

import argparse
import os
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from tqdm import tqdm

from llava import conversation
from llava.attanchor import add_attanchor_flags, enable_attanchor, given_attanchor_flags
from llava.constants import IGNORE_INDEX
from llava.errors import UserError, exit_on_user_error
from llava.eval.items import known_conv_mode
from llava.eval.records import write_json_lines
from llava.eval.scores import Metric, record_scores
from llava.mm_utils import get_model_name_from_path
from llava.model.builder import load_pretrained_model
from llava.train.dataset import DataCollatorForSupervisedDataset, LazySupervisedDataset


@torch.inference_mode()
def losses_of(model: Any, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """For each sample of a batch, the summed loss and the number of trained tokens, both ``[B]``."""
    batch = {name: value.to(model.device) if isinstance(value, Tensor) else value for name, value in batch.items()}
    images = batch.get("images")
    if images is not None:
        pictures = [image.to(model.device, model.dtype) for image in images]
        images = torch.stack(pictures) if isinstance(images, Tensor) else pictures
    _, position_ids, attention_mask, _, embeds, labels = model.prepare_inputs_labels_for_multimodal(
        batch["input_ids"], None, batch["attention_mask"], None, batch["labels"], images, batch.get("image_sizes")
    )
    logits = model(inputs_embeds=embeds, attention_mask=attention_mask, position_ids=position_ids).logits
    targets = labels[:, 1:]
    losses = cross_entropy(logits[:, :-1].float().transpose(1, 2), targets, ignore_index=IGNORE_INDEX, reduction="none")
    return losses.sum(1).cpu(), (targets != IGNORE_INDEX).sum(1).cpu()


def load_samples(args: argparse.Namespace, tokenizer: Any, image_processor: Any, config: Any) -> LazySupervisedDataset:
    """The data set as training would build it for this checkpoint."""
    data_args = SimpleNamespace(
        data_path=args.data_path,
        image_folder=os.path.expanduser(args.image_folder),
        image_aspect_ratio=getattr(config, "image_aspect_ratio", None) or "square",
        image_grid_pinpoints=getattr(config, "image_grid_pinpoints", None),
        image_processor=image_processor,
        is_multimodal=True,
        mm_use_im_start_end=getattr(config, "mm_use_im_start_end", False),
    )
    # The data set takes its template from there, as training's --version sets it.
    conversation.default_conversation = conversation.conv_templates[known_conv_mode(args.version)]
    return LazySupervisedDataset(args.data_path, tokenizer, data_args)


def measure(args: argparse.Namespace) -> Iterator[tuple[float, int]]:
    """Summed loss and number of trained tokens, sample by sample. Raises UserError for a model without vision tower."""
    name = get_model_name_from_path(args.model_path)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer, model, image_processor, _ = load_pretrained_model(args.model_path, args.model_base, name, device=device)
    if image_processor is None:
        raise UserError(f"{args.model_path} is a text-only model; the loss is that of a model with a vision tower")
    if attanchor := given_attanchor_flags(args):
        enable_attanchor(model, tokenizer, conversation.conv_templates[known_conv_mode(args.version)], **attanchor)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    samples = load_samples(args, tokenizer, image_processor, model.config)
    loader = DataLoader(
        samples,
        batch_size=args.batch_size,
        num_workers=args.workers,
        collate_fn=DataCollatorForSupervisedDataset(tokenizer),
    )
    with tqdm(total=len(samples), unit="sample") as progress:
        for batch in loader:
            sums, counts = losses_of(model, batch)
            yield from zip(sums.tolist(), counts.tolist(), strict=True)
            progress.update(len(sums))


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="llava.eval.validation_loss", description="Measure the loss on samples.")
    parser.add_argument("--model-path", type=str, required=True, help="checkpoint folder or hub name")
    parser.add_argument("--model-base", type=str, help="what a LoRA or projector-only checkpoint was trained on")
    parser.add_argument("--data-path", type=str, required=True, help="LLaVA-format JSON")
    parser.add_argument("--image-folder", type=str, default="", help="folder of the pictures that the samples name")
    parser.add_argument("--version", type=str, default="v1", help="conversation template, as in training (default: v1)")
    parser.add_argument("--batch-size", type=int, default=1, help="samples at once (default: 1)")
    parser.add_argument("--workers", type=int, default=0, help="processes that read pictures ahead (default: 0)")
    parser.add_argument("--output", type=str, help="each sample's loss, JSON Lines, and beside it the score")
    add_attanchor_flags(parser)
    return parser


@exit_on_user_error
def main() -> None:
    args = build_parser().parse_args()
    measured = list(measure(args))
    units = {str(number): (loss, float(count)) for number, (loss, count) in enumerate(measured)}
    metric = Metric({"": units}, scale=1)
    if args.output:
        lines = [{"sample": number, "loss": loss, "tokens": count} for number, (loss, count) in enumerate(measured)]
        write_json_lines(args.output, lines)
        record_scores(args.output, {"validation_loss": metric})
    score = metric.score()
    tokens = sum(count for _, count in measured)
    print(f"Validation loss: {score.value:.4f} ± {score.standard_error:.4f} ({score.n} samples, {tokens} tokens)")


if __name__ == "__main__":
    main()
