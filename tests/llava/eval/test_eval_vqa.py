import json
from collections.abc import Callable
from pathlib import Path

import pytest

from llava.eval import eval_vqa
from llava.eval.scores import read_scores

PEOPLE = [{"answer": "two"}] * 3 + [{"answer": "three"}] * 7
VQAV2 = {"annotations": [{"question_id": 7, "answers": PEOPLE}, {"question_id": 8, "answers": PEOPLE}]}
VIZWIZ = [{"image": "7", "answers": PEOPLE}, {"image": "8", "answers": PEOPLE}]


@pytest.mark.parametrize("annotations", [VQAV2, VIZWIZ], ids=["vqav2", "vizwiz"])
def test_both_annotations_give_the_consensus_accuracy(
    tmp_path: Path, write_lines: Callable[..., str], run_main: Callable[..., str], annotations: object
) -> None:
    (tmp_path / "val.json").write_text(json.dumps(annotations))
    result = write_lines("a.jsonl", {"question_id": 7, "text": "2"}, {"question_id": "8", "text": "4"})
    out = run_main(eval_vqa, "--annotation-file", tmp_path / "val.json", "--result-file", result)
    assert out.startswith("a: 45.00% ± ")
    assert read_scores(result)["vqa_accuracy"].groups[""]["7"] == (pytest.approx(0.9), 1.0)


def test_questions_that_are_not_annotated_are_refused(
    tmp_path: Path, write_lines: Callable[..., str], refusal: Callable[..., str]
) -> None:
    (tmp_path / "val.json").write_text(json.dumps(VIZWIZ))
    result = write_lines("a.jsonl", {"question_id": 9, "text": "2"})
    assert "val.json does not have question 9" in refusal(
        eval_vqa, "--annotation-file", tmp_path / "val.json", "--result-file", result
    )
