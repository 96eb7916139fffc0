import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llava.eval import eval_hallusion
from llava.eval.scores import read_scores


def entry(category: str, figure: int, question: int, truth: int, visual: int = 1) -> dict[str, Any]:
    return {
        "category": category,
        "subcategory": "chart",
        "set_id": "0",
        "figure_id": str(figure),
        "question_id": str(question),
        "visual_input": str(visual),
        "question": "Is it?",
        "gt_answer": str(truth),
        "gt_answer_details": "It is." if truth else "It is not.",
    }


ENTRIES = [
    entry("VD", 0, 0, 1),
    entry("VD", 0, 1, 0),
    entry("VD", 1, 0, 0),
    entry("VS", 0, 0, 1, visual=0),
    entry("VS", 1, 0, 1),
]
NAMES = ["VD_chart_0_0_0", "VD_chart_0_0_1", "VD_chart_0_1_0", "VS_chart_0_0_0", "VS_chart_0_1_0"]
TEXTS = ["Yes.", "yes", "No", "I do not know", "unclear"]


@pytest.fixture
def annotation(tmp_path: Path) -> Path:
    (tmp_path / "HallusionBench.json").write_text(json.dumps(ENTRIES))
    return tmp_path / "HallusionBench.json"


def answers(texts: list[str]) -> list[dict[str, str]]:
    return [{"question_id": name, "text": text} for name, text in zip(NAMES, texts, strict=True)]


def scores(path: str) -> dict[str, float]:
    return {name: metric.score().value for name, metric in read_scores(path).items()}


def test_questions_figures_and_pairs(
    annotation: Path, write_lines: Callable[..., str], run_main: Callable[..., str]
) -> None:
    """Right: 1, 3, and 4, which may be left open without its figure; not 5, which has one."""
    result = write_lines("a.jsonl", *answers(TEXTS))
    flags = ("--annotation", annotation, "--result-file", result, "--output-file", annotation.parent / "out.json")
    out = run_main(eval_hallusion, *flags)
    assert scores(result) == pytest.approx(
        {
            "hallusion_aacc": 60.0,
            "hallusion_facc": 100 / 3,  # VD figures 0 (one wrong) and 1 (right), VS figure 1 (wrong)
            "hallusion_qacc": 100 / 3,  # VD question 0 on both figures, VD question 1, VS question 0
        }
    )
    assert [line.split(":")[0] for line in out.splitlines()] == ["aAcc", "fAcc", "qAcc"]
    official = json.loads((annotation.parent / "out.json").read_text())
    assert [entry["model_prediction"] for entry in official] == TEXTS


def test_a_judge_compares_with_the_details_and_is_not_asked_twice(
    annotation: Path, write_lines: Callable[..., str], run_main: Callable[..., str], judge: Any
) -> None:
    replies = {"It is it": "Correct", "It is not it": "incorrect."}
    judge.reply = lambda messages: next(
        (reply for text, reply in replies.items() if f"answer: {text}\n" in messages[-1]["content"]), "Unclear"
    )
    texts = ["It is it", "It is not it", "It is it", "hm", "hm"]
    result = write_lines("a.jsonl", *answers(texts))
    flags = ("--annotation", annotation, "--result-file", result, "--judge")
    run_main(eval_hallusion, *flags)
    assert scores(result)["hallusion_aacc"] == 60.0
    assert "Reference answer: It is not." in judge.requests[1]["messages"][-1]["content"]
    assert len(judge.requests) == 5
    write_lines("a.jsonl", *answers(["It is not it", *texts[1:]]))
    run_main(eval_hallusion, *flags)
    assert scores(result)["hallusion_aacc"] == 40.0
    assert len(judge.requests) == 6


def test_missing_answers_and_a_missing_judge_are_told(
    annotation: Path, write_lines: Callable[..., str], refusal: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    half = write_lines("h.jsonl", *answers(TEXTS)[:2])
    assert "no answer to 3 of 5 questions, first VD_chart_0_1_0" in refusal(
        eval_hallusion, "--annotation", annotation, "--result-file", half
    )
    whole = write_lines("a.jsonl", *answers(TEXTS))
    assert "no judge: set OPENAI_API_KEY" in refusal(
        eval_hallusion, "--annotation", annotation, "--result-file", whole, "--judge"
    )
