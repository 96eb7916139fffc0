import random

import pytest

from playground.photos.questions import Lexicon, Question, a, ask, plural
from playground.photos.scenes import Scene, Thing

LEXICON = Lexicon(
    names={"mammal": ("cow", "fox"), "fruit": ("apple", "orange"), "ball": ("ball",)},
    colors={
        "cow": ("brown", "white"),
        "mammal": ("brown", "white"),
        "apple": ("green", "red"),
        "fruit": ("orange", "red"),
    },
    allows=lambda one, other: {one, other} != {"cow", "orange"},
)


def thing(number: int, name: str, category: str, x: int, y: int, side: int = 60, color: str | None = None) -> Thing:
    source = "sign/stop" if name == "sign" else f"{category}/{name}"
    return Thing(f"7{number}", name, category, source, color, x, y, side, side, side * side)


COW = thing(1, "cow", "mammal", 0, 0, 90, "white")
APPLE = thing(2, "apple", "fruit", 150, 60, 50, "red")
STOP = thing(3, "sign", "sign", 70, 150)
YAK = thing(4, "yak", "mammal", 160, 160)


def asked(*things: Thing) -> dict[str, Question]:
    questions: dict[str, Question] = {}
    for seed in range(5):
        questions |= {question.text: question for question in ask(Scene("7", things), LEXICON, random.Random(seed))}
    return questions


@pytest.mark.parametrize(
    ("text", "answer", "things"),
    [
        ("Is there a cow in the picture?", "yes", ("71",)),
        ("Is there a fox in the picture?", "no", ()),
        ("Which fruit is in the picture?", "apple", ("72",)),
        ("What is on the far left?", "cow", ("71",)),
        ("What kind of thing is at the very top?", "mammal", ("71",)),
        ("What kind of thing is right of the sign?", "fruit", ("72", "73")),
        ("What color is the apple?", "red", ("72",)),
        ("Is the cow brown?", "no", ("71",)),
        ("Is the mammal brown or white?", "white", ("71",)),
        ("What color is the thing on the far right?", "red", ("72",)),
        ("How many balls are there?", "0", ()),
        ("How many things are there?", "3", ("71", "72", "73")),
        ("Is the apple below the sign?", "no", ("72", "73")),
        ("Is the cow left of the apple?", "yes", ("71", "72")),
        ("What is above the apple?", "cow", ("71", "72")),
        ("Which is larger, the apple or the cow?", "cow", ("72", "71")),
        ("Is the apple larger than the cow?", "no", ("72", "71")),
        ("Is the apple on the left or on the right?", "right", ("72",)),
        ("Which is in the picture, an apple or an orange?", "apple", ("72",)),
        ("Are there both a cow and an apple?", "yes", ("71", "72")),
        ("Are there both an apple and a fox?", "no", ("72",)),
        ("Is there either a fox or a cow?", "yes", ("71",)),
        ("What does the sign say?", "stop", ("73",)),
        ("Does the sign say stop?", "yes", ("73",)),
    ],
)
def test_answers_and_what_they_are_about(text: str, answer: str, things: tuple[str, ...]) -> None:
    question = asked(COW, APPLE, STOP)[text]
    assert question.answer == answer
    assert question.things == things


def test_the_words_of_a_question_are_annotated_by_their_number() -> None:
    questions = asked(COW, APPLE, STOP)
    assert questions["Which is larger, the apple or the cow?"].annotations == {"4": "72", "7": "71"}
    assert questions["How many things are there?"].annotations == {"2": "71,72,73"}
    assert questions["What is above the apple?"].annotations == {"0": "71", "4": "72"}


def test_words_that_stand_for_several_are_not_used_for_one() -> None:
    texts = asked(COW, YAK, thing(5, "cow", "mammal", 80, 80, color="brown"))
    assert not any("the cow" in text or "the mammal" in text for text in texts)
    assert texts["How many mammals are there?"].answer == "3"


def test_names_that_training_does_not_know_are_never_said() -> None:
    questions = asked(APPLE, YAK)
    assert not any("yak" in text or question.answer == "yak" for text, question in questions.items())
    assert questions["What kind of thing is at the very bottom?"].answer == "mammal"


def test_names_that_are_kept_apart_are_never_said_together() -> None:
    orange = thing(6, "orange", "fruit", 150, 60, color="orange")
    for text, question in asked(COW, orange, APPLE).items():
        assert not ("cow" in text + question.answer and "orange" in text.replace("orange?", "") + question.answer), text


def test_the_color_of_a_thing_named_like_its_color_is_not_asked() -> None:
    texts = asked(thing(6, "orange", "fruit", 150, 60, color="orange"))
    assert "What color is the orange?" not in texts
    assert texts["What color is the fruit?"].answer == "orange"


def test_what_is_not_clear_is_not_asked() -> None:
    near = thing(2, "apple", "fruit", 20, 100, 80, "red")
    texts = asked(COW, near)
    assert not any("left" in text and "cow" in text and "apple" in text for text in texts)
    assert not any("larger" in text for text in texts)
    assert "What is on the far left?" not in texts
    assert texts["Is the apple below the cow?"].answer == "yes"


def test_a_question_entails_what_rests_on_its_facts() -> None:
    questions = asked(COW, APPLE, STOP)

    def entails(one: str, other: str) -> bool:
        return questions[other].rests_on <= questions[one].states

    assert entails("What color is the apple?", "Is the apple red?")
    assert entails("What color is the apple?", "Is there an apple in the picture?")
    assert entails("Is the cow left of the apple?", "Is the apple right of the cow?")
    assert entails("Are there both a cow and an apple?", "Is there a cow in the picture?")
    assert not entails("Is there an apple in the picture?", "What color is the apple?")
    assert not entails("Is there a fox in the picture?", "Is there a cow in the picture?")


def test_programs_refer_to_earlier_steps() -> None:
    for question in asked(COW, APPLE, STOP).values():
        for place, (_, _, dependencies) in enumerate(question.steps):
            assert all(dependency < place for dependency in dependencies)


def test_english() -> None:
    assert [a("owl"), a("cow"), a("garlic"), a("apple", "[apple](1)")] == ["an owl", "a cow", "garlic", "an [apple](1)"]
    assert [plural("bird"), plural("fish")] == ["birds", "fish"]
