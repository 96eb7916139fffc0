"""MMMU: ``python -m llava.eval.eval_mmmu --question-file questions.jsonl --result-file ... --output-file ...``.

Yue et al., "MMMU: A Massive Multi-discipline Multimodal Understanding and Reasoning Benchmark for Expert AGI" (CVPR
2024), section 4.1 and the official parsing: of a multiple-choice answer the last ``(X)`` counts, else the last ``X``
between blanks, else, in answers of more than five words, the option whose text comes last; else a random option. An
open answer is right when one of its key phrases contains the answer's text, or a number of it equals it to two
decimals.

Differences from the official program: the random option is drawn from the question's name, so that the order of the
questions does not matter. Questions come from ``scripts/convert_mmmu_to_llava.py``. ``--output-file`` gets the
decisions as ``{"validation_Art_1": "B", ...}``, which the official ``main_eval_only.py`` reads.
"""

import argparse
import random
import re
from collections.abc import Sequence
from typing import Any

from llava.errors import exit_on_user_error
from llava.eval.answer_forms import LETTERS
from llava.eval.records import read_answers, read_json_lines, require_answers, require_keys, write_json
from llava.eval.scores import Metric, Score, record_scores

METRIC = "mmmu_accuracy"
SEED = 42
MULTIPLE_CHOICE = "multiple-choice"
DISCIPLINES = {
    "Art and Design": ("Art", "Art_Theory", "Design", "Music"),
    "Business": ("Accounting", "Economics", "Finance", "Manage", "Marketing"),
    "Science": ("Biology", "Chemistry", "Geography", "Math", "Physics"),
    "Health and Medicine": (
        *("Basic_Medical_Science", "Clinical_Medicine", "Diagnostics_and_Laboratory_Medicine"),
        *("Pharmacy", "Public_Health"),
    ),
    "Humanities and Social Science": ("History", "Literature", "Sociology", "Psychology"),
    "Tech and Engineering": (
        *("Agriculture", "Architecture_and_Engineering", "Computer_Science", "Electronics", "Energy_and_Power"),
        *("Materials", "Mechanical_Engineering"),
    ),
}
# What comes before an open answer's result; in the last line an equals sign does, too.
INDICATORS = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")
NUMBER_FORMS = (
    r"-?\b\d{1,3}(?:,\d{3})+\b",
    r"-?\d+(?:\.\d+)?[eE][+-]?\d+",
    r"-?(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])",
)


def parse_choice(answer: str, options: Sequence[str], name: str) -> str:
    """The letter that an answer to a multiple-choice question means; a random one when it names none."""
    text = answer
    for mark in ",.!?;:'":
        text = text.strip(mark)
    text = f" {text} "
    letters = LETTERS[: len(options)]
    for form in ("({})", " {} "):
        places = {letter: text.rfind(form.format(letter)) for letter in letters}
        if max(places.values()) >= 0:
            return max(places, key=lambda letter: places[letter])
    if len(text.split()) > 5:
        places = {letter: text.lower().rfind(option.lower()) for letter, option in zip(letters, options, strict=True)}
        if max(places.values()) >= 0:
            return max(places, key=lambda letter: places[letter])
    return random.Random(f"{SEED} {name}").choice(letters)


def normalise(text: str) -> list[str | float]:
    """A number rounded to two decimals, or the text in lower case; one letter only beside a blank."""
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except ValueError:
        text = text.lower()
        return [f" {text}", f"{text} "] if len(text) == 1 else [text]


def parse_open(answer: str) -> list[str | float]:
    """Everything that an open answer may mean: its key phrases, and the numbers in them."""
    whole = answer.strip().strip(".").lower()
    lines = whole.split("\n")
    phrases = []
    for line in lines:
        indicators = (*INDICATORS, "=") if line is lines[-1] else INDICATORS
        shortest = ""
        for indicator in indicators:
            tail = line.split(indicator)[-1].strip()
            if indicator in line and (not shortest or len(tail) < len(shortest)):
                shortest = tail  # may be empty, and then gives way to the next
        if shortest and shortest not in ":,.!?;'":
            phrases.append(shortest)
    phrases = phrases or [whole]
    numbers = [number for phrase in phrases for form in NUMBER_FORMS for number in re.findall(form, phrase)]
    return [value for text in (*phrases, *numbers) for value in normalise(text)]


def open_is_right(meanings: Sequence[str | float], answers: Sequence[str]) -> bool:
    """Whether one meaning contains an answer's text, or equals its number."""
    truths = [value for answer in answers for value in normalise(answer)]
    return any(
        any(isinstance(truth, str) and truth in meaning for truth in truths)
        if isinstance(meaning, str)
        else meaning in truths
        for meaning in meanings
    )


def subject_of(name: str) -> str:
    """``validation_Art_Theory_12`` -> ``Art_Theory``."""
    return name.split("_", 1)[-1].rsplit("_", 1)[0]


def evaluate(
    questions: Sequence[dict[str, Any]], answers: dict[str, dict[str, Any]]
) -> tuple[dict[str, bool], dict[str, str]]:
    """Whether each question was answered right, and what was understood."""
    correct, decisions = {}, {}
    for question in questions:
        name, text = str(question["question_id"]), answers[str(question["question_id"])]["text"]
        truths = question["answer"] if isinstance(question["answer"], list) else [question["answer"]]
        if question["question_type"] == MULTIPLE_CHOICE:
            decisions[name] = parse_choice(text, question["options"], name)
            correct[name] = decisions[name] in truths
        else:
            decisions[name] = text
            correct[name] = open_is_right(parse_open(text), truths)
    return correct, decisions


def report(correct: dict[str, bool]) -> None:
    """Accuracy by discipline and subject."""
    for discipline, subjects in DISCIPLINES.items():
        lines = []
        for subject in subjects:
            values = [right for name, right in correct.items() if subject_of(name) == subject]
            if values:
                lines.append((f"  {subject}", values))
        if lines:
            everything = [right for _, values in lines for right in values]
            for title, values in [(discipline, everything), *lines]:
                print(f"{title:<40} {Score.of(values)}")


@exit_on_user_error
def main() -> None:
    parser = argparse.ArgumentParser(prog="llava.eval.eval_mmmu", description="Score answers to MMMU.")
    parser.add_argument("--question-file", type=str, required=True, help="converted questions with their answers")
    parser.add_argument("--result-file", type=str, required=True, help="answers, JSON Lines")
    parser.add_argument("--output-file", type=str, help="the decisions in the official format go here")
    args = parser.parse_args()
    questions = read_json_lines(args.question_file)
    require_keys(questions, ("question_id", "question_type", "answer", "options"), args.question_file)
    answers = read_answers(args.result_file)
    require_answers(answers, [str(question["question_id"]) for question in questions], args.result_file)
    correct, decisions = evaluate(questions, answers)
    if args.output_file:
        write_json(args.output_file, decisions, indent=2)
    report(correct)
    print(f"Accuracy: {record_scores(args.result_file, {METRIC: Metric.mean(correct)})[METRIC]}")


if __name__ == "__main__":
    main()
