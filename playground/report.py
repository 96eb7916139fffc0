"""A demo's last page: accuracies of several models as tables, and what CCRA looks at as one picture.

Each demo says what its questions are (:class:`Page`) and has its own command, as ``python -m playground.tiny.report``::

    --scores CCRA=ccra/results.json mlp2x_gelu=plain/results.json --checkpoint checkpoints/... \
        --gqa playground/data/easy_vqa/gqa --table report.md --figure maps.png
"""

import argparse
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from ccra_patch.markdown import markdown_table
from ccra_patch.picture import Example, draw
from ccra_patch.recorder import recorded_maps
from llava.errors import UserError, exit_on_user_error
from llava.eval.generation import Sampling, generate_texts
from llava.eval.model_vqa_loader import question_to_item
from llava.eval.observe import Checkpoint

Scores = dict[str, dict[str, float]]


@dataclass(frozen=True)
class Page:
    """What a demo asks.

    Attributes:
        groups: what each group of questions asks, by its name in GQA's evaluation: the rows of a table.
        tier: the questions that pictures are taken from.
        shown: detailed types of which one question is shown each.
    """

    groups: Mapping[str, str]
    tier: str
    shown: Sequence[str]


def read_scores(path: Path) -> Scores:
    """The evaluator's scores by group. Raises UserError for a file that the evaluator did not write."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))["scores"]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path} holds no scores ({error!r}); run make eval-gqa, which writes them") from error


def table(columns: Mapping[str, Scores], groups: Mapping[str, str]) -> str:
    """Markdown: a row for each group of questions, a column for each model; accuracy in % with its standard error."""
    first = next(iter(columns.values()))
    lines = [["accuracy in %, ± standard error", "questions", *columns]]
    for group, meaning in groups.items():
        cells = [f"{scores[group]['value']:.1f} ± {scores[group]['standard_error']:.1f}" for scores in columns.values()]
        lines.append([meaning, f"{first[group]['n']:,}", *cells])
    return markdown_table(lines)


def heading(titles: Sequence[str], tables: Sequence[str]) -> list[str]:
    """Each table under its title, Markdown."""
    return [f"### {title}\n\n{table}" for title, table in zip(titles, tables, strict=True)]


def choose_questions(gqa: Path, page: Page) -> list[dict[str, Any]]:
    """The first question of each shown type, on different pictures, as the driver reads it, with its answer."""
    entries = json.loads((gqa / "data" / f"{page.tier}_questions.json").read_text(encoding="utf-8"))
    lines = (gqa / f"llava_gqa_{page.tier}.jsonl").read_text(encoding="utf-8").splitlines()
    chosen: dict[str, dict[str, Any]] = {}
    for question in map(json.loads, lines):
        entry = entries[question["question_id"]]
        kind = entry["types"]["detailed"]
        if kind in page.shown and question["image"] not in [other["image"] for other in chosen.values()]:
            chosen.setdefault(kind, question | {"question": entry["question"], "answer": entry["answer"]})
    return [chosen[kind] for kind in page.shown]


def keep_examples(gqa: Path, questions: Sequence[dict[str, Any]], folder: Path) -> None:
    """Leave ``questions`` and their pictures in ``folder``, where the web page finds them (``make chat``)."""
    folder.mkdir(parents=True, exist_ok=True)
    for question in questions:
        shutil.copy(gqa / "data" / "images" / question["image"], folder)
    lines = [json.dumps({key: question[key] for key in ("image", "text")}) + "\n" for question in questions]
    (folder / "questions.jsonl").write_text("".join(lines), encoding="utf-8")


def look(path: str, gqa: Path, questions: Sequence[dict[str, Any]], conv_mode: str) -> list[Example]:
    """Answer ``questions`` one by one, greedily; each with the maps that its answer came from."""
    checkpoint = Checkpoint.load(path)
    folder = gqa / "data" / "images"
    items = [question_to_item(question, str(folder)) for question in questions]
    examples = []
    for question, (_, batch) in zip(questions, checkpoint.batches(items, conv_mode), strict=True):
        with recorded_maps(checkpoint.model) as maps:
            (said,) = generate_texts(
                checkpoint.model, checkpoint.tokenizer, Sampling(temperature=0), **batch.model_inputs()
            )
        with Image.open(folder / question["image"]) as picture:
            title = f"{question['question']}  -  model: {said}, right answer: {question['answer']}"
            # Decoding goes on without the picture, so the first maps are those of the whole prompt.
            examples.append(
                Example(title, picture.convert("RGB"), maps[0], fit=checkpoint.fit, layers=checkpoint.layers)
            )
    return examples


def named_path(text: str) -> tuple[str, Path]:
    name, _, path = text.partition("=")
    if not path:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=results.json")
    return name, Path(path)


@exit_on_user_error
def report(page: Page) -> None:
    """The command of a demo: reads the flags, writes the tables and the figure."""
    parser = argparse.ArgumentParser(description="Tables and maps of a demo.")
    parser.add_argument(
        "--scores",
        type=named_path,
        nargs="+",
        action="append",
        required=True,
        metavar="NAME=results.json",
        help="the models of one table; may be given again",
    )
    parser.add_argument("--titles", nargs="+", help="what stands above each table (default: nothing)")
    parser.add_argument("--checkpoint", required=True, help="CCRA model whose maps are drawn")
    parser.add_argument("--conv-mode", default="vicuna_v1", help="its conversation template (default: vicuna_v1)")
    parser.add_argument("--gqa", type=Path, required=True, help="folder of the test questions and pictures")
    parser.add_argument(
        "--table", type=Path, required=True, help="Markdown file to write; the web page's examples go beside it"
    )
    parser.add_argument("--figure", type=Path, required=True, help="PNG to write; its numbers go beside it as JSON")
    args = parser.parse_args()

    tables = [table({name: read_scores(path) for name, path in scores}, page.groups) for scores in args.scores]
    if args.titles is not None and len(args.titles) != len(tables):
        raise UserError(f"--titles gives {len(args.titles)} for {len(tables)} tables; give one for each --scores")
    text = "\n\n".join(tables if args.titles is None else heading(args.titles, tables))
    args.table.parent.mkdir(parents=True, exist_ok=True)
    args.table.write_text(text + "\n", encoding="utf-8")
    questions = choose_questions(args.gqa, page)
    keep_examples(args.gqa, questions, args.table.parent / "examples")
    draw(look(args.checkpoint, args.gqa, questions, args.conv_mode), args.figure)
    print(f"\n{text}\n\ntable: {args.table}\nmaps:  {args.figure}")
