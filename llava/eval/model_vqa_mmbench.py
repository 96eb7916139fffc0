"""Answers to MMBench: ``python -m llava.eval.model_vqa_mmbench``.

Questions are MMBench's table (tab-separated): ``index``, ``question``, ``hint``, options ``A`` to ``D``, ``image``
(base64). Each answer is a line with ``question_id`` (the index), ``round_id``, ``prompt``, ``text``, ``options``,
``option_char``, ``answer_id``, ``model_id`` and ``metadata``.
"""

import argparse
import base64
import binascii
from collections.abc import Sequence
from typing import Any

from llava.constants import DEFAULT_IMAGE_TOKEN
from llava.errors import UserError, exit_on_user_error
from llava.eval.answer_forms import ANSWER_BY_LETTER, list_options
from llava.eval.driver import answer_items
from llava.eval.items import Item
from llava.eval.records import get_chunk, read_table, split_list
from llava.eval.settings import DriverSettings, add_driver_flags

__all__ = ["all_options", "eval_model", "get_chunk", "get_options", "is_none", "split_list"]

all_options = ["A", "B", "C", "D"]


def is_none(value: Any) -> bool:
    """Whether a cell of the table is empty: None, NaN, or one of these words in any case."""
    return value is None or value != value or str(value).lower() in ("nan", "none")


def get_options(row: Any, options: Sequence[str]) -> list[str]:
    """The row's options, up to the first empty one."""
    texts = []
    for option in options:
        if is_none(row.get(option)):
            break
        texts.append(str(row[option]))
    return texts


def row_to_items(row: dict[str, Any], *, single_pred_prompt: bool, lang: str, all_rounds: bool) -> list[Item]:
    """A row as one item, or with ``all_rounds`` as one per option: options move up by one place each round.

    The letters in the prompt always run from A; ``option_char`` tells which original option each of them stands for.
    """
    options, letters = get_options(row, all_options), all_options
    image = _decode_image(row)
    items = []
    for round_id in range(len(options) if all_rounds else 1):
        hint = "" if is_none(row.get("hint")) else f"{row['hint']}\n"
        prompt = f"{hint}{row['question']}\n{list_options(options)}".rstrip("\n")
        instruction = f"\n{ANSWER_BY_LETTER[lang]}" if single_pred_prompt else ""
        record = {
            "question_id": row["index"],
            "round_id": round_id,
            "prompt": prompt,
            "text": None,
            "options": options,
            "option_char": letters[: len(options)],
        }
        items.append(Item(record, f"{DEFAULT_IMAGE_TOKEN}\n{prompt}{instruction}", (image,)))
        options, letters = options[1:] + options[:1], letters[1 : len(options)] + letters[:1]
    return items


def _decode_image(row: dict[str, Any]) -> bytes:
    try:
        return base64.b64decode(str(row["image"]), validate=True)
    except binascii.Error as error:
        raise UserError(
            f"question {row['index']!r} has no base64 picture ({error}); get the table again from MMBench"
        ) from error


def eval_model(args: Any) -> None:
    """Answers the chunk of ``args.question_file`` that ``args`` asks for; ``args`` needs upstream's flags at least."""
    settings = DriverSettings.from_args(args)
    if args.lang not in ANSWER_BY_LETTER:
        raise UserError(f"--lang is {args.lang!r}; it must be one of {', '.join(ANSWER_BY_LETTER)}")
    rows = read_table(settings.question_file, ("index", "question", "A", "image"))
    pictures = {str(row["index"]): row["image"] for row in rows}
    for row in rows:  # later tables write a picture once, and its row's index in the others
        row["image"] = pictures.get(row["image"], row["image"])
    items = [
        item
        for row in get_chunk(rows, settings.num_chunks, settings.chunk_idx)
        for item in row_to_items(
            row, single_pred_prompt=args.single_pred_prompt, lang=args.lang, all_rounds=args.all_rounds
        )
    ]
    answer_items(items, settings, plain_uses_mmtag=True)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="llava.eval.model_vqa_mmbench", description="Answer MMBench.")
    add_driver_flags(parser)
    parser.add_argument("--all-rounds", action="store_true", help="ask again with the options in every rotation")
    parser.add_argument("--single-pred-prompt", action="store_true", help="ask for the option's letter alone")
    parser.add_argument("--lang", type=str, default="en", help="en or cn, of that request (default: en)")
    return parser


@exit_on_user_error
def main() -> None:
    eval_model(build_parser().parse_args())


if __name__ == "__main__":
    main()
