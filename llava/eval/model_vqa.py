"""Answers to open questions about pictures: ``python -m llava.eval.model_vqa``.

Reads and writes what :mod:`llava.eval.model_vqa_loader` does, with up to 1024 tokens in an answer.
"""

import argparse
from typing import Any

from llava.errors import exit_on_user_error
from llava.eval.driver import answer_items
from llava.eval.model_vqa_loader import read_items
from llava.eval.records import get_chunk, split_list
from llava.eval.settings import DriverSettings, add_driver_flags

__all__ = ["eval_model", "get_chunk", "split_list"]


def eval_model(args: Any) -> None:
    """Answers the chunk of ``args.question_file`` that ``args`` asks for; ``args`` needs upstream's flags at least."""
    settings = DriverSettings.from_args(args)
    answer_items(read_items(settings, args.image_folder), settings)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="llava.eval.model_vqa", description="Answer open questions about pictures.")
    add_driver_flags(parser)
    return parser


@exit_on_user_error
def main() -> None:
    eval_model(build_parser().parse_args())


if __name__ == "__main__":
    main()
