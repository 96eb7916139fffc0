import json
from pathlib import Path

import pytest

from llava.errors import UserError
from llava.eval.answers import AnswersFile, find_finished
from llava.eval.items import Item

ITEMS = [Item({"question_id": n, "prompt": f"é{n}"}, "text") for n in range(4)]


def written(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_answers_stand_in_question_order_whatever_order_they_come_in(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "a.jsonl"
    with AnswersFile(path, ITEMS, "m", 0, 0) as answers:
        answers.add([2, 1], ["two", "one"])
        assert path.read_bytes() == b""
        answers.add([0], ["zero"])
        assert [line["text"] for line in written(path)] == ["zero", "one", "two"]  # flushed before the file is closed
    first = written(path)[0]
    assert list(first) == ["question_id", "prompt", "text", "answer_id", "model_id", "metadata"]
    assert (first["prompt"], first["model_id"], first["metadata"]) == ("é0", "m", {})


def test_the_answer_takes_the_place_that_the_record_keeps_for_it(tmp_path: Path) -> None:
    item = Item({"question_id": 1, "text": None, "options": ["a"]}, "text")
    with AnswersFile(tmp_path / "a.jsonl", [item], "m", 0, 0) as answers:
        answers.add([0], ["yes"])
    assert list(written(tmp_path / "a.jsonl")[0]) == [
        "question_id",
        "text",
        "options",
        "answer_id",
        "model_id",
        "metadata",
    ]
    assert find_finished(tmp_path / "a.jsonl", [item], "m")[0] == 1


@pytest.mark.parametrize("half", [b"", b'{"question_id": 2, "pro', b'{"question_id": 2, "prompt": "\xc3'])
def test_a_half_written_line_is_cut_off_and_the_rest_kept(tmp_path: Path, half: bytes) -> None:
    path = tmp_path / "a.jsonl"
    with AnswersFile(path, ITEMS, "m", 0, 0) as answers:
        answers.add([0, 1], ["zero", "one"])
    whole = path.read_bytes()
    path.write_bytes(whole + half)
    assert find_finished(path, ITEMS, "m") == (2, len(whole))
    assert path.read_bytes() == whole + half  # looking changes nothing
    with AnswersFile(path, ITEMS, "m", 2, len(whole)) as answers:
        answers.add([1, 2], ["another one", "two"])
    assert path.read_bytes().startswith(whole)
    assert [line["text"] for line in written(path)] == ["zero", "one", "two"]


def test_no_file_is_a_fresh_start(tmp_path: Path) -> None:
    assert find_finished(tmp_path / "a.jsonl", ITEMS, "m") == (0, 0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            '{"question_id": 0, "prompt": "other", "model_id": "m"}\n',
            r"line 1 has prompt 'other' where this run has 'é0'",
        ),
        ('{"question_id": 0, "prompt": "é0", "model_id": "n"}\n', r"line 1 has model_id 'n' where this run has 'm'"),
        ("{}\n" * 5, r"has 5 answers, but there are only 4 questions"),
        ("[\n", r"line 1 is not JSON"),
    ],
)
def test_answers_of_another_run_are_refused_and_kept(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        find_finished(path, ITEMS, "m")
    assert path.read_text(encoding="utf-8") == content
