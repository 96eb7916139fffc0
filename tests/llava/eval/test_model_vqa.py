import base64
import json
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from llava.errors import UserError
from llava.eval import (
    driver,
    model_qa,
    model_vqa,
    model_vqa_loader,
    model_vqa_mmbench,
    model_vqa_qbench,
    model_vqa_science,
)
from llava.eval.generation import Sampling
from llava.eval.items import Item
from llava.eval.model_vqa_loader import question_to_item
from llava.eval.model_vqa_mmbench import get_options, is_none, row_to_items
from llava.eval.provenance import read_provenance

pytestmark = pytest.mark.usefixtures("one_load")
Arguments = Callable[..., SimpleNamespace]
AnswersOf = Callable[[Path], list[dict[str, Any]]]
KEYS = ["question_id", "prompt", "text", "model_id", "metadata"]


def encoded_picture(colour: str = "red") -> str:
    buffer = BytesIO()
    Image.new("RGBA", (9, 7), colour).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def asked(monkeypatch: pytest.MonkeyPatch, module: Any, arguments: SimpleNamespace) -> list[Item]:
    """The items that a driver hands to the core."""
    seen: list[Item] = []
    monkeypatch.setattr(module, "answer_items", lambda items, settings, **flags: seen.extend(items))
    module.eval_model(arguments)
    return seen


def test_every_driver_answers(
    arguments: Arguments, answers_of: AnswersOf, tmp_path: Path, write_lines: Callable[..., str]
) -> None:
    pytest.importorskip("pandas")
    Image.new("RGB", (20, 30), "red").save(tmp_path / "a.png")
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "red"}]
    samples = [{"id": "7", "image": "a.png", "conversations": turns}, {"id": "8", "conversations": turns}]
    (tmp_path / "sqa.json").write_text(json.dumps(samples))
    (tmp_path / "q.json").write_text(json.dumps([{"img_path": "a.png", "question": "?", "candidates": ["x", "y"]}]))
    (tmp_path / "b.tsv").write_text(f"index\tquestion\thint\tA\tB\timage\n3\tq?\t\tx\ty\t{encoded_picture()}\n")
    jsonl = write_lines("q.jsonl", {"question_id": 1, "image": "a.png", "text": "What?"})
    letter = {"single_pred_prompt": True}

    def run(module: Any, questions: object, **more: Any) -> list[dict[str, Any]]:
        path = tmp_path / "out" / f"{module.__name__}.jsonl"
        files = {"question_file": str(questions), "answers_file": str(path), "image_folder": str(tmp_path)}
        module.eval_model(arguments(**files, **more))
        assert read_provenance(path)["status"] == "complete"
        return answers_of(path)

    (answer,) = run(model_vqa, jsonl)
    assert list(answer) == KEYS
    assert (answer["prompt"], answer["metadata"]) == ("What?", {})
    first, second = run(model_vqa_science, tmp_path / "sqa.json", answer_prompter=False, **letter)
    assert [first["question_id"], second["question_id"]] == ["7", "8"]
    instruction = "Answer with the option's letter from the given choices directly."
    assert (first["prompt"], second["prompt"]) == (f"<image>\nWhat?\n{instruction}", f"What?\n{instruction}")
    (answer,) = run(model_vqa_qbench, tmp_path / "q.json", lang="en")
    assert list(answer) == ["question_id", "img_path", "prompt", "text", "options", "model_id", "metadata"]
    assert (answer["question_id"], answer["prompt"]) == (0, f"?\nA. x\nB. y\n{instruction}")
    first, second = run(model_vqa_mmbench, tmp_path / "b.tsv", lang="cn", all_rounds=True, **letter)
    assert list(first) == [
        "question_id",
        "round_id",
        "prompt",
        "text",
        "options",
        "option_char",
        "model_id",
        "metadata",
    ]
    assert (first["question_id"], first["prompt"]) == (3, "q?\nA. x\nB. y")
    assert (second["prompt"], second["round_id"], second["option_char"]) == ("q?\nA. y\nB. x", 1, ["B", "A"])


def test_several_pictures_stand_where_the_text_says() -> None:
    question = {"question_id": 1, "image": ["a.png", "b.png"], "text": "Is <image> like <image>?"}
    assert question_to_item(question, "/d") == Item(
        {"question_id": 1, "prompt": "Is <image> like <image>?"}, "Is <image> like <image>?", ("/d/a.png", "/d/b.png")
    )


