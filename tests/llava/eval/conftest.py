"""Small question sets with pictures, and one tiny LLaVA that all drivers share."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from llava.eval import driver
from llava.model.builder import load_pretrained_model

SENTENCES = (
    "What is it?",
    "Which colour has the object on the left of the table?",
    "Is there a small dog or a big cat?",
)


@pytest.fixture(scope="session")
def tiny_llava(assets: Path) -> Path:
    return assets / "llava_tiny_mlp2x_gelu"


@pytest.fixture
def one_load(monkeypatch: pytest.MonkeyPatch, loaded: dict[str, tuple[Any, ...]]) -> None:
    """The driver loads each checkpoint once for all tests."""

    def load(path: str, base: str | None, name: str, device: str) -> tuple[Any, ...]:
        if path not in loaded:
            loaded[path] = load_pretrained_model(path, base, name, device=device)
        return loaded[path]

    monkeypatch.setattr(driver, "load_pretrained_model", load)


@pytest.fixture(scope="session")
def loaded() -> dict[str, tuple[Any, ...]]:
    return {}


@pytest.fixture
def write_questions(tmp_path: Path) -> Callable[..., Path]:
    """``write_questions(count)`` -> question file beside ``images/``; 1 to 7 sentences, every fifth without picture."""

    def write(count: int) -> Path:
        (tmp_path / "images").mkdir()
        lines = []
        for number in range(count):
            # 7 is coprime to 40, so neighbours differ in length
            text = " ".join(SENTENCES[(number + k) % 3] for k in range(1 + number * 3 % 7))
            question = {"question_id": number, "text": text, "category": "ignored"}
            if number % 5 != 4:
                colour = (number * 37 % 256, number * 91 % 256, number * 11 % 256)
                Image.new("RGB", (20 + number, 30), colour).save(tmp_path / "images" / f"{number}.png")
                question["image"] = f"{number}.png"
            lines.append(json.dumps(question))
        path = tmp_path / "questions.jsonl"
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return path

    return write


@pytest.fixture
def arguments(tiny_llava: Path, tmp_path: Path) -> Callable[..., SimpleNamespace]:
    """What upstream's callers pass to ``eval_model``, and whatever a test adds."""

    def build(**changes: Any) -> SimpleNamespace:
        given = {
            "model_path": str(tiny_llava),
            "model_base": None,
            "image_folder": str(tmp_path / "images"),
            "question_file": str(tmp_path / "questions.jsonl"),
            "answers_file": str(tmp_path / "out" / "answers.jsonl"),
            "conv_mode": "vicuna_v1",
            "num_chunks": 1,
            "chunk_idx": 0,
            "temperature": 0,
            "top_p": None,
            "num_beams": 1,
            "max_new_tokens": 8,
        }
        return SimpleNamespace(**(given | {"workers": 0} | changes))

    return build


@pytest.fixture
def answers_of() -> Callable[[Path], list[dict[str, Any]]]:
    """The lines of an answers file without their random ids."""

    def read(path: Path) -> list[dict[str, Any]]:
        answers = [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]
        assert len({answer.pop("answer_id") for answer in answers}) == len(answers)
        return answers

    return read
