"""Benchmarks into LLaVA's questions: ``scripts/convert_*_to_llava.py``."""

import json
import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

sys.path.append(str(Path(__file__).parents[2] / "scripts"))

from convert_sqa_to_llava_base_prompt import (
    build_prompt,
    build_prompt_chatbot,
    build_prompt_gpt4,
    create_one_example,
    create_one_example_chatbot,
)

SHORT = "Answer the question using a single word or phrase."
LETTER = "Answer with the option's letter from the given choices directly."


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


PARTS = ("Why?", "N/A", "(A) x (B) y", "B", "lecture", "solution")


@pytest.mark.parametrize(
    ("form", "asked"),
    [
        ("CQM", "Context: N/A\nQuestion: Why?\nOptions: (A) x (B) y"),
        ("QCM", "Question: Why?\nContext: N/A\nOptions: (A) x (B) y"),
        ("QCML", "Question: Why?\nContext: N/A\nOptions: (A) x (B) y\nBECAUSE: lecture"),
        ("QCME", "Question: Why?\nContext: N/A\nOptions: (A) x (B) y\nBECAUSE: solution"),
        ("QCMLE", "Question: Why?\nContext: N/A\nOptions: (A) x (B) y\nBECAUSE: lecture solution"),
        ("QCLM", "Question: Why?\nContext: N/A\nBECAUSE: lecture\nOptions: (A) x (B) y"),
        ("QCEM", "Question: Why?\nContext: N/A\nBECAUSE: solution\nOptions: (A) x (B) y"),
        ("QCLEM", "Question: Why?\nContext: N/A\nBECAUSE: lecture solution\nOptions: (A) x (B) y"),
    ],
)
def test_every_form_of_input(form: str, asked: str) -> None:
    assert create_one_example_chatbot(f"{form}-A", *PARTS, test_example=True) == (asked, "Answer:")


@pytest.mark.parametrize(
    ("form", "answered"),
    [
        ("A", "Answer: The answer is B."),
        ("AL", "Answer: The answer is B. BECAUSE: solution"),
        ("AE", "Answer: The answer is B. BECAUSE: lecture"),
        ("ALE", "Answer: The answer is B. BECAUSE: lecture solution"),
        ("AEL", "Answer: The answer is B. BECAUSE: solution lecture"),
        ("LA", "Answer: lecture The answer is B."),
        ("EA", "Answer: solution The answer is B."),
        ("LEA", "Answer: lecture solution The answer is B."),
        ("ELA", "Answer: solution lecture The answer is B."),
        ("LEPA", "LECTURE: lecture\nSOLUTION: solution\n###\nANSWER: B."),
    ],
)
def test_every_form_of_output(form: str, answered: str) -> None:
    assert create_one_example_chatbot(f"QCM-{form}", *PARTS, test_example=False)[1] == answered


def test_a_reason_that_is_missing_leaves_no_trace() -> None:
    assert create_one_example("QCML-AL", *PARTS[:4], "", "", test_example=False).endswith("y\nAnswer: The answer is B.")
    for form in ("QQ-A", "QCM-X"):
        with pytest.raises(ValueError, match=r"prompt format (begins|ends) with '(QQ|X)'; it must be"):
            create_one_example(form, *PARTS, test_example=False)


def problem(**changes: Any) -> dict[str, Any]:
    base = {"question": "Why?", "choices": ["x", "y"], "answer": 1, "hint": "", "image": None}
    return base | {"lecture": "One\ntwo", "solution": "so", "caption": "a cat"} | changes


def test_prompts_are_built_with_shots() -> None:
    problems = {"1": problem(), "2": problem(hint="Look.")}
    args = SimpleNamespace(prompt_format="QCM-A", use_caption=True, options=["A", "B"])
    solved = "Question: Why?\nContext: a cat\nOptions: (A) x (B) y"
    asked = "Question: Why?\nContext: Look. a cat\nOptions: (A) x (B) y"
    assert build_prompt(problems, ["1"], "2", args) == f"{solved}\nAnswer: The answer is B.\n\n{asked}\nAnswer:"
    assert build_prompt_gpt4(problems, ["1"], "2", args) == [
        {"role": "user", "content": solved},
        {"role": "assistant", "content": "Answer: The answer is B."},
        {"role": "user", "content": asked},
    ]
    assert build_prompt_chatbot(problems, ["1"], "QCM-LA")["1"][1] == "Answer: One\\ntwo The answer is B."


@pytest.fixture
def scienceqa(tmp_path: Path) -> Path:
    problems = {"1": problem(image="image.png"), "2": problem(hint="Look.")}
    (tmp_path / "problems.json").write_text(json.dumps(problems))
    (tmp_path / "pid_splits.json").write_text('{"test": ["1", "2"]}')
    return tmp_path


def test_scienceqa_becomes_samples(scienceqa: Path, script: Callable[..., str], refusal: Callable[..., str]) -> None:
    flags = ("convert_sqa_to_llava.py", "convert_to_llava", "--base-dir", scienceqa, "--split", "test")
    assert script(*flags) == "Number of samples: 2\n"
    first, second = json.loads((scienceqa / "llava_test_QCM-LEA.json").read_text())
    assert first == {
        "id": "1",
        "image": "1/image.png",
        "conversations": [
            {"from": "human", "value": "Why?\nContext: N/A\nOptions: (A) x (B) y\n<image>"},
            {"from": "gpt", "value": "One\\ntwo so The answer is B."},
        ],
    }
    assert "image" not in second
    assert second["conversations"][0]["value"] == "Why?\nContext: Look.\nOptions: (A) x (B) y"
    script(*flags, "--prompt-format", "CQM-A")
    first, _ = json.loads((scienceqa / "llava_test_CQM-A.json").read_text())
    assert first["conversations"][0]["value"].startswith("Context: N/A\nQuestion: Why?")
    assert "--prompt-format is 'A-Q': prompt format begins with 'A'" in refusal(*flags, "--prompt-format", "A-Q")


