import json
from collections.abc import Callable
from pathlib import Path

import pytest

from llava.eval import generate_webpage_data_from_table as page


def test_answers_and_reviews_come_together_by_question(
    tmp_path: Path,
    write_lines: Callable[..., str],
    run_main: Callable[..., str],
    refusal: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(page, "TABLE", tmp_path)
    monkeypatch.setattr(page, "WEBPAGE", tmp_path / "webpage")
    write_lines("question.jsonl", *({"question_id": n, "text": f"q{n}", "category": "c"} for n in (1, 2)))
    assert "answer holds no *.jsonl" in refusal(page)
    for model in ("ours", "theirs"):
        lines = ({"question_id": n, "answer_id": f"{model}{n}", "text": f"{model} {n}"} for n in (1, 2))
        write_lines(f"answer/answer_{model}.jsonl", *lines)
    review = {"question_id": 2, "answer1_id": "theirs2", "answer2_id": "ours2", "text": "good", "score": [8, 9]}
    write_lines("review/review_theirs_ours.jsonl", review)
    run_main(page)
    data = json.loads((tmp_path / "webpage" / "data.json").read_text())
    assert data["models"] == ["ours", "theirs"]
    assert data["questions"][0]["answers"] == {"ours": "ours 1", "theirs": "theirs 1"}
    assert data["questions"][1] == {
        "id": 2,
        "category": "c",
        "question": "q2",
        "answers": {"ours": "ours 2", "theirs": "theirs 2"},
        "evaluations": {"theirs": "good"},
        "scores": {"theirs": [8, 9]},
    }
    write_lines("review/review_theirs_ours.jsonl", review | {"answer1_id": "nobody"})
    assert "a record names 'nobody', which no question or answer has" in refusal(page)
