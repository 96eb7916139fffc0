"""POPE: ``python -m llava.eval.eval_pope --annotation-dir coco --question-file ... --result-file ...``.

Accuracy, precision, recall, F1 and the share of yes over yes-or-no questions on objects (Li et al., "Evaluating Object
Hallucination in Large Vision-Language Models", EMNLP 2023), for each way of choosing the objects. "Yes" is the positive
class, and every answer that does not say no counts as yes. What papers print is the mean F1 over the three categories.
"""

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava.errors import UserError, exit_on_user_error
from llava.eval.records import read_answers, read_json_lines, require_answers, require_keys
from llava.eval.scores import Metric, record_scores

NAME = re.compile(r"coco_pope_(\w+)\.json")
RULE = "=" * 36


def says_yes(text: str) -> bool:
    """The decision in an answer: its first sentence is a yes unless one of its words is No, no or not."""
    words = text.split(".")[0].replace(",", "").split(" ")
    return not {"No", "no", "not"} & set(words)


@dataclass(frozen=True)
class Counts:
    """Decisions by their kind; ratios without a denominator are 0."""

    tp: int
    fp: int
    tn: int
    fn: int

    @classmethod
    def of(cls, decisions: Sequence[tuple[bool, bool]]) -> "Counts":
        """From (predicted yes, is yes)."""
        kinds = ((True, True), (True, False), (False, False), (False, True))
        return cls(*(sum(decision == kind for decision in decisions) for kind in kinds))

    @property
    def n(self) -> int:
        return self.tp + self.fp + self.tn + self.fn

    @property
    def accuracy(self) -> float:
        return _ratio(self.tp + self.tn, self.n)

    @property
    def precision(self) -> float:
        return _ratio(self.tp, self.tp + self.fp)

    @property
    def recall(self) -> float:
        return _ratio(self.tp, self.tp + self.fn)

    @property
    def f1(self) -> float:
        return _ratio(2 * self.precision * self.recall, self.precision + self.recall)

    @property
    def yes_ratio(self) -> float:
        return _ratio(self.tp + self.fp, self.n)


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def read_labels(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """The annotations by category. Raises UserError when anything else lies in the folder."""
    if not folder.is_dir():
        raise UserError(f"{folder} is not there; it must be the folder of coco_pope_<category>.json: check the path")
    labels = {}
    for file in sorted(folder.iterdir()):
        match = NAME.fullmatch(file.name)
        if match is None:
            raise UserError(f"{file} is no coco_pope_<category>.json; --annotation-dir must hold nothing else: move it")
        labels[match[1]] = read_json_lines(str(file))
        require_keys(labels[match[1]], ("label",), str(file))
    if not labels:
        raise UserError(f"{folder} is empty; it must hold coco_pope_<category>.json")
    return labels


def labels_of(questions: Sequence[dict[str, Any]], labels: Sequence[dict[str, Any]], category: str) -> list[bool]:
    """Whether yes is right, for each question: by its picture and text where labels have them, else by its place.

    Raises UserError when places are to be used and there are more of one than of the other.
    """
    by_content = {(label["image"], label["text"]): label for label in labels if {"image", "text"} <= label.keys()}
    keys = [(question.get("image"), question.get("text", "").split("\n")[0]) for question in questions]
    if len(by_content) == len(labels) and all(key in by_content for key in keys):
        return [by_content[key]["label"] != "no" for key in keys]
    if len(questions) != len(labels):
        raise UserError(
            f"category {category} has {len(labels)} labels for {len(questions)} questions, and they do not match by "
            "picture and text; give the annotations of these questions"
        )
    if by_content:
        print(f"note: labels of {category} do not match the questions by picture and text; they are taken in order")
    return [label["label"] != "no" for label in labels]


def report(category: str, counts: Counts) -> None:
    """Prints one category's block."""
    print(f"Category: {category}, # samples: {counts.n}")
    print("TP\tFP\tTN\tFN\t")
    print(f"{counts.tp}\t{counts.fp}\t{counts.tn}\t{counts.fn}")
    shares = (counts.accuracy, counts.precision, counts.recall, counts.f1, counts.yes_ratio)
    for name, share in zip(("Accuracy", "Precision", "Recall", "F1 score", "Yes ratio"), shares, strict=True):
        print(f"{name}: {share}")
    line = (counts.f1, counts.accuracy, counts.precision, counts.recall, counts.yes_ratio)
    print(", ".join(f"{share:.3f}" for share in line))
    print(RULE)


@exit_on_user_error
def main() -> None:
    parser = argparse.ArgumentParser(prog="llava.eval.eval_pope", description="Score answers to POPE.")
    parser.add_argument("--annotation-dir", type=str, required=True, help="folder of coco_pope_<category>.json")
    parser.add_argument("--question-file", type=str, required=True, help="the questions, with their category")
    parser.add_argument("--result-file", type=str, required=True, help="answers, JSON Lines")
    args = parser.parse_args()
    labels = read_labels(Path(args.annotation_dir).expanduser())
    questions = read_json_lines(args.question_file)
    require_keys(questions, ("question_id", "category"), args.question_file)
    answers = read_answers(args.result_file)
    require_answers(answers, [str(question["question_id"]) for question in questions], args.result_file)

    decisions: dict[str, dict[str, tuple[bool, bool]]] = {}
    for category in labels:
        asked = [question for question in questions if question["category"] == category]
        names = [str(question["question_id"]) for question in asked]
        right = labels_of(asked, labels[category], category)
        decisions[category] = {
            name: (says_yes(answers[name]["text"]), yes) for name, yes in zip(names, right, strict=True)
        }
        report(category, Counts.of(list(decisions[category].values())))
    correct = {
        category: {name: (float(predicted == yes), 1.0) for name, (predicted, yes) in units.items()}
        for category, units in decisions.items()
    }
    record_scores(args.result_file, {"pope_f1": Metric.f1(decisions), "pope_accuracy": Metric(correct)})


if __name__ == "__main__":
    main()