def test_scienceqa_becomes_instructions(scienceqa: Path, script: Callable[..., str]) -> None:
    script("convert_sqa_to_llava.py", "convert_to_jsonl", "--base_dir", scienceqa, "--split", "test")
    first, second = lines_of(scienceqa / "scienceqa_test_QCM-LEPA.jsonl")
    assert (first["id"], first["image"], second["image"]) == ("1", "1/image.png", None)
    assert first["output"].endswith("###\nANSWER: B.")


def test_amber_asks_for_yes_or_no_but_not_in_descriptions(
    tmp_path: Path, script: Callable[..., str], refusal: Callable[..., str]
) -> None:
    queries = [
        {"id": 1, "image": "AMBER_1.jpg", "query": "Describe this image."},
        {"id": 1005, "image": "AMBER_1.jpg", "query": "Is the sky sunny?"},
    ]
    (tmp_path / "query_all.json").write_text(json.dumps(queries))
    script("convert_amber_to_llava.py", "--src", tmp_path / "query_all.json", "--dst", tmp_path / "q.jsonl")
    assert lines_of(tmp_path / "q.jsonl") == [
        {"question_id": 1, "image": "AMBER_1.jpg", "text": "Describe this image."},
        {"question_id": 1005, "image": "AMBER_1.jpg", "text": f"Is the sky sunny?\n{SHORT}"},
    ]
    (tmp_path / "query_all.json").write_text("[{}]")
    assert "record 1 has no 'id'" in refusal(
        "convert_amber_to_llava.py", "--src", tmp_path / "query_all.json", "--dst", tmp_path / "q.jsonl"
    )


def test_hallusionbench_shows_figures_where_there_are_some(tmp_path: Path, script: Callable[..., str]) -> None:
    entry = {"category": "VS", "subcategory": "map", "set_id": "3", "question_id": "1", "question": "Is it?"}
    entries = [entry | {"figure_id": str(n), "visual_input": str(n), "gt_answer": "1"} for n in (0, 2)]
    (tmp_path / "h.json").write_text(json.dumps(entries))
    script("convert_hallusion_to_llava.py", "--src", tmp_path / "h.json", "--dst", tmp_path / "q.jsonl")
    assert lines_of(tmp_path / "q.jsonl") == [
        {"question_id": "VS_map_3_0_1", "text": f"Is it?\n{SHORT}"},
        {"question_id": "VS_map_3_2_1", "text": f"Is it?\n{SHORT}", "image": "VS/map/3_2.png"},
    ]


def mmmu_row(name: str, question: str, options: list[str], pictures: int, **changes: Any) -> dict[str, Any]:
    buffer = BytesIO()
    Image.new("RGBA", (6, 5), "green").save(buffer, "PNG")
    kind = "multiple-choice" if options else "open"
    images = {f"image_{n}": {"bytes": buffer.getvalue()} if n <= pictures else None for n in range(1, 8)}
    return {"id": name, "question": question, "options": repr(options), "question_type": kind, **images, **changes}


def test_mmmu_puts_pictures_where_the_text_says(
    tmp_path: Path, script: Callable[..., str], refusal: Callable[..., str]
) -> None:
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    rows = {
        "Art": [mmmu_row("validation_Art_1", "Which <image 1>?", ["<image 2>", "none"], 2, answer="A")],
        "Math": [mmmu_row("validation_Math_1", "How many?", [], 1, answer="['7', 'seven']")],
    }
    for subject, table in rows.items():
        (tmp_path / "MMMU" / subject).mkdir(parents=True)
        path = tmp_path / "MMMU" / subject / "validation-00000-of-00001.parquet"
        pandas.DataFrame(table).to_parquet(path)
    folders = ("--dst", tmp_path / "q.jsonl", "--image-folder", tmp_path / "images")
    script("convert_mmmu_to_llava.py", "--src", tmp_path / "MMMU", *folders)
    art, math = lines_of(tmp_path / "q.jsonl")
    assert art == {
        "question_id": "validation_Art_1",
        "image": ["validation_Art_1_1.png", "validation_Art_1_2.png"],
        "text": f"Which <image>?\n(A) <image>\n(B) none\n{LETTER}",
        "question_type": "multiple-choice",
        "options": ["<image 2>", "none"],
        "answer": "A",
    }
    assert math["text"] == f"<image>\nHow many?\n{SHORT}"
    assert (math["answer"], math["options"]) == (["7", "seven"], [])
    with Image.open(tmp_path / "images" / "validation_Art_1_2.png") as picture:
        assert (picture.mode, picture.size) == ("RGB", (6, 5))
    assert "MMMU has no <subject>/test-*.parquet" in refusal(
        "convert_mmmu_to_llava.py", "--src", tmp_path / "MMMU", *folders, "--split", "test"
    )
    broken = [mmmu_row("validation_Art_2", "Which <image 3>?", [], 2, answer="A")]
    pandas.DataFrame(broken).to_parquet(tmp_path / "MMMU" / "Art" / "validation-00000-of-00001.parquet")
    assert "validation_Art_2 shows <image 3>, but has no image_3" in refusal(
        "convert_mmmu_to_llava.py", "--src", tmp_path / "MMMU", *folders
    )
