import json
import runpy
import sys
from pathlib import Path

import pytest

SCRIPT = str(Path(__file__).parents[2] / "scripts" / "convert_gqa_for_eval.py")


def convert(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", [SCRIPT, *arguments])
    runpy.run_path(SCRIPT, run_name="__main__")


def test_predictions_are_lower_case_without_full_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [("a1", "Yes."), (2, "T-Shirt..."), ("a3", "St. Mary"), ("a4", "")]
    lines = [json.dumps({"question_id": i, "prompt": "?", "text": text}) for i, text in answers]
    (tmp_path / "merge.jsonl").write_text("\n".join(lines))
    convert(monkeypatch, "--src", str(tmp_path / "merge.jsonl"), "--dst", str(tmp_path / "new" / "p.json"))
    assert json.loads((tmp_path / "new" / "p.json").read_text()) == [
        {"questionId": "a1", "prediction": "yes"},
        {"questionId": 2, "prediction": "t-shirt"},
        {"questionId": "a3", "prediction": "st. mary"},
        {"questionId": "a4", "prediction": ""},
    ]


def test_empty_answers_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "merge.jsonl").touch()
    with pytest.raises(SystemExit) as stop:
        convert(monkeypatch, "--src", str(tmp_path / "merge.jsonl"), "--dst", str(tmp_path / "p.json"))
    assert stop.value.code == 2
    assert "merge.jsonl is empty" in capsys.readouterr().err
    assert not (tmp_path / "p.json").exists()
