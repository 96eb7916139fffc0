import json
from collections.abc import Callable
from pathlib import Path

import pytest

from llava.eval import eval_mmmu
from llava.eval.eval_mmmu import open_is_right, parse_choice, parse_open, subject_of
from llava.eval.scores import read_scores

OPTIONS = ["a red bus", "a green tram", "nothing"]


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B", "B"),
        ("B.", "B"),
        ("(A) or rather (C)", "C"),  # the last in brackets
        ("(A), not B", "A"),  # brackets before bare letters
        ("A or B then", "B"),
        ("In the picture I can see a green tram", "B"),  # its text, in more than five words
        ("what I see: a Red Bus and nothing", "C"),  # the option that comes last
    ],
)
def test_choices_are_read_by_the_official_rule(answer: str, letter: str) -> None:
    assert parse_choice(answer, OPTIONS, "validation_Art_1") == letter


def test_a_choice_that_names_none_is_random_but_repeatable() -> None:
    letters = [parse_choice("a green tram", OPTIONS, f"validation_Art_{number}") for number in range(40)]
    assert letters == [parse_choice("hm", OPTIONS, f"validation_Art_{number}") for number in range(40)]
    assert set(letters) == {"A", "B", "C"}


@pytest.mark.parametrize(
    ("answer", "truths", "right"),
    [
        ("5", ["5"], True),
        ("The answer is 1,234.5.", ["1234.50"], True),
        ("x = 3.14159", ["3.14"], True),
        ("x = 3.2", ["3.14"], False),
        ("So the animal is a House Sparrow", ["sparrow"], True),
        ("first 7\nthus it could be 8", ["7"], False),  # only lines with an indicator have key phrases
        ("first 7 and 8", ["7"], True),  # without any, the whole answer counts
        ("2e3", ["2000"], True),
        ("cat", ["a"], False),  # one letter needs a blank at its side
        ("a cat", ["a"], True),
        ("blue", ["red", "blue"], True),
        ("result =", ["result ="], True),  # nothing behind the indicator: the whole answer
    ],
)
def test_open_answers_are_read_by_the_official_rule(answer: str, truths: list[str], right: bool) -> None:
    assert open_is_right(parse_open(answer), truths) is right


def test_subjects_are_in_the_names() -> None:
    assert subject_of("validation_Art_Theory_12") == "Art_Theory"


def question(name: str, answer: object, kind: str = "multiple-choice") -> dict[str, object]:
    return {"question_id": name, "question_type": kind, "answer": answer, "options": OPTIONS}


def test_accuracy_by_discipline_and_the_official_file(
    tmp_path: Path, write_lines: Callable[..., str], run_main: Callable[..., str], refusal: Callable[..., str]
) -> None:
    questions = write_lines(
        "q.jsonl",
        question("validation_Art_1", "B"),
        question("validation_Math_1", "C"),
        question("validation_Math_2", ["7", "seven"], "open"),
    )
    texts = {"validation_Art_1": "B", "validation_Math_1": "A", "validation_Math_2": "It is seven."}
    result = write_lines("a.jsonl", *({"question_id": name, "text": text} for name, text in texts.items()))
    flags = ("--question-file", questions, "--output-file", tmp_path / "o" / "total.json")
    out = run_main(eval_mmmu, *flags, "--result-file", result).splitlines()
    assert out[0].split()[:4] == ["Art", "and", "Design", "100.00%"]
    assert out[3].split()[:2] == ["Math", "50.00%"]
    assert out[-1].startswith("Accuracy: 66.67% ± ")
    official = json.loads((tmp_path / "o" / "total.json").read_text())
    assert official == {"validation_Art_1": "B", "validation_Math_1": "A", "validation_Math_2": "It is seven."}
    assert read_scores(result)["mmmu_accuracy"].groups[""]["validation_Math_1"] == (0.0, 1.0)
    short = write_lines("s.jsonl", {"question_id": "validation_Art_1", "text": "B"})
    assert "no answer to 2 of 3 questions, first validation_Math_1" in refusal(
        eval_mmmu, *flags, "--result-file", short
    )
