"""Questions per second in batches beside one by one, with the same greedy answers, in one run.

    python benchmarks/evaluation.py                                       # a tiny model, 200 questions, batches of 16
    python benchmarks/evaluation.py --model-path liuhaotian/llava-v1.5-7b --conv-mode vicuna_v1     # on a GPU

Both arms go through the driver of the benchmarks' scripts: pictures are decoded by its workers, answers are written by
it. Loading the model and tokenising are not counted. Arms take turns, so that a busy machine slows both; rates are
medians. The questions have one to seven sentences, every fifth has no picture.
"""

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from conftest import assemble_assets  # noqa: E402

from llava.eval.model_vqa_loader import eval_model  # noqa: E402
from llava.eval.provenance import read_provenance  # noqa: E402

SENTENCES = (
    "What is it?",
    "Which colour has the object on the left of the table?",
    "Is there a small dog or a big cat?",
)
PICTURE = (640, 480)
PICTURES = 16


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model-path", help="checkpoint (default: a tiny one of the tests)")
    parser.add_argument("--conv-mode", default="vicuna_v1")
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--new-tokens", type=int, default=16, help="the longest answer (default 16)")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    return parser.parse_args()


def write_questions(folder: Path, count: int) -> None:
    """``questions.jsonl`` and its pictures."""
    torch.manual_seed(0)
    for number in range(PICTURES):
        noise = torch.randint(256, (PICTURE[1] // 8, PICTURE[0] // 8, 3), dtype=torch.uint8).numpy()
        Image.fromarray(noise).resize(PICTURE).save(folder / f"{number}.jpg")
    lines = []
    for number in range(count):
        text = " ".join(SENTENCES[(number + part) % 3] for part in range(1 + number * 3 % 7))
        picture = {} if number % 5 == 4 else {"image": f"{number % PICTURES}.jpg"}
        lines.append(json.dumps({"question_id": number, "text": text} | picture) + "\n")
    (folder / "questions.jsonl").write_text("".join(lines))


def answer(folder: Path, batch_size: int, args: argparse.Namespace) -> tuple[float, str, list[str]]:
    """Questions per second, the device, and the answers."""
    path = folder / f"{batch_size}.jsonl"
    flags = {
        "model_path": args.model_path or str(folder / "assets" / "llava_tiny_mlp2x_gelu"),
        "model_base": None,
        "image_folder": str(folder),
        "question_file": str(folder / "questions.jsonl"),
        "answers_file": str(path),
        "conv_mode": args.conv_mode,
        "num_chunks": 1,
        "chunk_idx": 0,
        "temperature": 0,
        "max_new_tokens": args.new_tokens,
        "batch_size": batch_size,
        "workers": args.workers,
    }
    eval_model(SimpleNamespace(**flags))
    record: dict[str, Any] = read_provenance(path) or {}
    texts = [json.loads(line)["text"] for line in path.read_text(encoding="utf-8").splitlines()]
    return args.questions / record["time"]["seconds"], record["model"]["device"], texts


def main() -> None:
    args = parse_arguments()
    torch.set_num_threads(args.threads)
    rates: dict[int, list[float]] = {1: [], args.batch_size: []}
    answers = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "assets").mkdir()
        assemble_assets(folder / "assets")
        write_questions(folder, args.questions)
        for _ in range(args.repeats):
            for batch_size in rates:
                rate, device, answers[batch_size] = answer(folder, batch_size, args)
                rates[batch_size].append(rate)
    different = sum(one != many for one, many in zip(answers[1], answers[args.batch_size], strict=True))
    print(f"{args.questions} questions on {device}, {args.threads} threads, {args.workers} workers; {different} differ")
    print(f"{'batch size':<12}{'questions/s':>12}{'ratio':>8}")
    alone = statistics.median(rates[1])
    for batch_size, values in rates.items():
        rate = statistics.median(values)
        print(f"{batch_size:<12}{rate:>12.1f}{rate / alone:>8.1f}")


if __name__ == "__main__":
    main()
