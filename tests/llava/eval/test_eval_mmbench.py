from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llava.eval import eval_mmbench
from llava.eval.scores import read_scores

pytest.importorskip("pandas")


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Two questions, the first asked in two rotations."""
    rows = [("1", "red?", "x", "y", "A"), ("1000001", "red?", "y", "x", "B"), ("2", "blue?", "x", "y", "B")]
    lines = ["index\tquestion\tA\tB\tanswer", *("\t".join(row) for row in rows)]
    (tmp_path / "dev.tsv").write_text("\n".join(lines) + "\n")
    return tmp_path / "dev.tsv"


def answer(index: int, text: str, round_id: int = 0, letters: str = "AB") -> dict[str, Any]:
    return {"question_id": index, "round_id": round_id, "option_char": list(letters), "text": text}


def test_circular_eval_wants_every_rotation(
    table: Path, write_lines: Callable[..., str], run_main: Callable[..., str]
) -> None:
    result = write_lines("a.jsonl", answer(1, "A. x"), answer(1000001, "A"), answer(2, "(B)"))
    out = run_main(eval_mmbench, "--annotation-file", table, "--result-file", result)
    assert out == "circular accuracy: 50.00% ± 35.36 (n=2)\nvanilla accuracy: 100.00% ± 0.00 (n=2)\n"
    assert read_scores(result)["mmbench_circular"].groups[""] == {"1": (0.0, 1.0), "2": (1.0, 1.0)}


def test_the_letter_of_a_round_stands_for_the_option_that_was_moved_there(
    table: Path, write_lines: Callable[..., str], run_main: Callable[..., str]
) -> None:
    rounds = [answer(1, "A"), answer(1, "B", 1, "BA"), answer(1000001, "B"), answer(1000001, "A", 1, "BA")]
    result = write_lines("a.jsonl", *rounds, answer(2, "It is y"), answer(2, "A", 1, "BA"))
    run_main(eval_mmbench, "--annotation-file", table, "--result-file", result)
    assert read_scores(result)["mmbench_circular"].groups[""] == {"1": (1.0, 1.0), "2": (0.0, 1.0)}


def test_tables_without_answers_and_other_questions_are_refused(
    table: Path, write_lines: Callable[..., str], refusal: Callable[..., str]
) -> None:
    def refused(*answers: dict[str, Any]) -> str:
        result = write_lines("a.jsonl", *answers)
        return refusal(eval_mmbench, "--annotation-file", table, "--result-file", result)

    assert "question 7 is not in" in refused(answer(7, "A"))
    assert "question 2 of" in refused(answer(1, "A"))
    table.write_text("index\tquestion\tA\n1\tred?\tx\n")
    assert "has no answers (MMBench's test split has none)" in refused(answer(1, "A"))
    table.write_text("question\tA\nred?\tx\n")
    assert "has no column 'index'" in refused(answer(1, "A"))
    table.write_text("")
    assert "dev.tsv is empty" in refused(answer(1, "A"))
    table.write_text("index\tquestion\none\tred?\n")
    assert "dev.tsv cannot be read as a tab-separated table" in refused(answer(1, "A"))
