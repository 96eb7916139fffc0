"""Which threshold pins which share of the tokens: ``python -m llava.attanchor.calibrate``, on the user's own data.

Cosines between text and image tokens depend on the projector, so a threshold of one model says little about another.
The paper's copies about 10% of the text tokens. This program measures, for a sample of a training file or of a question
file, how similar every token is to its nearest relative, prints which threshold copies which share, and proposes one.
"""

import argparse
import json
import math
import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset
from tqdm import tqdm

from llava import conversation
from llava.attanchor.loading import Loaded, add_model_flags, load
from llava.errors import UserError, exit_on_user_error
from llava.eval.batches import ItemDataset, load_batches, plan_batches
from llava.eval.items import check_items
from llava.eval.model_vqa_loader import question_to_item
from llava.eval.records import read_json_lines, require_keys
from llava.train.dataset import DataCollatorForSupervisedDataset, LazySupervisedDataset

SHARES = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5)  # rows of the table
PAPERS_TAUS = (0.07, 0.12, 0.14)  # further rows
PLACES = 4  # decimals of a threshold

Batch = dict[str, Any]


def threshold_for(similarities: Tensor, share: float) -> float:
    """The threshold that at least ``share`` of the similarities ``[n]`` reach, and as few more as possible.

    Rounded down to four decimals, and never beyond -1 or 1.
    """
    wanted = math.ceil(round(share * len(similarities), 6))  # 0.07 of 100 is 7.000000000000001
    exact = similarities.double().sort(descending=True).values[wanted - 1].item()
    return min(1.0, max(-1.0, (exact * 10**PLACES) // 1 / 10**PLACES))


def share_at(similarities: Tensor, tau: float) -> float:
    """Share of the similarities ``[n]`` that reach ``tau``."""
    return (similarities >= tau).float().mean().item()


def calibrate(similarities: Tensor, samples: int, share: float) -> dict[str, Any]:
    """The proposal and the table, JSON-able, from every token's best similarity ``[n]`` in ``samples`` samples."""
    taus = {threshold_for(similarities, share), *PAPERS_TAUS}
    taus |= {threshold_for(similarities, row_share) for row_share in SHARES}
    rows = [
        {"tau": tau, "share": share_at(similarities, tau), "copies": (similarities >= tau).sum().item() / samples}
        for tau in sorted(taus, reverse=True)
    ]
    proposed = threshold_for(similarities, share)
    return {
        "samples": samples,
        "tokens": len(similarities),
        "wanted_share": share,
        "tau": proposed,
        "share": share_at(similarities, proposed),
        "table": rows,
    }


@torch.inference_mode()
def best_similarities(loaded: Loaded, batches: Iterable[Batch]) -> tuple[Tensor, int]:
    """The similarity of every token to its nearest relative ``[n]``, and of how many samples with pictures they are."""
    settings, device = loaded.settings, loaded.model.device
    found: list[Tensor] = []
    samples = 0
    for batch in batches:
        if batch["images"] is None:
            continue
        _, matches = loaded.model.find_anchors(
            batch["input_ids"].to(device),
            batch["attention_mask"].to(device),
            loaded.to_model(batch["images"]),
            batch["image_sizes"],
            direction=settings.mm_attanchor_direction,
            query=settings.mm_attanchor_query,
        )
        real = matches.similarity.isfinite()
        samples += int(real.any(dim=1).sum())
        found.append(matches.similarity[real].cpu())
    similarities = torch.cat(found) if found else torch.empty(0)
    if len(similarities) == 0:
        raise UserError("no sample has both a picture and a question; check --conv-mode and the data")
    return similarities, samples


def question_batches(loaded: Loaded, args: argparse.Namespace) -> Iterator[Batch]:
    """Prompts of a question file, as the evaluation drivers write them."""
    records = read_json_lines(args.question_file)
    require_keys(records, ("question_id", "text"), args.question_file)
    items = [question_to_item(records[i], args.image_folder) for i in _choose(len(records), args)]
    check_items(items)
    dataset = ItemDataset(items, loaded.tokenizer, loaded.image_processor, loaded.model.config, args.conv_mode)
    for _, batch in load_batches(dataset, plan_batches(dataset, args.batch_size), workers=0):
        yield batch.model_inputs()


def training_batches(loaded: Loaded, args: argparse.Namespace) -> Iterator[Batch]:
    """Samples of a training file, as the trainer writes them."""
    config, tokenizer = loaded.model.config, loaded.tokenizer
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.unk_token or tokenizer.eos_token
    conversation.default_conversation = loaded.conv
    data_args = SimpleNamespace(
        image_folder=args.image_folder,
        image_aspect_ratio=getattr(config, "image_aspect_ratio", "square"),
        image_grid_pinpoints=getattr(config, "image_grid_pinpoints", None),
        image_processor=loaded.image_processor,
        is_multimodal=True,
        mm_use_im_start_end=getattr(config, "mm_use_im_start_end", False),
    )
    dataset = LazySupervisedDataset(args.data, tokenizer, data_args)
    chosen = Subset(dataset, _choose(len(dataset), args))
    collate = DataCollatorForSupervisedDataset(tokenizer)
    for batch in DataLoader(chosen, batch_size=args.batch_size, collate_fn=collate):
        yield {"image_sizes": None} | batch


def _choose(count: int, args: argparse.Namespace) -> list[int]:
    return sorted(random.Random(args.random_seed).sample(range(count), min(count, args.samples)))


def report(result: dict[str, Any], direction: str) -> str:
    """The table and the proposal as text."""
    kind = "question" if direction == "text_into_image" else "image"
    lines = [f"{direction}: {result['tokens']} {kind} tokens of {result['samples']} samples with pictures"]
    lines.append(f"{'tau':>8}{'share':>9}{'copies per sample':>20}")
    lines += [f"{row['tau']:8.4f}{row['share']:9.2%}{row['copies']:20.1f}" for row in result["table"]]
    lines.append(f"for {result['wanted_share']:.2%} of the tokens: --mm_attanchor_tau {result['tau']:.4f}")
    return "\n".join(lines)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="llava.attanchor.calibrate", description="Propose AttAnchor's threshold.")
    add_model_flags(parser)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", help="training file, as for --data_path: a JSON list of samples")
    source.add_argument("--question-file", help="question file, as for evaluation: JSON Lines")
    parser.add_argument("--image-folder", default="", help="folder of the pictures")
    parser.add_argument("--share", type=float, default=0.1, help="wanted share of tokens to copy (default: 0.1)")
    parser.add_argument("--samples", type=int, default=500, help="so many samples, drawn at random (default: 500)")
    parser.add_argument("--random-seed", type=int, default=42, help="for the draw (default: 42)")
    parser.add_argument("--batch-size", type=int, default=8, help="samples at once (default: 8)")
    parser.add_argument("--output", default=None, help="JSON file for the result")
    return parser


@exit_on_user_error
def main() -> None:
    args = build_parser().parse_args()
    if not 0 < args.share <= 1:
        raise UserError(f"--share is {args.share}; it must be above 0 and at most 1")
    for name in ("samples", "batch_size"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} is {getattr(args, name)}; it must be at least 1")
    loaded = load(args)
    batches = training_batches(loaded, args) if args.data else question_batches(loaded, args)
    similarities, samples = best_similarities(loaded, tqdm(batches, unit="batch", delay=2))
    result = calibrate(similarities, samples, args.share)
    print(report(result, loaded.settings.mm_attanchor_direction))
    if args.output:
        Path(args.output).write_text(json.dumps(vars(loaded.settings) | result, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
