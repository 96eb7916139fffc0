import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llava.eval import eval_mmvet
from llava.eval.scores import read_scores

QUESTIONS = {
    "v1_0": {"question": "x?", "answer": "-1<AND>-5", "capability": ["ocr", "math"]},
    "v1_1": {"question": "y?", "answer": "cat", "capability": ["ocr"]},
}


def files(tmp_path: Path, write_lines: Callable[..., str], *texts: str) -> tuple[object, ...]:
    (tmp_path / "mm-vet.json").write_text(json.dumps(QUESTIONS))
    (tmp_path / "name.json").write_text(json.dumps(dict(zip(QUESTIONS, texts, strict=False))))
    answers = write_lines("a.jsonl", *({"question_id": n, "text": text} for n, text in enumerate(texts)))
    flags = ("--annotation", tmp_path / "mm-vet.json", "--prediction", tmp_path / "name.json")
    return (*flags, "--answers", answers)


def test_marks_are_averaged_by_capability_and_asked_for_once(
    tmp_path: Path, write_lines: Callable[..., str], run_main: Callable[..., str], judge: Any
) -> None:
    replies = iter(["0.5", "hm", "1.0"])  # the second is no mark, so it is asked for again
    judge.reply = lambda messages: next(replies)
    flags = files(tmp_path, write_lines, "x = -1", "a cat")
    out = run_main(eval_mmvet, *flags)
    assert [line.split()[:2] for line in out.splitlines()] == [
        ["total", "75.00%"],
        ["math", "50.00%"],
        ["ocr", "75.00%"],
    ]
    first, _, again = (request["messages"][0]["content"] for request in judge.requests)
    assert first.splitlines()[-1] == "x? | -1 <AND> -5 | x = -1 | "
    assert "0.0 (nothing is right)" in first
    assert again.endswith("The mark, as a number from 0.0 to 1.0: ")
    assert judge.requests[0]["model"] == "gpt-4-0613"
    assert (judge.requests[0]["temperature"], judge.requests[2]["temperature"]) == (0, 0.5)
    assert run_main(eval_mmvet, *flags) == out
    assert len(judge.requests) == 3
    assert read_scores(flags[-1])["mmvet_total"].groups[""] == {"v1_0": (0.5, 1.0), "v1_1": (1.0, 1.0)}


def test_a_killed_judge_goes_on_where_it_was(
    tmp_path: Path,
    write_lines: Callable[..., str],
    run_main: Callable[..., str],
    refusal: Callable[..., str],
    judge: Any,
) -> None:
    replies = iter(["0.5", *["hm"] * 5, "1"])
    judge.reply = lambda messages: next(replies)
    flags = files(tmp_path, write_lines, "x = -1", "a cat")
    assert "gave no mark for v1_1 in 5 tries, last 'hm'" in refusal(eval_mmvet, *flags)
    run_main(eval_mmvet, *flags)
    assert len(judge.requests) == 7


def test_unfinished_answers_are_refused(
    tmp_path: Path, write_lines: Callable[..., str], refusal: Callable[..., str], judge: Any
) -> None:
    assert "has no answer to 1 of 2 questions, first v1_1" in refusal(eval_mmvet, *files(tmp_path, write_lines, "x"))
    assert not judge.requests