@pytest.mark.parametrize("module", [model_vqa_loader, model_vqa])
def test_only_some_drivers_switch_plain_models_to_mmtag(
    module: Any, arguments: Arguments, write_lines: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = {}
    monkeypatch.setattr(module, "answer_items", lambda items, settings, **given: flags.update(given))
    module.eval_model(arguments(question_file=write_lines("q.jsonl", {"question_id": 1, "text": "What?"})))
    assert flags == ({"plain_uses_mmtag": True} if module is model_vqa_loader else {})


def test_options_end_at_the_first_empty_cell() -> None:
    assert [is_none(value) for value in (None, float("nan"), "NaN", "none", "", "x", 0)] == [True] * 4 + [False] * 3
    row = {"A": "x", "B": 7, "C": float("nan"), "D": "z"}
    assert get_options(row, ["A", "B", "C", "D"]) == ["x", "7"]
    assert get_options({"A": "x"}, ["A", "B"]) == ["x"]


def test_options_move_up_each_round_and_the_letters_stay() -> None:
    row = {"index": 4, "question": "q", "hint": "h", "A": "x", "B": "y", "C": "z", "image": encoded_picture()}
    items = row_to_items(row, single_pred_prompt=True, lang="cn", all_rounds=True)
    assert [item.record["option_char"] for item in items] == [["A", "B", "C"], ["B", "C", "A"], ["C", "A", "B"]]
    assert [item.record["options"] for item in items] == [["x", "y", "z"], ["y", "z", "x"], ["z", "x", "y"]]
    assert items[1].text == "<image>\nh\nq\nA. y\nB. z\nC. x\n请直接回答选项字母。"
    (only,) = row_to_items(row, single_pred_prompt=False, lang="en", all_rounds=False)
    assert (only.record["round_id"], only.text) == (0, "<image>\nh\nq\nA. x\nB. y\nC. z")
    assert only.record["prompt"] == "h\nq\nA. x\nB. y\nC. z"


def test_a_table_may_name_a_picture_by_another_row(
    arguments: Arguments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pandas")
    (tmp_path / "b.tsv").write_text(f"index\tquestion\tA\timage\n3\tq?\t1.50\t{encoded_picture()}\n1000003\tq?\tx\t3\n")
    flags = {"lang": "en", "all_rounds": False, "single_pred_prompt": False, "question_file": str(tmp_path / "b.tsv")}
    first, second = asked(monkeypatch, model_vqa_mmbench, arguments(**flags))
    assert first.images == second.images
    assert first.record["options"] == ["1.50"]  # a number keeps its digits
    with pytest.raises(UserError, match="--lang is 'fr'; it must be one of en, cn"):
        model_vqa_mmbench.eval_model(arguments(**flags | {"lang": "fr"}))
    (tmp_path / "b.tsv").write_text("index\tquestion\tA\timage\n3\tq?\tx\tno picture\n")
    with pytest.raises(UserError, match="question 3 has no base64 picture"):
        model_vqa_mmbench.eval_model(arguments(**flags))


@pytest.mark.parametrize(
    ("module", "content", "message"),
    [
        (model_vqa_science, "{}", "holds no JSON list of records"),
        (model_vqa_science, "[]", "holds no JSON list of records"),
        (model_vqa_science, '[{"id": 1}]', "record 1 has no 'conversations'"),
        (model_vqa_science, '[{"id": 1, "conversations": []}]', "record 1 has no turns with a text 'value'"),
        (model_vqa_science, '[{"id": 1, "image": ["a"], "conversations": [{"value": ""}]}]', "one picture at most"),
        (model_vqa_qbench, '[{"img_path": "a"}]', "record 1 has no 'question'"),
        (model_vqa, "", "is empty"),
        (model_vqa_mmbench, "index\tquestion\n", "has no column 'A'"),
    ],
)
def test_malformed_questions_are_refused_and_nothing_is_overwritten(
    module: Any, content: str, message: str, arguments: Arguments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if module is model_vqa_mmbench:
        pytest.importorskip("pandas")
    monkeypatch.delattr(driver, "load_pretrained_model")
    (tmp_path / "q").write_text(content)
    (tmp_path / "a.jsonl").write_text("kept")
    flags = {"question_file": str(tmp_path / "q"), "answers_file": str(tmp_path / "a.jsonl")}
    with pytest.raises(UserError, match=message):
        module.eval_model(arguments(**flags, lang="en", single_pred_prompt=False, all_rounds=False))
    assert (tmp_path / "a.jsonl").read_text() == "kept"


def test_a_language_model_answers_without_pictures(
    assets: Path,
    tmp_path: Path,
    write_lines: Callable[..., str],
    answers_of: AnswersOf,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(model_qa, "Sampling", lambda temperature: Sampling(temperature, max_new_tokens=8))
    questions = write_lines("q.jsonl", *({"question_id": n, "text": "Why? " * n, "category": "x"} for n in (1, 2)))
    answers = []
    for batch_size in (1, 2):
        path = tmp_path / f"{batch_size}.jsonl"
        model_qa.eval_model(str(assets / "vicuna_tiny"), questions, str(path), batch_size=batch_size, workers=0)
        answers.append(answers_of(path))
    assert list(answers[0][0]) == ["question_id", "text", "model_id", "metadata"]
    assert answers[0][0]["model_id"] == "vicuna_tiny"
    assert not any("chat between" in answer["text"] for answer in answers[0])  # as in the prompt
    assert read_provenance(path)["settings"]["temperature"] == 0.7


def test_defaults_are_upstreams() -> None:
    science = vars(model_vqa_science.build_parser().parse_args([]))
    assert (science["question_file"], science["conv_mode"]) == ("tables/question.json", "llava_v0")
    mmbench = vars(model_vqa_mmbench.build_parser().parse_args(["--all", "--single"]))
    assert (mmbench["all_rounds"], mmbench["single_pred_prompt"], mmbench["lang"]) == (True, True, "en")
    qbench = vars(model_vqa_qbench.build_parser().parse_args(["--questions-file", "x"]))
    assert (qbench["question_file"], qbench["conv_mode"], qbench["lang"]) == ("x", "llava_v1", "en")
    assert vars(model_qa.build_parser().parse_args([]))["model_name"] == "facebook/opt-350m"
    assert vars(model_vqa.build_parser().parse_args([]))["temperature"] == 0.2
