"""Answers to VizWiz -> the list that EvalAI takes: ``{"image", "answer"}``, normalised, for every question."""

import argparse

from llava.errors import exit_on_user_error
from llava.eval.m4c_evaluator import EvalAIAnswerProcessor
from llava.eval.records import read_answers, read_json_lines, require_answers, require_keys, write_json


def convert(annotation_file: str, result_file: str, upload_file: str) -> None:
    """Writes the list for the questions of ``annotation_file`` (JSON Lines with ``question_id`` and ``image``).

    Raises UserError when a question has no answer.
    """
    questions = read_json_lines(annotation_file)
    require_keys(questions, ("question_id", "image"), annotation_file)
    answers = read_answers(result_file)
    require_answers(answers, [str(question["question_id"]) for question in questions], result_file)
    print(f"total results: {len(answers)}, total split: {len(questions)}, error_line: 0")
    normalise = EvalAIAnswerProcessor()
    upload = [
        {"image": question["image"], "answer": normalise(answers[str(question["question_id"])]["text"])}
        for question in questions
    ]
    write_json(upload_file, upload)


@exit_on_user_error
def main() -> None:
    parser = argparse.ArgumentParser(description="Turn answers to VizWiz into a file for EvalAI.")
    parser.add_argument("--annotation-file", type=str, required=True, help="the questions, JSON Lines")
    parser.add_argument("--result-file", type=str, required=True, help="answers, JSON Lines")
    parser.add_argument("--result-upload-file", type=str, required=True, help="where the list goes")
    args = parser.parse_args()
    convert(args.annotation_file, args.result_file, args.result_upload_file)


if __name__ == "__main__":
    main()
