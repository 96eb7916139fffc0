import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llava.eval import eval_gpt_review, eval_gpt_review_bench, eval_gpt_review_visual, qa_baseline_gpt35
from llava.eval import summarize_gpt_review as summary
from llava.eval.reviews import parse_scores
from llava.eval.scores import read_scores

RULES = Path(summary.__file__).parent / "table" / "rule.json"
QUESTIONS = [
    {"question_id": 5, "text": "Why?", "category": "conv", "image": "a.jpg"},
    {"question_id": 6, "text": "How?", "category": "detail", "image": "b.jpg"},
]


@pytest.mark.parametrize(
    ("review", "scores"),
    [
        ("8 7\nBecause", [8.0, 7.0]),
        ("8.5,7", [8.5, 7.0]),
        ("8, 7", [-1, -1]),  # a comma and a blank are two blanks
        ("8", [-1, -1]),
        ("eight seven", [-1, -1]),
        ("", [-1, -1]),
    ],
)
def test_scores_are_the_two_numbers_of_the_first_line(
    review: str, scores: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    assert parse_scores(review) == scores
    assert capsys.readouterr().out.startswith("error") == (scores == [-1, -1])


@pytest.fixture
def flags(write_lines: Callable[..., str], tmp_path: Path) -> tuple[object, ...]:
    answers = [
        write_lines("gpt4.jsonl", {"text": "G5", "question_id": 5}, {"text": "G6", "question_id": 6}),
        write_lines("ours.jsonl", {"text": "O5", "answer_id": "x"}, {"text": "O6", "answer_id": "y"}),
    ]
    question = write_lines("q.jsonl", *QUESTIONS)
    return ("-q", question, "-a", *answers, "-r", RULES, "-o", tmp_path / "new" / "reviews_r.jsonl")


def reviews_of(flags: tuple[object, ...]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(str(flags[-1])).read_text().splitlines()]


def test_rules_exist_for_every_category() -> None:
    rules = json.loads(RULES.read_text())
    names = "coding math default conv detail complex llava_bench_conv llava_bench_detail llava_bench_complex"
    assert set(rules) == set(names.split())
    assert all(rule["role"] == "Assistant" and "first line" in rule["prompt"] for rule in rules.values())


def test_answers_without_pictures_fall_back_on_the_default_rule(
    flags: tuple[object, ...], run_main: Callable[..., str], judge: Any, write_lines: Callable[..., str]
) -> None:
    write_lines("q.jsonl", QUESTIONS[0], {"question_id": 6, "text": "How?", "category": "cooking"})
    run_main(eval_gpt_review, *flags)
    run_main(eval_gpt_review, *flags)  # overwrites
    first, second = reviews_of(flags)
    assert first == {
        "id": 1,
        "question_id": 5,
        "answer1_id": 5,
        "answer2_id": "x",
        "category": "conv",
        "content": "8 7\nWell.",
        "tuple": [8.0, 7.0],
    }
    assert (second["id"], second["category"]) == (2, "default")
    system, user = judge.requests[1]["messages"]
    assert system["content"].startswith("You are a helpful and precise assistant for checking")
    rule = json.loads(RULES.read_text())["default"]["prompt"]
    assert user["content"] == (
        "[Question]\nHow?\n\n[Assistant 1]\nG6\n\n[End of Assistant 1]\n\n[Assistant 2]\nO6\n\n[End of Assistant 2]\n\n"
        f"[System]\n{rule}\n\n"
    )
    assert len(judge.requests) == 4


def test_captions_and_boxes_are_the_context(
    flags: tuple[object, ...], run_main: Callable[..., str], judge: Any, write_lines: Callable[..., str]
) -> None:
    boxes = [{"category": "cat", "bbox": [0, 1, 2, 3]}, {"category": "dog", "bbox": [4, 5, 6, 7]}]
    entries = ({"image": image, "captions": ["one", "two"], "instances": boxes} for image in ("a.jpg", "b.jpg"))
    run_main(eval_gpt_review_visual, "-c", write_lines("c.jsonl", *entries), *flags)
    content = judge.requests[0]["messages"][1]["content"]
    assert content.startswith("[Context]\none\ntwo\n\ncat: [0, 1, 2, 3]\ndog: [4, 5, 6, 7]\n\n[Question]\nWhy?\n\n")


def test_reviews_of_the_bench_go_on_and_are_summed_up(
    flags: tuple[object, ...],
    run_main: Callable[..., str],
    refusal: Callable[..., str],
    judge: Any,
    write_lines: Callable[..., str],
) -> None:
    context = write_lines("c.jsonl", {"image": "a.jpg", "caption": ["x", "y"]}, {"image": "b.jpg", "caption": "z"})
    output = Path(str(flags[-1]))
    run_main(eval_gpt_review_bench, "-c", context, *flags)
    contents = [request["messages"][1]["content"] for request in judge.requests]
    assert [content.split("\n\n")[0] for content in contents] == ["[Context]\nx\ny", "[Context]\nz"]
    whole = output.read_text()
    output.write_text(whole.splitlines(keepends=True)[0])
    judge.reply = lambda messages: "7 8"
    run_main(eval_gpt_review_bench, "-c", context, *flags)
    assert len(judge.requests) == 3
    assert [review["tuple"] for review in reviews_of(flags)] == [[8.0, 7.0], [7.0, 8.0]]

    out = run_main(summary, "-f", output)
    assert out.splitlines() == [
        "reviews_r",
        "all 100.0 75.0 75.0",
        "llava_bench_conv 87.5 80.0 70.0",
        "llava_bench_detail 114.3 70.0 80.0",
        "=" * 33,
    ]
    output.write_text(whole.replace('"question_id": 5', '"question_id": 4'))
    assert "holds reviews of other questions" in refusal(eval_gpt_review_bench, "-c", context, *flags)
    output.unlink()
    short = write_lines("short.jsonl", {"text": "G5"})
    assert "short.jsonl has 1 answers to 2 questions" in refusal(
        eval_gpt_review_bench, "-c", context, *flags, "-a", short, short
    )
    bare = write_lines("bare.jsonl", {"image": "a.jpg", "caption": "z"})
    assert "question 6 is about 'b.jpg', which --context does not" in refusal(eval_gpt_review_bench, "-c", bare, *flags)
    assert not output.exists()


def review(number: int, scores: list[float]) -> dict[str, Any]:
    return {"question_id": number, "tuple": scores}


def test_the_summary_is_upstreams(
    write_lines: Callable[..., str], run_main: Callable[..., str], refusal: Callable[..., str], tmp_path: Path
) -> None:
    path = write_lines("gpt4_text_run.jsonl", review(1, [9, 7]), review(2, [8, 8]))
    assert run_main(summary, "-f", path).splitlines() == ["run", "all 88.2 85.0 75.0", "=" * 33]
    assert read_scores(path)["review_relative"].score().value == pytest.approx(100 * 15 / 17)
    assert "all 77.8 90.0 70.0" in run_main(summary, "-f", path, "-i", "2")

    write_lines("review_0613.jsonl", review(1, [1, 1]), review(2, [-1, -1]))
    write_lines("other.jsonl", review(1, [1, 1]))
    in_folder = run_main(summary, "-d", tmp_path)
    assert [line for line in in_folder.splitlines() if line[0] not in "a=1"] == ["run", "review_0613"]
    assert "1 of 2 reviews have no scores and are left out\nall 100.0 10.0 10.0" in in_folder
    assert run_main(summary, "-d", tmp_path, "-v", "0613", "-s", "review", "06").startswith("review_0613\n")
    assert run_main(summary, "-d", tmp_path, "-v", "0613", "-s", "run") == ""
    assert "nothing to summarise" in refusal(summary)


def test_a_chat_model_answers_in_the_order_of_ids(
    write_lines: Callable[..., str],
    run_main: Callable[..., str],
    judge: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("llava.eval.judge.MAX_RETRIES", 0)
    monkeypatch.setattr(qa_baseline_gpt35, "THREADS", 1)
    judge.failures = 1
    judge.reply = lambda messages: messages[1]["content"].upper()
    questions = write_lines("q.jsonl", *({"question_id": number, "text": f"t{number}"} for number in (3, 1, 2)))
    run_main(qa_baseline_gpt35, "-q", questions, "-o", tmp_path / "new" / "o.jsonl")
    text = (tmp_path / "new" / "o.jsonl").read_text()
    assert not text.endswith("\n")
    answers = [json.loads(line) for line in text.splitlines()]
    assert [(answer["question_id"], answer["text"]) for answer in answers] == [(1, "T1"), (2, "T2"), (3, "#ERROR#")]
    assert list(answers[0]) == ["answer_id", "question_id", "model_id", "text"]
    assert answers[0]["model_id"] == "gpt-3.5-turbo:20230327"
    assert judge.requests[0]["messages"][0]["content"] == "You are a helpful assistant."
