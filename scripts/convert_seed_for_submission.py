"""Answers to SEED-Bench -> accuracies by type, for pictures and for videos, and the list that its server takes.

An answer is right when it is exactly the letter (Li et al., "SEED-Bench: Benchmarking Multimodal LLMs with Generative
Comprehension", CVPR 2024, rank likelihoods; LLaVA compares letters). With ``--first-letter``, ``B.`` and ``(B)`` are
the letter, too.
"""

import argparse
from collections.abc import Iterable
from typing import Any

from llava.errors import UserError, exit_on_user_error
from llava.eval.answer_forms import letter_of
from llava.eval.records import read_answers, read_json, write_json_lines
from llava.eval.scores import Metric, record_scores


def number_if_it_is_one(name: Any) -> Any:
    """Ids are compared as whole numbers where they are some."""
    try:
        return int(name)
    except ValueError:
        return name


def percent(values: Iterable[bool]) -> str:
    """A share, or ``nan%`` of nothing."""
    values = list(values)
    return f"{100 * sum(values) / len(values) if values else float('nan'):.2f}%"


def score(questions: list[dict[str, Any]], answers: dict[Any, str], first_letter: bool) -> dict[Any, bool]:
    """Whether each question that was answered was answered right."""
    right = {}
    for question in questions:
        name = number_if_it_is_one(question["question_id"])
        if name in answers:
            letter = letter_of(answers[name], "ABCD") if first_letter else answers[name]
            right[name] = letter == question["answer"]
    return right


def convert(annotation_file: str, result_file: str, upload_file: str, first_letter: bool) -> None:
    """Prints the accuracies, keeps them, and writes the list.

    Raises UserError when an answer is to a question that the annotations lack.
    """
    benchmark = read_json(annotation_file, "SEED-Bench.json")
    questions = {number_if_it_is_one(question["question_id"]): question for question in benchmark["questions"]}
    answers = {number_if_it_is_one(name): answer["text"] for name, answer in read_answers(result_file).items()}
    unknown = [name for name in answers if name not in questions]
    if unknown:
        raise UserError(f"{annotation_file} has no question {unknown[0]!r}; the answers are of another question set")
    right = score(list(questions.values()), answers, first_letter)

    for title, kind in benchmark["question_type"].items():
        of_type = [value for name, value in right.items() if questions[name]["question_type_id"] == kind]
        if of_type:
            print(f"{title}: {percent(of_type)}")
    print(f"Total accuracy: {percent(right.values())}")
    metrics = {"seed_accuracy": Metric.mean({str(name): value for name, value in right.items()})}
    for medium in ("image", "video"):
        of_medium = {str(name): value for name, value in right.items() if questions[name]["data_type"] == medium}
        print(f"{medium} accuracy: {percent(of_medium.values())}")
        if of_medium:
            metrics[f"seed_{medium}_accuracy"] = Metric.mean(of_medium)
    record_scores(result_file, metrics)

    write_json_lines(upload_file, ({"question_id": name, "prediction": answers[name]} for name in right))


@exit_on_user_error
def main() -> None:
    parser = argparse.ArgumentParser(description="Score answers to SEED-Bench and make its upload file.")
    parser.add_argument("--annotation-file", type=str, required=True, help="SEED-Bench.json")
    parser.add_argument("--result-file", type=str, required=True, help="answers, JSON Lines")
    parser.add_argument("--result-upload-file", type=str, required=True, help="where the list goes, JSON Lines")
    parser.add_argument("--first-letter", action="store_true", help="take the letter that an answer begins with")
    args = parser.parse_args()
    convert(args.annotation_file, args.result_file, args.result_upload_file, args.first_letter)


if __name__ == "__main__":
    main()
