import re
from pathlib import Path

import pytest

from llava.errors import UserError
from llava.eval.records import (
    get_chunk,
    read_answers,
    read_json,
    read_json_lines,
    read_table,
    require_answers,
    split_list,
    write_json,
    write_json_lines,
)


def test_chunks_are_consecutive_and_of_the_rounded_up_size() -> None:
    assert split_list(list(range(7)), 3) == [[0, 1, 2], [3, 4, 5], [6]]
    assert [get_chunk(list(range(7)), 3, k) for k in range(3)] == [[0, 1, 2], [3, 4, 5], [6]]


@pytest.mark.parametrize("count", [0, 1, 4, 5, 12578])
@pytest.mark.parametrize("chunks", [1, 2, 4, 8])
def test_chunks_hold_every_item_once_in_order(count: int, chunks: int) -> None:
    items = list(range(count))
    assert [item for k in range(chunks) for item in get_chunk(items, chunks, k)] == items


def test_a_chunk_beyond_the_items_is_empty() -> None:
    # ceil(5 / 4) = 2 items each: three chunks hold all of them
    assert get_chunk(list(range(5)), 4, 3) == []


def test_records_are_utf8_and_the_home_folder_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "q.jsonl").write_bytes('{"text": "请直接回答"}\n\n{"text": "é"}'.encode())
    monkeypatch.setenv("HOME", str(tmp_path))
    assert read_json_lines("~/q.jsonl") == [{"text": "请直接回答"}, {"text": "é"}]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty; it must hold at least one record"),
        ('{"text": "a"}\n{"text": ', "line 2 is not JSON"),
        ("[1]\n", "line 1 is a JSON list; every line must be an object"),
    ],
)
def test_a_bad_question_file_is_named_with_its_line(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text(content)
    with pytest.raises(UserError, match=f"{re.escape(str(path))}.*{message}"):
        read_json_lines(str(path))


def test_a_missing_question_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.jsonl is not there"):
        read_json_lines(str(tmp_path / "none.jsonl"))


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    write_json(tmp_path / "new" / "a.json", {"text": "é"})
    assert read_json(tmp_path / "new" / "a.json", "a test") == {"text": "é"}
    write_json_lines(tmp_path / "new" / "a.jsonl", iter([{"question_id": 1, "text": "é"}]))
    assert read_answers(str(tmp_path / "new" / "a.jsonl")) == {"1": {"question_id": 1, "text": "é"}}


def test_bad_json_is_named_by_what_it_should_be(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.json is not there; it must be a test: check the path"):
        read_json(tmp_path / "none.json", "a test")
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(UserError, match=r"a\.json is not JSON \(.*\); it must be a test"):
        read_json(tmp_path / "a.json", "a test")


def test_answers_must_cover_the_questions_once() -> None:
    require_answers({"1": "x", "2": "y"}, ["1"], "a.jsonl")
    with pytest.raises(UserError, match=r"a\.jsonl has no answer to 2 of 3 questions, first 2; it is unfinished or of"):
        require_answers({"1": "x"}, ["1", "2", "3"], "a.jsonl")


def test_cells_of_a_table_are_text_but_its_index(tmp_path: Path) -> None:
    pytest.importorskip("pandas")
    (tmp_path / "t.tsv").write_text("index\tA\tB\n7\t1.50\t\n")
    (row,) = read_table(str(tmp_path / "t.tsv"), ("A",))
    assert (row["index"], row["A"]) == (7, "1.50")
    assert row["B"] != row["B"]
    with pytest.raises(UserError, match=r"none\.tsv is not there; it must be a tab-separated table"):
        read_table(str(tmp_path / "none.tsv"), ())
    (tmp_path / "t.tsv").write_text("index\tA\n")
    with pytest.raises(UserError, match=r"t\.tsv is empty; it must hold at least one row"):
        read_table(str(tmp_path / "t.tsv"), ())
