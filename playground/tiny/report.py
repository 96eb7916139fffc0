"""The demo's last page: accuracies of several models as one table, and what CCRA looks at as one picture.

::

    python -m playground.tiny.report --scores CCRA=ccra/results.json mlp2x_gelu=plain/results.json \
        --checkpoint checkpoints/... --gqa playground/data/easy_vqa/gqa --table report.md --figure maps.png
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from torch import nn

from ccra_patch.pai import AttentionMaps
from ccra_patch.picture import Example, draw
from llava.errors import UserError, exit_on_user_error
from llava.eval.batches import ItemDataset, load_batches
from llava.eval.generation import Sampling, generate_texts
from llava.eval.model_vqa_loader import question_to_item
from llava.mm_utils import get_model_name_from_path
from llava.model.builder import load_pretrained_model

# What each group of questions asks, in the words of Easy-VQA. The names are those of GQA's evaluation.
GROUPS = {
    "accuracy": "all questions",
    "binary": "yes or no",
    "open": "open",
    "detailed/exist": "is there a circle?",
    "detailed/existNot": "is there not a circle?",
    "detailed/existAttr": "is there a red shape?",
    "detailed/existAttrNot": "is there not a red shape?",
    "detailed/queryAttr": "what color is the circle?",
    "detailed/queryObj": "what shape is in the image?",
}
SHOWN_TYPES = ("queryObj", "queryAttr", "exist")

Scores = dict[str, dict[str, float]]


def read_scores(path: Path) -> Scores:
    """The evaluator's scores by group. Raises UserError for a file that the evaluator did not write."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))["scores"]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path} holds no scores ({error!r}); run make eval-gqa, which writes them") from error


def table(columns: dict[str, Scores]) -> str:
    """Markdown: a row for each group of questions, a column for each model; accuracy in % with its standard error."""
    first = next(iter(columns.values()))
    lines = [["accuracy in %, ± standard error", "questions", *columns]]
    for group, meaning in GROUPS.items():
        cells = [f"{scores[group]['value']:.1f} ± {scores[group]['standard_error']:.1f}" for scores in columns.values()]
        lines.append([meaning, f"{first[group]['n']:,}", *cells])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rows = [[cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines]
    rows.insert(1, ["-" * width for width in widths])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def choose_questions(gqa: Path) -> list[dict[str, Any]]:
    """The first test question of each shown type, as the answering driver reads it, with its answer."""
    entries = json.loads((gqa / "data" / "testdev_balanced_questions.json").read_text(encoding="utf-8"))
    lines = (gqa / "llava_gqa_testdev_balanced.jsonl").read_text(encoding="utf-8").splitlines()
    chosen: dict[str, dict[str, Any]] = {}
    for question in map(json.loads, lines):
        entry = entries[question["question_id"]]
        kind = entry["types"]["detailed"]
        if kind in SHOWN_TYPES and question["image"] not in [other["image"] for other in chosen.values()]:
            chosen.setdefault(kind, question | {"question": entry["question"], "answer": entry["answer"]})
    return [chosen[kind] for kind in SHOWN_TYPES]


@contextmanager
def recorded_maps(attention: nn.Module) -> Iterator[list[AttentionMaps]]:
    """Collect the maps of every forward of CCRA's attention stack while answers are generated."""
    maps: list[AttentionMaps] = []
    handle = attention.register_forward_hook(lambda module, inputs, output: maps.append(output[1]))
    try:
        yield maps
    finally:
        handle.remove()


def look(checkpoint: str, gqa: Path, questions: Sequence[dict[str, Any]]) -> list[Example]:
    """Answer ``questions`` one by one, greedily, on the CPU; each with the maps that its answer came from."""
    name = get_model_name_from_path(checkpoint)
    tokenizer, model, image_processor, _ = load_pretrained_model(checkpoint, None, name, device="cpu")
    folder = gqa / "data" / "images"
    items = [question_to_item(question, str(folder)) for question in questions]
    dataset = ItemDataset(items, tokenizer, image_processor, model.config, "vicuna_v1")
    one_by_one = load_batches(dataset, [[index] for index in range(len(items))], workers=0)
    examples = []
    for question, (_, batch) in zip(questions, one_by_one, strict=True):
        with recorded_maps(model.get_model().mm_projector.attention) as maps:
            (said,) = generate_texts(model, tokenizer, Sampling(temperature=0), **batch.model_inputs())
        with Image.open(folder / question["image"]) as picture:
            title = f"{question['question']}  -  model: {said}, right answer: {question['answer']}"
            # Decoding goes on without the picture, so the first maps are those of the whole prompt.
            examples.append(Example(title, picture.convert("RGB"), maps[0]))
    return examples


def named_path(text: str) -> tuple[str, Path]:
    name, _, path = text.partition("=")
    if not path:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=results.json")
    return name, Path(path)


@exit_on_user_error
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scores", type=named_path, nargs="+", required=True, help="NAME=results.json of each model")
    parser.add_argument("--checkpoint", required=True, help="CCRA model whose maps are drawn")
    parser.add_argument("--gqa", type=Path, required=True, help="folder of the test questions and pictures")
    parser.add_argument("--table", type=Path, required=True, help="Markdown file to write")
    parser.add_argument("--figure", type=Path, required=True, help="PNG to write; its numbers go beside it as JSON")
    args = parser.parse_args()

    text = table({name: read_scores(path) for name, path in args.scores})
    args.table.parent.mkdir(parents=True, exist_ok=True)
    args.table.write_text(text + "\n", encoding="utf-8")
    draw(look(args.checkpoint, args.gqa, choose_questions(args.gqa)), args.figure)
    print(f"\n{text}\n\ntable: {args.table}\nmaps:  {args.figure}")


if __name__ == "__main__":
    main()
