"""Answers of a driver -> the predictions file of GQA: ``{"questionId", "prediction"}``, lower case, no full stop."""

import argparse

from llava.errors import exit_on_user_error
from llava.eval.records import read_json_lines, require_keys, write_json


def convert(src: str, dst: str) -> None:
    """Reads answers (JSON Lines) from ``src`` and writes GQA's list of predictions to ``dst``.

    Raises UserError for a missing, empty or damaged answers file.
    """
    answers = read_json_lines(src)
    require_keys(answers, ("question_id", "text"), src)
    predictions = [
        {"questionId": answer["question_id"], "prediction": answer["text"].rstrip(".").lower()} for answer in answers
    ]
    write_json(dst, predictions)


@exit_on_user_error
def main() -> None:
    parser = argparse.ArgumentParser(description="Turn answers into a GQA predictions file.")
    parser.add_argument("--src", type=str, required=True, help="answers, JSON Lines")
    parser.add_argument("--dst", type=str, required=True, help="predictions, JSON")
    args = parser.parse_args()
    convert(args.src, args.dst)


if __name__ == "__main__":
    main()
