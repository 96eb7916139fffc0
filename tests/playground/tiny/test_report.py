import json
from pathlib import Path

import pytest

from llava.errors import UserError
from llava.serve.gradio_web_server import read_examples
from playground import report
from playground.tiny import easy_vqa
from playground.tiny.report import PAGE


def scores(value: float) -> report.Scores:
    return {group: {"value": value, "standard_error": 0.71, "n": 2_000} for group in PAGE.groups}


def test_table_has_a_column_for_each_model_and_a_row_for_each_group() -> None:
    lines = report.table({"CCRA": scores(95.04), "mlp2x_gelu": scores(91.0)}, PAGE.groups).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0] == ["accuracy in %, ± standard error", "questions", "CCRA", "mlp2x_gelu"]
    assert set("".join(cells[1])) == {"-"}
    assert cells[2] == ["all questions", "2,000", "95.0 ± 0.7", "91.0 ± 0.7"]
    assert len(lines) == 2 + len(PAGE.groups)
    assert len({len(line) for line in lines}) == 1


def test_tables_stand_under_their_titles() -> None:
    assert report.heading(["near", "far"], ["| a |", "| b |"]) == ["### near\n\n| a |", "### far\n\n| b |"]


def test_every_kind_of_question_has_a_row() -> None:
    kinds = {easy_vqa.gqa_types(question)["detailed"] for question in easy_vqa.read_questions("test")}
    assert kinds == {group.removeprefix("detailed/") for group in PAGE.groups if group.startswith("detailed/")}
    assert set(PAGE.shown) <= kinds


def test_missing_scores_are_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"results\.json holds no scores .*run make eval-gqa"):
        report.read_scores(tmp_path / "results.json")
    (tmp_path / "results.json").write_text("{}")
    with pytest.raises(UserError, match="holds no scores"):
        report.read_scores(tmp_path / "results.json")
    (tmp_path / "results.json").write_text(json.dumps({"scores": scores(1.0)}))
    assert report.read_scores(tmp_path / "results.json")["accuracy"]["value"] == 1.0


def test_shown_questions_are_of_three_kinds_on_three_pictures(tmp_path: Path) -> None:
    easy_vqa.write_evaluation_files(tmp_path, easy_vqa.Recipe())
    chosen = report.choose_questions(tmp_path, PAGE)
    assert len({question["image"] for question in chosen}) == 3
    asked = [easy_vqa.Question(question["question"], question["answer"], 0) for question in chosen]
    assert tuple(easy_vqa.gqa_types(question)["detailed"] for question in asked) == PAGE.shown


def test_shown_questions_are_the_web_pages_examples(tmp_path: Path) -> None:
    easy_vqa.write_evaluation_files(tmp_path / "gqa", easy_vqa.Recipe())
    chosen = report.choose_questions(tmp_path / "gqa", PAGE)
    (tmp_path / "gqa" / "data" / "images").mkdir(parents=True, exist_ok=True)
    for question in chosen:
        (tmp_path / "gqa" / "data" / "images" / question["image"]).touch()
    report.keep_examples(tmp_path / "gqa", chosen, tmp_path / "examples")
    kept = read_examples(tmp_path / "examples")
    assert kept == [[str(tmp_path / "examples" / question["image"]), question["text"]] for question in chosen]
