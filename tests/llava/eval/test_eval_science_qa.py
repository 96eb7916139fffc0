import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llava.eval import eval_science_qa, eval_science_qa_gpt4, eval_science_qa_gpt4_requery
from llava.eval.eval_science_qa import FAILED, option_index, parse_answer
from llava.eval.scores import read_scores

OPTIONS = list("ABCDE")


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        ("B. y", "B"),
        ("The answer is B.", "B"),
        ("I think so. The answer is C, as said", "C"),
        ("b", FAILED),
        ("The answer is A. The answer is B.", FAILED),
        ("The answer is B", FAILED),  # some character must follow
        ("B.y", FAILED),
        ("F", FAILED),
        ("", FAILED),
    ],
)
def test_letters_are_found_as_upstream_finds_them(text: str, letter: str) -> None:
    assert parse_answer(text, OPTIONS) == letter


def test_a_letter_beyond_the_choices_is_none_of_them() -> None:
    assert option_index("B", ["x", "y"], OPTIONS) == 1
    assert option_index("C", ["x", "y"], OPTIONS) == -1
    assert option_index(FAILED, ["x", "y"], OPTIONS) == -1


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """Four problems of two choices; the second is right in all."""
    problems = {str(n): {"choices": ["x", "y"], "answer": 1} for n in range(1, 6)}
    (tmp_path / "problems.json").write_text(json.dumps(problems))
    (tmp_path / "pid_splits.json").write_text(json.dumps({"test": ["1", "2", "3", "4"], "val": ["5"]}))
    return tmp_path


def answer(name: str, text: str, prompt: str = "Which?") -> dict[str, Any]:
    return {"question_id": name, "text": text, "prompt": prompt}


def test_the_scores_are_upstreams(base: Path, write_lines: Callable[..., str], run_main: Callable[..., str]) -> None:
    result = write_lines(
        "a.jsonl", answer("1", "B", "<image>\nWhich?"), answer("2", "A. x", "<image>\nWhich?"), answer("3", "C")
    )
    files = {name: base / "new" / f"{name}.json" for name in ("output", "result")}
    flags = ("--base-dir", base, "--result-file", result)
    out = run_main(eval_science_qa, *flags, "--output-file", files["output"], "--output-result", files["result"])
    assert out == "Total: 4, Correct: 1, Accuracy: 25.00%, IMG-Accuracy: 50.00%\n"
    output, scores = (json.loads(path.read_text()) for path in files.values())
    assert [entry["question_id"] for entry in output["correct"]] == ["1"]
    assert output["incorrect"][1:] == [
        {
            "question_id": "3",
            "parsed_ans": "C",
            "ground_truth": "B",
            "question": "Which?",
            "pred": "C",
            "is_multimodal": False,
        },
        {
            "question_id": "4",
            "parsed_ans": FAILED,
            "ground_truth": "B",
            "question": "Unknown",
            "pred": FAILED,
            "is_multimodal": False,
        },
    ]
    assert (scores["acc"], scores["correct"], scores["count"]) == (25.0, 1, 4)
    assert scores["results"] == {"1": 1, "2": 0, "3": -1, "4": -1}
    assert scores["outputs"]["2"] == "A. x"
    assert read_scores(result)["sqa_image_accuracy"].groups[""] == {"1": (1.0, 1.0), "2": (0.0, 1.0)}


def test_text_alone_has_no_image_accuracy(
    base: Path, write_lines: Callable[..., str], run_main: Callable[..., str]
) -> None:
    result = write_lines("a.jsonl", answer("5", "B"))
    flags = ("--base-dir", base, "--result-file", result, "--split", "val", "--options", "AB")
    out = run_main(eval_science_qa, *flags, "--output-file", base / "o.json", "--output-result", base / "r.json")
    assert out == "Total: 1, Correct: 1, Accuracy: 100.00%, IMG-Accuracy: nan%\n"
    assert list(read_scores(result)) == ["sqa_accuracy"]


