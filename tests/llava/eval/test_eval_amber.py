import json
from collections.abc import Callable
from pathlib import Path

import pytest

from llava.errors import UserError
from llava.eval import eval_amber
from llava.eval.amber_objects import Words
from llava.eval.scores import read_scores

ANNOTATIONS = [
    {"id": 1, "type": "generative", "truth": ["dog", "tree"], "hallu": ["cat", "bird"]},
    {"id": 2, "type": "generative", "truth": ["dog"], "hallu": ["cat"]},
    {"id": 3, "type": "discriminative-hallucination", "truth": "no"},
    {"id": 4, "type": "discriminative-attribute-state", "truth": "yes"},
    {"id": 5, "type": "discriminative-attribute-number", "truth": "no"},
    {"id": 6, "type": "relation", "truth": "no"},
]
DECISIONS = {"3": "No.", "4": "No", "5": "Yes", "6": "I cannot tell"}


@pytest.fixture
def annotation(tmp_path: Path) -> Path:
    (tmp_path / "annotations.json").write_text(json.dumps(ANNOTATIONS))
    (tmp_path / "relation.json").write_text(
        json.dumps({"dog": ["puppy"], "tree": [], "cat": ["kitten"], "bird": [], "eagle": [], "photo": []})
    )
    (tmp_path / "safe_words.txt").write_text("photo\n")
    return tmp_path / "annotations.json"


def lines(texts: dict[str, str]) -> list[dict[str, object]]:
    return [{"question_id": int(name), "text": text} for name, text in texts.items()]


def test_decisions_are_scored_by_how_hallucinations_are_seen_through(
    annotation: Path, write_lines: Callable[..., str], run_main: Callable[..., str]
) -> None:
    """No said and meant: question 3. No said: 3 and 4. No meant: 3, 5 and 6. Right: 3 alone."""
    result = write_lines("a.jsonl", *lines(DECISIONS))
    output = annotation.parent / "responses.json"
    out = run_main(eval_amber, "--annotation", annotation, "--result-file", result, "--output-file", output)
    scores = {name: metric.score().value for name, metric in read_scores(result).items()}
    assert scores["amber_accuracy"] == 25.0
    assert scores["amber_precision"] == 50.0
    assert scores["amber_recall"] == pytest.approx(100 / 3)
    assert scores["amber_f1"] == pytest.approx(40.0)  # 2 * 1 / (2 + 3)
    assert (scores["amber_existence_f1"], scores["amber_attribute_accuracy"]) == (100.0, 0.0)
    assert scores["amber_relation_recall"] == 0.0
    assert out.splitlines()[-1] == (
        "CHAIR, Cover, Hal, Cog and the AMBER score are absent: no description was answered"
    )
    responses = [entry["response"] for entry in json.loads(output.read_text())]
    assert responses == ["No", "No", "Yes", "I cannot tell"]


def synonyms(first: str, second: str) -> bool:
    return first == second or {first, second} == {"eagle", "bird"}


def test_descriptions_are_scored_by_their_objects(
    annotation: Path, write_lines: Callable[..., str], run_main: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eval_amber, "load_words", lambda: Words(str.split, synonyms))
    texts = {
        # puppy stands for the dog, kitten for a likely cat; an eagle is like a likely bird; a photo is never
        # made up, and sky is no word of the vocabulary
        "1": "puppy kitten eagle sky photo",
        "2": "dog dog",
    }
    result = write_lines("a.jsonl", *lines(texts | DECISIONS))
    words = (annotation.parent / "relation.json", annotation.parent / "safe_words.txt")
    flags = ("--annotation", annotation, "--word-association", words[0], "--safe-words", words[1])
    out = run_main(eval_amber, *flags, "--result-file", result)
    scores = {name: metric.score().value for name, metric in read_scores(result).items()}
    assert scores["amber_chair"] == pytest.approx(100 / 3)  # kitten, eagle of puppy, kitten, eagle, photo, dog, dog
    assert scores["amber_cover"] == pytest.approx(200 / 3)  # dog and dog of dog, tree and dog
    assert scores["amber_hal"] == 50.0
    assert scores["amber_cog"] == pytest.approx(200 / 3)  # cat and bird of cat, bird and cat
    assert out.splitlines()[-1] == "AMBER score: 53.33"  # (100 - 33.33 + 40) / 2


def test_descriptions_are_absent_where_their_tools_are_and_it_is_said(
    annotation: Path, write_lines: Callable[..., str], run_main: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    result = write_lines("a.jsonl", *lines({"1": "a dog"} | DECISIONS))
    flags = ("--annotation", annotation, "--result-file", result)
    assert "are absent: --word-association and --safe-words are needed" in run_main(eval_amber, *flags)

    def no_tools() -> Words:
        raise UserError("there is no spaCy")

    monkeypatch.setattr(eval_amber, "load_words", no_tools)
    words = (annotation.parent / "relation.json", annotation.parent / "safe_words.txt")
    out = run_main(eval_amber, *flags, "--word-association", words[0], "--safe-words", words[1])
    assert "are absent: there is no spaCy" in out
    assert read_scores(result)["amber_accuracy"].score().n == 4


def test_answers_of_another_set_are_refused(
    annotation: Path, write_lines: Callable[..., str], refusal: Callable[..., str]
) -> None:
    result = write_lines("a.jsonl", {"question_id": 77, "text": "No"})
    assert "answers 77, which" in refusal(eval_amber, "--annotation", annotation, "--result-file", result)
