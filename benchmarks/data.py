"""Samples per second of the data path on one core, and whether its loader keeps up with a training step.

    python benchmarks/data.py                            # 640 x 480, as most of COCO
    python benchmarks/data.py --width 500 --height 375 --samples 64
    python benchmarks/data.py --workers 2 --rate 64 --steps 50

First ``__getitem__`` at 336 px (JPEG, pad, three rounds) and the collator. The stand-in for upstream opens the same
file, pads it to a square and calls CLIP's processor for it; text goes the same way in both arms, though upstream
tokenises every round three times. Arms take turns (see turns.py); rates are medians, and the ratio is what to look at.

Then a ``DataLoader`` as the trainer makes it, under a step that takes as long as ``--rate`` says and keeps a core busy,
as a process that feeds a GPU does: the share of time spent waiting for a batch, and what the loader gives without a
step between two batches.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from turns import take_turns  # noqa: E402

from llava import conversation  # noqa: E402
from llava.mm_utils import expand2square, load_image_processor, process_images  # noqa: E402
from llava.tokenization import load_tokenizer  # noqa: E402
from llava.train import dataset as data  # noqa: E402

ASSETS = ROOT / "tests" / "goldens" / "assets"
ROUNDS = [
    ("<image>\nWhat is the man on the left holding in his hand?", "The man on the left is holding a red umbrella."),
    ("Is the umbrella open or closed?", "It is open, although it does not seem to be raining."),
    ("What is behind him?", "A shop window with a bicycle in front of it."),
]
Run = Callable[[int], object]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=640)
    parser.add_argument("--height", type=int, default=480)
    parser.add_argument("--samples", type=int, default=32, help="different pictures (default 32)")
    parser.add_argument("--batch", type=int, default=16, help="samples that the collator takes (default 16)")
    parser.add_argument("--repeats", type=int, default=7, help="passes over all samples (default 7)")
    parser.add_argument("--workers", type=int, default=4, help="processes of the loader (default 4)")
    parser.add_argument("--rate", type=float, default=16, help="samples per second that training takes (default 16)")
    parser.add_argument("--steps", type=int, default=20, help="steps to train (default 20)")
    return parser.parse_args()


def write_samples(folder: Path, sizes: argparse.Namespace) -> Path:
    """Pictures with structure at several scales, so that they decode about as slowly as photographs, and their JSON."""
    random = np.random.default_rng(0)
    turns = [
        turn
        for question, answer in ROUNDS
        for turn in ({"from": "human", "value": question}, {"from": "gpt", "value": answer})
    ]
    samples = []
    for number in range(sizes.samples):
        canvas = np.zeros((sizes.height, sizes.width, 3))
        for scale in (64, 16, 4):
            coarse = random.normal(0, 1, (sizes.height // scale + 1, sizes.width // scale + 1, 3))
            levels = Image.fromarray(np.uint8(np.clip(128 + 40 * coarse, 0, 255)))
            canvas += np.asarray(levels.resize((sizes.width, sizes.height), Image.Resampling.BICUBIC), dtype=float)
        Image.fromarray(np.uint8(canvas / 3)).save(folder / f"{number}.jpg", quality=90)
        samples.append({"id": str(number), "image": f"{number}.jpg", "conversations": turns})
    path = folder / "samples.json"
    path.write_text(json.dumps(samples))
    return path


def by_processor(images: list[Image.Image], processor: Any, config: Any) -> torch.Tensor:
    """Padding and one call of the processor for each picture: what upstream's data set does."""
    color = tuple(int(255 * mean) for mean in processor.image_mean)
    squares = [expand2square(image, color) for image in images]
    return torch.cat([processor.preprocess(square, return_tensors="pt")["pixel_values"] for square in squares])