def test_answers_of_another_set_are_refused(
    base: Path, write_lines: Callable[..., str], refusal: Callable[..., str]
) -> None:
    outputs = ("--output-file", base / "o.json", "--output-result", base / "r.json")
    flags = ("--base-dir", base, "--result-file", write_lines("a.jsonl", answer("77", "B")))
    assert "answers no problem of split test" in refusal(eval_science_qa, *flags, *outputs)
    assert "has no split 'train'; it has test, val" in refusal(eval_science_qa, *flags, *outputs, "--split", "train")
    (base / "pid_splits.json").write_text('{"test": ["1", "9"]}')
    assert "lacks problem 9 of split test" in refusal(eval_science_qa, *flags, *outputs)
    assert not (base / "o.json").exists()


def write_gpt4(base: Path, outputs: dict[str, str]) -> Path:
    (base / "gpt4.json").write_text(json.dumps({"outputs": outputs}))
    return base / "gpt4.json"


def test_ours_takes_the_place_of_gpt4s_where_that_names_no_option(
    base: Path, write_lines: Callable[..., str], run_main: Callable[..., str], refusal: Callable[..., str]
) -> None:
    gpt4 = write_gpt4(base, {"1": "The answer is B.", "2": "no idea", "3": "The answer is A."})
    ours = write_lines("a.jsonl", *(answer(n, "The answer is B.") for n in ("2", "3", "4", "1")))
    flags = ("--base-dir", base, "--gpt4-result", gpt4, "--our-result", ours)
    assert run_main(eval_science_qa_gpt4, *flags).splitlines() == [
        "Total: 3, Correct: 2, Accuracy: 66.67%",
        "Total: 3, Upper bound: 3, Accuracy: 100.00%",
        "Total: 3, GPT-4 NO-ANS: 1, Share: 33.33%",
    ]
    unclear = write_lines("u.jsonl", *(answer(n, "?") for n in "1234"))
    flags = ("--base-dir", base, "--gpt4-result", gpt4, "--our-result", unclear)
    assert run_main(eval_science_qa_gpt4, *flags) == run_main(eval_science_qa_gpt4, *flags)  # chance has a seed
    gpt4.write_text("{}")
    assert "gpt4.json has no object 'outputs'" in refusal(eval_science_qa_gpt4, *flags)


def test_a_requery_decides(
    base: Path, write_lines: Callable[..., str], run_main: Callable[..., str], refusal: Callable[..., str]
) -> None:
    gpt4 = write_gpt4(base, {"1": "The answer is A.", "2": "no idea", "3": "The answer is B.", "4": "The answer is A."})
    prompts = {"1": "<image>\n?", "2": "<image>\n?", "3": "?", "4": "?"}
    ours = write_lines("a.jsonl", *(answer(n, "The answer is B.", prompt) for n, prompt in prompts.items()))
    requery = write_lines(
        "r.jsonl", {"question_id": "1", "text": "The answer is B."}, {"question_id": "4", "text": "The answer is A."}
    )
    flags = ("--base-dir", base, "--gpt4-result", gpt4, "--requery-result", requery, "--output-result", base / "o.json")
    assert run_main(eval_science_qa_gpt4_requery, *flags, "--our-result", ours).splitlines() == [
        "wrong requery 4: 'The answer is A.', the answer is B",
        "Total: 4, Our-Correct: 4, Accuracy: 100.00%",
        # GPT-4 named no option for the second; what chance gives it is fixed by the seed
        "Total: 4, GPT-4 Correct: 1, Accuracy: 25.00%",
        "Total: 4, GPT-4 NO-ANS: 1, Share: 25.00%",
        "Total: 4, Upper bound: 4, Accuracy: 100.00%",
        "Total: 4, Requery-Correct: 3, Accuracy: 75.00%",
        "Total: 2, Requery-IMG-Correct: 2, IMG-Accuracy: 100.00%",
    ]
    assert json.loads((base / "o.json").read_text())["results"] == {"1": 1, "2": 1, "3": 1, "4": 0}
    missing = write_lines("m.jsonl", answer("1", "B"))
    assert "has no answer to 3 of 4 questions, first 2" in refusal(
        eval_science_qa_gpt4_requery, *flags, "--our-result", missing
    )
