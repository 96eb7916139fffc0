"""Table 2 by the command line: numbers, file and refusals."""

import json
import math
import sys

import pytest
from PIL import Image

from ccra_patch import analyze
from ccra_patch.metrics import COLUMNS, consistency
from llava.errors import UserError
from llava.eval.model_vqa_loader import question_to_item
from llava.eval.observe import Checkpoint, observe

STAGES = ["F_stack", "LN(F_stack)", "F_lp"]


@pytest.fixture
def questions(tmp_path):
    lines = []
    for number in range(4):
        Image.effect_noise((30 + number, 30), 60).convert("RGB").save(tmp_path / f"{number}.png")
        lines.append({"question_id": number, "text": f"Is it {number}?", "image": f"{number}.png"})
    lines[2].pop("image")
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def run(checkpoint, questions, *more, monkeypatch) -> int:
    argv = ["analyze", "--model-path", str(checkpoint), "--question-file", str(questions)]
    argv += ["--image-folder", str(questions.parent), "--output", str(questions.parent / "out" / "table2.json"), *more]
    monkeypatch.setattr(sys, "argv", argv)
    try:
        analyze.main()
    except SystemExit as error:
        return error.code
    return 0


def test_the_command_writes_what_the_metrics_say(make_ccra, questions, monkeypatch, capsys):
    folder = make_ccra()
    assert run(folder, questions, "--batch-size", "3", monkeypatch=monkeypatch) == 0
    printed = capsys.readouterr().out
    report = json.loads((questions.parent / "out" / "table2.json").read_text())
    assert (report["questions"]["measured"], report["questions"]["without_picture"]) == (3, 1)
    assert report["layers"] == [1, 2, 3, 4, 5]
    assert len(report["checkpoint"]["sha256"]) == 64

    items = [question_to_item(json.loads(line), str(questions.parent)) for line in questions.read_text().splitlines()]
    expected = {
        item.record["question_id"]: consistency(*call)
        for (item,), call in observe(Checkpoint.load(str(folder)), items, "vicuna_v1")
    }
    assert {record["question_id"] for record in report["records"]} == set(expected)
    for record in report["records"]:
        for stage in STAGES:
            row = expected[record["question_id"]][stage]
            assert record[stage] == pytest.approx({c: getattr(row, c).item() for c in COLUMNS}, rel=1e-3, abs=1e-6)

    values = [record["F_lp"]["entropy"] for record in report["records"]]
    mean = sum(values) / 3
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / 2)
    summary = report["summary"]["F_lp"]["entropy"]
    assert summary == pytest.approx({"mean": mean, "standard_error": deviation / math.sqrt(3)})
    header, _, *rows = [line for line in printed.splitlines() if line.startswith("|")]
    assert [cell.strip() for cell in header.strip("|").split("|")] == ["", *COLUMNS.values()]
    assert [row.split("|")[1].strip() for row in rows] == [*STAGES, "F_stack, published", "F_lp, published"]
    assert f"{mean:.3g}" in rows[2]


def test_one_layer_and_one_question_leave_gaps_and_valid_json(make_ccra, questions, monkeypatch, capsys):
    checkpoint = make_ccra(mm_ccra_layers=[4], mm_ccra_disable=["lwca"])
    assert run(checkpoint, questions, "--first", "1", monkeypatch=monkeypatch) == 0
    report = json.loads((questions.parent / "out" / "table2.json").read_text(), parse_constant=pytest.fail)
    assert report["summary"]["F_lp"]["drift"] == {"mean": None, "standard_error": None}
    assert report["summary"]["F_lp"]["entropy"] == {"mean": 0, "standard_error": None}
    assert "| -  " in capsys.readouterr().out


def test_published_rows_are_the_papers():
    assert analyze.PAPER["F_stack"]["entropy"] == 2.41
    assert analyze.PAPER["F_lp"] | {} == dict(
        zip(COLUMNS, (0.147, 0.812, 0.041, 0.038, 0.119, 0.835, 0.028, 2.95), strict=True)
    )


def test_mistakes_are_one_line_and_exit_code_2(make_ccra, questions, assets, monkeypatch, capsys):
    cases = [
        (make_ccra(mm_ccra_disable=["lpwca"]), questions, (), "mm_ccra_disable leaves out lpwca; consistency before"),
        (assets / "llava_tiny_linear", questions, (), "has the projector linear, which has no attention to look at"),
        (make_ccra(), questions.parent / "none.jsonl", (), "none.jsonl is not there"),
        (make_ccra(), questions, ("--first", "0"), "--first is 0; it must be at least 1"),
        (make_ccra(), questions, ("--batch-size", "0"), "--batch-size is 0; it must be at least 1"),
    ]
    for checkpoint, file, more, message in cases:
        assert run(checkpoint, file, *more, monkeypatch=monkeypatch) == 2
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert message in line


def test_questions_without_any_picture_are_refused(make_ccra, tmp_path):
    path = tmp_path / "text.jsonl"
    path.write_text('{"question_id": 1, "text": "Why?"}\n')
    arguments = analyze.build_parser().parse_args(["--model-path", str(make_ccra()), "--question-file", str(path)])
    with pytest.raises(UserError, match="has no question with a picture; the metrics are about pictures"):
        analyze.analyze(arguments)
