"""Answers into the files of benchmarks' servers: ``scripts/convert_*_for_submission.py`` and ``..._for_eval.py``."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llava.eval.scores import read_scores


def answer(name: object, text: str) -> dict[str, Any]:
    return {"question_id": name, "prompt": "?", "text": text}


def test_vqav2_covers_every_test_question(
    tmp_path: Path, script: Callable[..., str], refusal: Callable[..., str], write_lines: Callable[..., str]
) -> None:
    write_lines("llava_vqav2_mscoco_test2015.jsonl", *({"question_id": n} for n in (1, 2, 3)))
    flags = ("convert_vqav2_for_submission.py", "--dir", tmp_path, "--ckpt", "c", "--split", "s")
    assert "merge.jsonl is not there" in refusal(*flags)
    merged = Path(write_lines("answers/s/c/merge.jsonl", answer(1, "The Cat."), answer(3, "two"), answer(9, "x")))
    merged.write_text(merged.read_text() + '{"question_id": 2, "te')
    assert script(*flags) == "total results: 3, total split: 3, error_line: 1\n"
    assert json.loads((tmp_path / "answers_upload" / "s" / "c.json").read_text()) == [
        {"question_id": 1, "answer": "cat"},
        {"question_id": 2, "answer": ""},
        {"question_id": 3, "answer": "2"},
    ]
    merged.write_text("")
    assert "merge.jsonl is empty" in refusal(*flags)


def test_vizwiz_wants_every_answer(
    tmp_path: Path, script: Callable[..., str], refusal: Callable[..., str], write_lines: Callable[..., str]
) -> None:
    questions = write_lines("q.jsonl", *({"question_id": n, "image": f"{n}.jpg", "text": "?"} for n in (1, 2)))
    flags = ("convert_vizwiz_for_submission.py", "--annotation-file", questions)
    upload = tmp_path / "new" / "u.json"
    short = write_lines("short.jsonl", answer(1, "A dog"))
    assert "no answer to 1 of 2 questions, first 2" in refusal(
        *flags, "--result-file", short, "--result-upload-file", upload
    )
    assert not upload.exists()
    whole = write_lines("a.jsonl", answer(2, "unanswerable"), answer(1, "A dog"))
    out = script(*flags, "--result-file", whole, "--result-upload-file", upload)
    assert out == "total results: 2, total split: 2, error_line: 0\n"
    assert json.loads(upload.read_text()) == [
        {"image": "1.jpg", "answer": "dog"},
        {"image": "2.jpg", "answer": "unanswerable"},
    ]


@pytest.mark.parametrize("comment", [True, False], ids=["as in 2023", "without comment"])
def test_mmbench_keeps_the_columns_that_its_server_wants(
    tmp_path: Path, script: Callable[..., str], write_lines: Callable[..., str], comment: bool
) -> None:
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("openpyxl")
    dropped = ["hint", "category", "image", "source", "l2-category", *(["comment"] if comment else [])]
    columns = ["index", "question", *dropped, "A", "B", "C", "D", "answer", "split"]
    pandas.DataFrame([[7, *"x" * (len(columns) - 1)]], columns=columns).to_csv(
        tmp_path / "t.tsv", sep="\t", index=False
    )
    write_lines("answers/e.jsonl", answer(7, "A. \x0bcat"))
    folders = ("--result-dir", tmp_path / "answers", "--upload-dir", tmp_path / "new", "--experiment", "e")
    script("convert_mmbench_for_submission.py", "--annotation-file", tmp_path / "t.tsv", *folders)
    table = pandas.read_excel(tmp_path / "new" / "e.xlsx")
    assert list(table.columns) == ["index", "question", "A", "B", "C", "D", "prediction", "answer", "split"]
    assert list(table.loc[0, ["index", "prediction"]]) == [7, "A. cat"]  # a sheet cannot hold the mark


def test_mmvet_answers_by_question(tmp_path: Path, script: Callable[..., str], write_lines: Callable[..., str]) -> None:
    source = write_lines("a.jsonl", answer(0, "x"), answer(1, "y"))
    script("convert_mmvet_for_eval.py", "--src", source, "--dst", tmp_path / "new" / "r.json")
    assert (tmp_path / "new" / "r.json").read_text() == '{\n  "v1_0": "x",\n  "v1_1": "y"\n}'


@pytest.fixture
def seed(tmp_path: Path) -> Path:
    kinds = {"Scene Understanding": 1, "Text": 2, "Action": 3}
    rows = [("1", "A", "image", 1), ("2", "B", "image", 1), ("v_3", "C", "video", 3), ("4", "D", "image", 2)]
    names = ("question_id", "answer", "data_type", "question_type_id")
    benchmark = {"question_type": kinds, "questions": [dict(zip(names, row, strict=True)) for row in rows]}
    (tmp_path / "SEED-Bench.json").write_text(json.dumps(benchmark))
    return tmp_path / "SEED-Bench.json"


def test_seed_counts_exact_letters_by_type_and_medium(
    seed: Path, script: Callable[..., str], write_lines: Callable[..., str]
) -> None:
    """ "B." is not B; a type of which nothing is right, or nothing was asked, does no harm."""
    result = write_lines("a.jsonl", answer(1, "A"), answer(2, "B."), answer("v_3", "D"))
    flags = (
        "--annotation-file",
        seed,
        "--result-file",
        result,
        "--result-upload-file",
        seed.parent / "new" / "u.jsonl",
    )
    assert script("convert_seed_for_submission.py", *flags).splitlines() == [
        "Scene Understanding: 50.00%",
        "Action: 0.00%",
        "Total accuracy: 33.33%",
        "image accuracy: 50.00%",
        "video accuracy: 0.00%",
    ]
    lines = (seed.parent / "new" / "u.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"question_id": 1, "prediction": "A"},
        {"question_id": 2, "prediction": "B."},
        {"question_id": "v_3", "prediction": "D"},
    ]
    assert read_scores(result)["seed_image_accuracy"].groups[""] == {"1": (1.0, 1.0), "2": (0.0, 1.0)}
    assert "Total accuracy: 66.67%" in script("convert_seed_for_submission.py", *flags, "--first-letter")


def test_seed_without_videos_and_with_other_questions(
    seed: Path, script: Callable[..., str], refusal: Callable[..., str], write_lines: Callable[..., str]
) -> None:
    flags = ("--annotation-file", seed, "--result-upload-file", seed.parent / "u.jsonl", "--result-file")
    assert "video accuracy: nan%" in script(
        "convert_seed_for_submission.py", *flags, write_lines("a.jsonl", answer(1, "A"))
    )
    assert "has no question 99" in refusal(
        "convert_seed_for_submission.py", *flags, write_lines("b.jsonl", answer(99, "A"))
    )
