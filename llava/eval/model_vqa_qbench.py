"""Answers to Q-Bench's questions on low-level vision: ``python -m llava.eval.model_vqa_qbench``.

Upstream's scripts call this module, which upstream lacks. Questions are LLVisionQA's JSON list (Wu et al., "Q-Bench: A
Benchmark for General-Purpose Foundation Models on Low-level Vision", ICLR 2024), of which it reads ``img_path``,
``question`` and ``candidates``; that these are the names is an assumption, as the files cannot be had offline. Each
answer is a line with ``question_id`` (the place in the list, from 0), ``img_path``, ``prompt``, ``text``, ``options``,
``answer_id``, ``model_id`` and ``metadata``.
"""

import argparse
from typing import Any

from llava.constants import DEFAULT_IMAGE_TOKEN
from llava.errors import UserError, exit_on_user_error
from llava.eval.answer_forms import ANSWER_BY_LETTER, list_options
from llava.eval.driver import answer_items
from llava.eval.items import Item, picture_path
from llava.eval.records import get_chunk, read_json_list, require_keys
from llava.eval.settings import DriverSettings, add_driver_flags

INSTRUCTIONS = {"en": ANSWER_BY_LETTER["en"], "zh": ANSWER_BY_LETTER["cn"]}


def question_to_item(number: int, question: dict[str, Any], image_folder: str, lang: str) -> Item:
    """A record of the question file as an item."""
    prompt = f"{question['question']}\n{list_options(question['candidates'])}\n{INSTRUCTIONS[lang]}"
    record = {
        "question_id": number,
        "img_path": question["img_path"],
        "prompt": prompt,
        "text": None,
        "options": question["candidates"],
    }
    return Item(record, f"{DEFAULT_IMAGE_TOKEN}\n{prompt}", (picture_path(image_folder, question["img_path"]),))


def eval_model(args: Any) -> None:
    """Answers the chunk of ``args.question_file`` that ``args`` asks for."""
    settings = DriverSettings.from_args(args)
    if args.lang not in INSTRUCTIONS:
        raise UserError(f"--lang is {args.lang!r}; it must be one of {', '.join(INSTRUCTIONS)}")
    questions = read_json_list(settings.question_file)
    require_keys(questions, ("img_path", "question", "candidates"), settings.question_file)
    chunk = get_chunk(list(enumerate(questions)), settings.num_chunks, settings.chunk_idx)
    items = [question_to_item(number, question, args.image_folder, args.lang) for number, question in chunk]
    answer_items(items, settings)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="llava.eval.model_vqa_qbench", description="Answer Q-Bench.")
    add_driver_flags(parser)
    parser.add_argument(
        "--questions-file", dest="question_file", default=argparse.SUPPRESS, help="the other name of --question-file"
    )
    parser.add_argument("--lang", type=str, default="en", help="en or zh, of the request for a letter (default: en)")
    return parser


@exit_on_user_error
def main() -> None:
    eval_model(build_parser().parse_args())


if __name__ == "__main__":
    main()
