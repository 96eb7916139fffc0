from collections.abc import Callable
from pathlib import Path

import pytest

from llava.eval import eval_pope
from llava.eval.eval_pope import Counts, says_yes
from llava.eval.scores import read_scores

TEXTS = ["Yes", "No, there is not.", "NO", "It is. not here", "Yes, no", "no"]
LABELS = ["yes", "no", "no", "yes", "no", "yes"]


def test_every_answer_that_does_not_say_no_is_a_yes() -> None:
    assert [says_yes(text) for text in TEXTS] == [True, False, True, True, False, False]


def test_ratios_without_a_denominator_are_zero() -> None:
    counts = Counts.of([(False, False)])
    assert (counts.accuracy, counts.precision, counts.recall, counts.f1, counts.yes_ratio) == (1.0, 0.0, 0.0, 0.0, 0.0)


def test_upstreams_block_is_printed_and_the_mean_f1_kept(
    tmp_path: Path, write_lines: Callable[..., str], run_main: Callable[..., str]
) -> None:
    (tmp_path / "coco").mkdir()
    write_lines("coco/coco_pope_popular.json", *({"label": label} for label in LABELS))
    write_lines("coco/coco_pope_random.json", {"label": "yes"})
    ids = range(len(TEXTS))
    questions = [{"question_id": i, "category": "popular"} for i in ids] + [{"question_id": 9, "category": "random"}]
    answers = [{"question_id": i, "text": TEXTS[i]} for i in reversed(ids)] + [{"question_id": 9, "text": "Yes"}]
    result = write_lines("a.jsonl", *answers)  # shuffled answers find their questions
    flags = ("--annotation-dir", tmp_path / "coco", "--question-file", write_lines("q.jsonl", *questions))
    lines = run_main(eval_pope, *flags, "--result-file", result).splitlines()
    assert lines[:10] == [
        "Category: popular, # samples: 6",
        "TP\tFP\tTN\tFN\t",
        "2\t1\t2\t1",
        "Accuracy: 0.6666666666666666",
        "Precision: 0.6666666666666666",
        "Recall: 0.6666666666666666",
        "F1 score: 0.6666666666666666",
        "Yes ratio: 0.5",
        "0.667, 0.667, 0.667, 0.667, 0.500",
        "=" * 36,
    ]
    assert lines[10] == "Category: random, # samples: 1"
    assert read_scores(result)["pope_f1"].score().value == pytest.approx(100 * (2 / 3 + 1) / 2)
    assert read_scores(result)["pope_accuracy"].score().value == pytest.approx(100 * (2 / 3 + 1) / 2)


def test_labels_are_found_by_picture_and_text(
    tmp_path: Path, write_lines: Callable[..., str], run_main: Callable[..., str]
) -> None:
    """Only one of the labelled questions was asked, and not the first."""
    (tmp_path / "coco").mkdir()
    labels = [{"image": f"{name}.jpg", "text": "Is there a cat?", "label": label} for name, label in ("ay", "bn")]
    labels = [entry | {"label": {"y": "yes", "n": "no"}[entry["label"]]} for entry in labels]
    write_lines("coco/coco_pope_random.json", *labels)
    question = {"question_id": 1, "category": "random", "image": "b.jpg", "text": "Is there a cat?\nAnswer shortly."}
    flags = ("--annotation-dir", tmp_path / "coco", "--question-file", write_lines("q.jsonl", question))
    out = run_main(eval_pope, *flags, "--result-file", write_lines("a.jsonl", {"question_id": 1, "text": "Yes"}))
    assert "0\t1\t0\t0" in out


def test_what_does_not_belong_together_is_refused(
    tmp_path: Path, write_lines: Callable[..., str], run_main: Callable[..., str], refusal: Callable[..., str]
) -> None:
    (tmp_path / "coco").mkdir()
    questions = write_lines("q.jsonl", *({"question_id": i, "category": "random", "image": "x"} for i in (1, 2)))
    answers = write_lines("a.jsonl", {"question_id": 1, "text": "Yes"}, {"question_id": 2, "text": "No"})

    def flags(result: str) -> tuple[object, ...]:
        return "--annotation-dir", tmp_path / "coco", "--question-file", questions, "--result-file", result

    assert "coco is empty; it must hold coco_pope_<category>.json" in refusal(eval_pope, *flags(answers))
    write_lines("coco/coco_pope_random.json", {"label": "yes"})
    assert "category random has 1 labels for 2 questions" in refusal(eval_pope, *flags(answers))
    write_lines("coco/coco_pope_random.json", *({"label": "yes", "image": "y", "text": str(i)} for i in (1, 2)))
    assert "note: labels of random do not match the questions" in run_main(eval_pope, *flags(answers))
    half = write_lines("half.jsonl", {"question_id": 1, "text": "Yes"})
    assert "half.jsonl has no answer to 1 of 2 questions, first 2" in refusal(eval_pope, *flags(half))
    twice = write_lines("twice.jsonl", *({"question_id": 1, "text": text} for text in ("Yes", "No")))
    assert "answers question 1 twice" in refusal(eval_pope, *flags(twice))
    (tmp_path / "coco" / "notes.txt").touch()
    assert "notes.txt is no coco_pope_<category>.json" in refusal(eval_pope, *flags(answers))
