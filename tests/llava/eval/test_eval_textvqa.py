import json
from collections.abc import Callable
from pathlib import Path

import pytest

from llava.errors import UserError
from llava.eval import eval_textvqa
from llava.eval.eval_textvqa import question_of
from llava.eval.scores import read_scores


@pytest.mark.parametrize(
    "prompt",
    [
        "OCR tokens: A, B. Question: What Is it? Short answer:",
        "Reference OCR token: A\nWhat is IT?\nAnswer shortly.",
        "What is it?\nReference OCR token: A\nAnswer shortly.",
        "What is it?\nAnswer shortly.",
    ],
)
def test_the_question_is_found_in_every_form_of_prompt(prompt: str) -> None:
    assert question_of(prompt) == "what is it?"


@pytest.mark.parametrize("prompt", ["What is it?", "What?\nIs\nit?", ""])
def test_any_other_prompt_is_refused(prompt: str) -> None:
    with pytest.raises(UserError, match="has none of TextVQA's forms"):
        question_of(prompt)


@pytest.fixture
def annotations(tmp_path: Path) -> Path:
    people = ["stop"] * 3 + ["halt"] * 7
    data = [{"image_id": image, "question": "What Is it?", "answers": people} for image in ("a", "b")]
    (tmp_path / "val.json").write_text(json.dumps({"data": data}))
    return tmp_path / "val.json"


def answer(image: str, text: str) -> dict[str, str]:
    return {"question_id": image, "prompt": "What is it?\nAnswer shortly.", "text": text}


def test_a_folder_is_scored_file_by_file(
    tmp_path: Path, annotations: Path, write_lines: Callable[..., str], run_main: Callable[..., str]
) -> None:
    (tmp_path / "results").mkdir()
    first = write_lines("results/one.jsonl", answer("a", "Stop."), answer("b", "halt"))
    write_lines("results/two.jsonl", answer("a", "go"))
    (tmp_path / "results" / "notes.txt").touch()
    flags = ("--annotation-file", annotations, "--result-dir", tmp_path / "results")
    expected = "Skipping notes.txt\none\nSamples: 2\nAccuracy: 95.00%\n\ntwo\nSamples: 1\nAccuracy: 0.00%\n\n"
    assert run_main(eval_textvqa, *flags) == expected
    assert run_main(eval_textvqa, *flags) == expected  # the scores kept beside are not skipped by name
    assert run_main(eval_textvqa, "--annotation-file", annotations, "--result-file", first).startswith("one\n")
    assert read_scores(first)["textvqa_accuracy"].score().value == pytest.approx(95.0)


def test_answers_of_another_set_are_refused(
    annotations: Path, write_lines: Callable[..., str], refusal: Callable[..., str]
) -> None:
    flags = ("--annotation-file", annotations)
    assert "about c, which the annotations do not ask" in refusal(
        eval_textvqa, *flags, "--result-file", write_lines("a.jsonl", answer("c", "x"))
    )
    assert "one of --result-file and --result-dir are needed" in refusal(eval_textvqa, *flags)
