"""Answers of a language model to questions without pictures: ``python -m llava.eval.model_qa``.

Questions are JSON Lines with ``question_id`` and ``text``; answers are sampled at temperature 0.7, up to 1024 tokens,
in the default template. Each is a line with ``question_id``, ``text``, ``answer_id``, ``model_id`` and ``metadata``.
"""

import argparse
import os

from llava.errors import exit_on_user_error
from llava.eval.driver import answer_items
from llava.eval.generation import Sampling
from llava.eval.items import Item
from llava.eval.records import read_json_lines, require_keys
from llava.eval.settings import DEFAULT_SEED, DEFAULT_WORKERS, DriverSettings, add_own_flags


def eval_model(
    model_name: str,
    questions_file: str,
    answers_file: str,
    *,
    batch_size: int = 1,
    workers: int = DEFAULT_WORKERS,
    seed: int = DEFAULT_SEED,
    resume: bool = False,
) -> None:
    """Answers all questions."""
    questions = read_json_lines(questions_file)
    require_keys(questions, ("question_id", "text"), questions_file)
    settings = DriverSettings(
        model_path=os.path.expanduser(model_name),
        model_base=None,
        question_file=questions_file,
        answers_file=answers_file,
        conv_mode="default",
        sampling=Sampling(temperature=0.7),
        batch_size=batch_size,
        workers=workers,
        seed=seed,
        resume=resume,
    )
    settings.validate()
    answer_items([Item({"question_id": question["question_id"]}, question["text"]) for question in questions], settings)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="llava.eval.model_qa", description="Answer questions without pictures.")
    parser.add_argument("--model-name", type=str, default="facebook/opt-350m", help="checkpoint folder or hub name")
    parser.add_argument("--question-file", type=str, default="tables/question.jsonl", help="questions, JSON Lines")
    parser.add_argument("--answers-file", type=str, default="answer.jsonl", help="where the answers go, JSON Lines")
    add_own_flags(parser)
    return parser


@exit_on_user_error
def main() -> None:
    args = build_parser().parse_args()
    eval_model(
        args.model_name,
        args.question_file,
        args.answers_file,
        batch_size=args.batch_size,
        workers=args.workers,
        seed=args.random_seed,
        resume=args.resume,
    )


if __name__ == "__main__":
    main()
