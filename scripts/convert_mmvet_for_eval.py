"""Answers to MM-Vet -> the object that its evaluator takes: the text by ``v1_<question>``."""

import argparse

from llava.errors import exit_on_user_error
from llava.eval.records import read_json_lines, require_keys, write_json


def convert(src: str, dst: str) -> None:
    """Reads answers (JSON Lines) from ``src``. Raises UserError for a missing, empty or damaged file."""
    answers = read_json_lines(src)
    require_keys(answers, ("question_id", "text"), src)
    write_json(dst, {f"v1_{answer['question_id']}": answer["text"] for answer in answers}, indent=2)


@exit_on_user_error
def main() -> None:
    parser = argparse.ArgumentParser(description="Turn answers to MM-Vet into its evaluator's file.")
    parser.add_argument("--src", type=str, required=True, help="answers, JSON Lines")
    parser.add_argument("--dst", type=str, required=True, help="answers by question, JSON")
    args = parser.parse_args()
    convert(args.src, args.dst)


if __name__ == "__main__":
    main()
