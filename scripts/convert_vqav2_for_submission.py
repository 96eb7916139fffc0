"""Answers to VQAv2 -> the list that EvalAI takes: ``{"question_id", "answer"}``, normalised, for all test questions."""

import argparse
import json
from pathlib import Path

from llava.errors import exit_on_user_error
from llava.eval.m4c_evaluator import EvalAIAnswerProcessor
from llava.eval.records import read_json_lines, require_keys, write_json

TEST_SPLIT = "llava_vqav2_mscoco_test2015.jsonl"


def read_readable(path: Path) -> tuple[dict[str, str], int]:
    """Answers by question, and the number of lines that are no JSON, as a run that was killed may leave one."""
    answers, damaged = {}, 0
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
            answers[str(record["question_id"])] = record["text"]
        except (json.JSONDecodeError, KeyError):
            damaged += 1
    return answers, damaged


def convert(folder: Path, ckpt: str, split: str) -> None:
    """Writes ``<folder>/answers_upload/<split>/<ckpt>.json``; a question without an answer gets an empty one.

    Raises UserError when the answers or the test questions are missing or empty.
    """
    source = folder / "answers" / split / ckpt / "merge.jsonl"
    questions = read_json_lines(str(folder / TEST_SPLIT))
    require_keys(questions, ("question_id",), str(folder / TEST_SPLIT))
    if not source.is_file() or not source.stat().st_size:
        read_json_lines(str(source))  # says what is wrong
    answers, damaged = read_readable(source)
    print(f"total results: {len(answers)}, total split: {len(questions)}, error_line: {damaged}")
    normalise = EvalAIAnswerProcessor()
    upload = [
        {
            "question_id": question["question_id"],
            "answer": normalise(answers.get(str(question["question_id"]), "")),
        }
        for question in questions
    ]
    write_json(folder / "answers_upload" / split / f"{ckpt}.json", upload)


@exit_on_user_error
def main() -> None:
    parser = argparse.ArgumentParser(description="Turn answers to VQAv2 into a file for EvalAI.")
    parser.add_argument("--dir", type=str, default="./playground/data/eval/vqav2", help="the benchmark's folder")
    parser.add_argument("--ckpt", type=str, required=True, help="how the answers folder calls the checkpoint")
    parser.add_argument("--split", type=str, required=True, help="the questions that were answered")
    args = parser.parse_args()
    convert(Path(args.dir).expanduser(), args.ckpt, args.split)


if __name__ == "__main__":
    main()
