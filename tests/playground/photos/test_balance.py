import random
from collections import Counter

import pytest

from playground.photos.balance import Blind, Candidate, balanced, even_shares, guessing, interleaved
from playground.photos.questions import Question


def question(
    answer: str, group: str = "presence: cow", text: str = "Is there a cow?", kind: str = "presence"
) -> Question:
    return Question(kind, group, text, answer, "", "verify", "obj", (), frozenset())


def pool(**numbers: int) -> list[Candidate]:
    return [(str(place), question(answer)) for answer, number in numbers.items() for place in range(number)]


def answers(candidates: list[Candidate]) -> Counter[str]:
    return Counter(asked.answer for _, asked in candidates)


@pytest.mark.parametrize("length", [2, 10, 12])
def test_any_beginning_of_a_group_is_balanced(length: int) -> None:
    order = interleaved(pool(yes=6, no=40), random.Random(0))
    assert len(order) == 12
    assert answers(order[:length]) == {"yes": length // 2, "no": length // 2}


def test_rare_answers_run_out_but_do_not_starve_the_others() -> None:
    assert answers(interleaved(pool(red=9, blue=5, pink=1), random.Random(0))) == {"red": 5, "blue": 5, "pink": 1}


def test_a_group_with_one_answer_is_not_asked() -> None:
    assert interleaved(pool(no=30), random.Random(0)) == []


@pytest.mark.parametrize(
    ("capacities", "size", "shares"),
    [((5, 100, 100), 90, [5, 42, 43]), ((100, 5), 4, [2, 2]), ((3, 3), 10, [3, 3]), ((), 4, [])],
)
def test_shares_are_even_up_to_what_each_can_take(capacities: tuple[int, ...], size: int, shares: list[int]) -> None:
    assert even_shares(capacities, size) == shares


def test_kinds_families_and_groups_get_equal_parts() -> None:
    candidates = [
        (str(number), question(answer, group, kind=kind))
        for kind, groups in {"presence": ("a: x",), "relation": ("b: x", "b: y", "b: z", "c: x")}.items()
        for group in groups
        for answer in ("yes", "no")
        for number in range(50)
    ]
    chosen = balanced(candidates, 240, random.Random(0))  # 24 for each of ten kinds, of which two are there
    assert Counter(asked.group for _, asked in chosen) == {"a: x": 24, "b: x": 4, "b: y": 4, "b: z": 4, "c: x": 12}
    assert answers(chosen) == {"yes": 24, "no": 24}


def test_blind_guesses_the_text_then_the_group_then_nothing() -> None:
    often = [question("no", text="Is there a fox?")] * 4 + [question("yes", text="Is there a pig?")] * 9
    blind = Blind(often)
    assert blind.guess(question("yes", text="Is there a fox?")) == "no"
    assert blind.guess(question("no", text="Is there a bus?")) == "yes"
    assert blind.guess(question("no", group="presence: bus")) is None


def test_alternatives_count_by_their_place() -> None:
    larger = Question(
        "comparison", "larger:", "Which?", "cow", "", "compare", "attr", (), frozenset(), options=("pig", "cow")
    )
    assert larger.slot == "second"


def test_guessing_by_kind_and_in_all() -> None:
    training = [question("yes")] * 6 + [question("no")] * 5
    table = guessing(training, [question("yes"), question("yes"), question("no"), question("yes")])
    assert table["presence"] == table["all"]
    assert (table["all"].questions, table["all"].chance, table["all"].blind) == (4, 0.5, 0.75)
