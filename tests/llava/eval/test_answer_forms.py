import pytest

from llava.eval.answer_forms import letter_of, list_options, yes_or_no


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B", "B"),
        (" B.", "B"),
        ("(C) a dog", "C"),
        ("A: a cat", "A"),
        ("D\nbecause", "D"),
        ("Apple", None),
        ("B's", None),
        ("E", None),
        ("the answer is B", None),
        ("", None),
    ],
)
def test_a_letter_is_what_an_answer_begins_with(answer: str, letter: str | None) -> None:
    assert letter_of(answer, "ABCD") == letter


@pytest.mark.parametrize(
    ("answer", "decision"),
    [("Yes", "yes"), ("no, it is not", "no"), ('"No."', "no"), ("Nothing", None), ("It is not", None), ("", None)],
)
def test_yes_or_no_is_what_an_answer_begins_with(answer: str, decision: str | None) -> None:
    assert yes_or_no(answer) == decision


def test_options_are_listed_by_letter() -> None:
    assert list_options(["red", "blue"]) == "A. red\nB. blue"