def rates(runs: dict[str, Run], count: int, repeats: int) -> dict[str, float]:
    """Calls per second of each, by the median pass over ``count`` calls."""

    def one_pass(run: Run) -> Callable[[], object]:
        return lambda: [run(index) for index in range(count)]

    seconds = take_turns({name: one_pass(run) for name, run in runs.items()}, repeats)
    return {name: count / statistics.median(taken) for name, taken in seconds.items()}


def waits(dataset: Any, collator: Any, sizes: argparse.Namespace, step: float) -> list[float]:
    """Seconds waited for the first batch and for each of ``sizes.steps`` more, with ``step`` seconds between two."""
    order = [number % len(dataset) for number in range(sizes.batch * (sizes.steps + 1))]
    loader = DataLoader(dataset, sizes.batch, sampler=order, num_workers=sizes.workers, collate_fn=collator)
    batches = iter(loader)
    waited = []
    for _ in range(sizes.steps + 1):
        asked = time.perf_counter()
        next(batches)
        came = time.perf_counter()
        waited.append(came - asked)
        while time.perf_counter() < came + step:
            pass
    return waited


def main() -> None:
    sizes = parse_arguments()
    torch.set_num_threads(1)
    conversation.default_conversation = conversation.conv_templates["v1"]
    tokenizer = load_tokenizer(str(ASSETS))
    tokenizer.pad_token = tokenizer.unk_token
    processor = load_image_processor(str(ASSETS / "processor_336"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        settings = SimpleNamespace(
            image_folder=folder,
            image_processor=processor,
            image_aspect_ratio="pad",
            is_multimodal=True,
            mm_use_im_start_end=False,
        )
        dataset = data.LazySupervisedDataset(write_samples(folder, sizes), tokenizer, settings)
        collator = data.DataCollatorForSupervisedDataset(tokenizer)
        pictures = [data.load_picture(folder / f"{number}.jpg") for number in range(sizes.samples)]
        batch = [dataset[number % sizes.samples] for number in range(sizes.batch)]

        def upstreams(index: int) -> data.Item:
            with patch.object(data, "process_images", by_processor):
                return dataset[index]

        assert all(torch.equal(dataset[i]["image"], upstreams(i)["image"]) for i in range(sizes.samples))
        runs: dict[str, Run] = {
            "__getitem__": dataset.__getitem__,
            "  stand-in for upstream": upstreams,
            "  open the JPEG": lambda i: data.load_picture(folder / f"{i}.jpg"),
            "  picture to pixels": lambda i: process_images([pictures[i]], processor, settings),
            "  picture to pixels, processor": lambda i: by_processor([pictures[i]], processor, settings),
            "  text to ids and labels": lambda i: data.preprocess(
                [dataset.list_data_dict[i]["conversations"]], tokenizer, has_image=True, template=dataset.template
            ),
            f"collator, {sizes.batch} samples": lambda i: collator(batch),
        }
        measured = rates(runs, sizes.samples, sizes.repeats)
        step = sizes.batch / sizes.rate
        first, *under_step = waits(dataset, collator, sizes, step)
        _, *without_step = waits(dataset, collator, sizes, 0)
    print(f"{sizes.width} x {sizes.height} JPEG, one thread, median of {sizes.repeats} passes over {sizes.samples}")
    for run, rate in measured.items():
        print(f"{run:32}{rate:10.1f}/s{1000 / rate:10.2f} ms")
    ratio = measured["__getitem__"] / measured["  stand-in for upstream"]
    print(f"{'ratio to the stand-in':32}{ratio:10.2f}, pixels equal to the last bit")
    share = sum(under_step) / (sum(under_step) + sizes.steps * step)
    print(
        f"loader of {sizes.workers} workers, {sizes.steps} batches of {sizes.batch}, {sizes.rate:g} samples/s trained"
    )
    print(
        f"{'waited for data':32}{share:10.2%} of the time (first batch {first:.2f} s, longest {max(under_step):.4f} s)"
    )
    print(f"{'without a step between':32}{sizes.batch * sizes.steps / sum(without_step):10.1f}/s")


if __name__ == "__main__":
    main()
