from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llava.errors import UserError
from llava.eval import eval_mme
from llava.eval.eval_mme import COGNITION, PERCEPTION, Row, evaluate, read_decision
from llava.eval.scores import read_scores

QUESTIONS = ("Is it red? Please answer yes or no.", "Is it blue? Please answer yes or no.")


@pytest.mark.parametrize(
    ("answer", "decision"),
    [
        ("Yes", "yes"),
        ("NO", "no"),
        ("yes, it is", "yes"),
        ("No.", "no"),
        ("not", "no"),  # within four characters
        ("know", "no"),
        ("It is yes", "other"),
        ("", "other"),
    ],
)
def test_decisions_are_read_by_the_official_rule(answer: str, decision: str) -> None:
    assert read_decision(answer) == decision


def release(root: Path) -> Path:
    """Two pictures a subtask; artwork keeps its questions in a folder of their own."""
    for subtask in (*PERCEPTION, *COGNITION):
        folder = root / subtask / ("questions_answers_YN" if subtask == "artwork" else "")
        folder.mkdir(parents=True)
        for picture in ("1", "2"):
            lines = [f"{question}\t{truth}" for question, truth in zip(QUESTIONS, ("Yes", "No"), strict=True)]
            (folder / f"{picture}.txt").write_text("\n".join(lines) + "\n")
    return root


def answers(wrong: set[tuple[str, str, int]]) -> list[dict[str, Any]]:
    return [
        {
            "question_id": f"{subtask}/{picture}.png",
            "prompt": question.removesuffix(" Please answer yes or no.") + "\nAnswer the question shortly.",
            "text": ("Yes", "No")[number ^ ((subtask, picture, number) in wrong)],
        }
        for subtask in (*PERCEPTION, *COGNITION)
        for picture in ("1", "2")
        for number, question in enumerate(QUESTIONS)
    ]


def test_scores_are_accuracy_plus_that_of_pictures(
    tmp_path: Path, write_lines: Callable[..., str], run_main: Callable[..., str]
) -> None:
    """color: one of four questions wrong, so 75 + 50; OCR: both of one picture, so 50 + 50."""
    wrong = {("color", "1", 0), ("OCR", "2", 0), ("OCR", "2", 1)}
    lines = answers(wrong)
    # the two questions of a picture share an id, as in llava_mme.jsonl
    result = write_lines("a.jsonl", *lines)
    flags = ("--data-dir", release(tmp_path / "mme"), "--result-file", result, "--output-dir", tmp_path / "official")
    out = run_main(eval_mme, *flags)
    assert "=========== Perception ===========\ntotal score: 1825.0000 ± " in out
    assert "\t color  score: 125.0000\n" in out
    assert "=========== Cognition ===========\ntotal score: 800.0000 ± 0.0000\n" in out
    scores = {name: metric.score().value for name, metric in read_scores(result).items()}
    assert scores == {"mme_perception": 1825.0, "mme_cognition": 800.0, "mme_total": 2625.0}
    assert (tmp_path / "official" / "color.txt").read_text().splitlines()[:2] == [
        f"1.png\t{QUESTIONS[0]}\tYes\tNo",
        f"1.png\t{QUESTIONS[1]}\tNo\tNo",
    ]


def test_perception_alone_has_no_total() -> None:
    rows = [Row(subtask, "1", question, "Yes", "Yes") for subtask in PERCEPTION for question in QUESTIONS]
    assert list(evaluate(rows)) == ["mme_perception"]
    with pytest.raises(UserError, match=r"existence/1 has 1 answers; MME asks two questions a picture"):
        evaluate(rows[1:])
    with pytest.raises(UserError, match="subtask 'cats' is not one of MME's"):
        evaluate([Row("cats", "1", "", "Yes", "Yes")])


def test_what_is_not_mmes_is_refused(
    tmp_path: Path, write_lines: Callable[..., str], refusal: Callable[..., str]
) -> None:
    data = release(tmp_path / "mme")

    def refused(**changes: str) -> str:
        result = write_lines("a.jsonl", answers(set())[0] | changes)
        return refusal(eval_mme, "--data-dir", data, "--result-file", result)

    assert "which is not one of MME's for that picture" in refused(prompt="Is it green?")
    assert "cats/1.txt is not there; --data-dir must be MME's release" in refused(question_id="cats/1.png")
    assert "has 1 answers" in refused()
    (data / "existence" / "1.txt").write_text("no tab\n")
    assert "1.txt has a line that is not a question, a tab and its answer" in refused()
