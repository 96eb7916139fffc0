import json
from pathlib import Path
from typing import Any

import pytest

from llava.errors import UserError
from llava.eval.merge import merge_chunks
from llava.eval.provenance import close_record, file_digest, provenance_path, read_provenance, write_provenance


def write_chunk(folder: Path, name: str, ids: list[int], **changes: Any) -> None:
    """A finished chunk of ``q.jsonl``; ``changes`` to its provenance, those to the questions one by one."""
    questions = {
        "file": "q.jsonl",
        "sha256": file_digest(folder / "q.jsonl"),
        "num_chunks": 2,
        "chunk_idx": int(name[2]),
    }
    text = "".join(json.dumps({"question_id": i, "text": f"é{i}"}, ensure_ascii=False) + "\n" for i in ids)
    (folder / name).write_text(text, encoding="utf-8")
    record = {
        "settings": {"temperature": 0},
        "questions": questions | changes.pop("questions", {}),
        "items": len(ids),
        "inputs_digest": f"{sum(ids) + 2**256 - 1:064x}"[-64:],
        "resumed_at": [],
        "time": {"started": "2026-01-01", "finished": "2026-01-02", "seconds": float(len(ids))},
    }
    close_record(folder / name, record)
    write_provenance(folder / name, read_provenance(folder / name) | changes)


@pytest.fixture
def chunks(tmp_path: Path) -> Path:
    (tmp_path / "q.jsonl").write_text("".join(f'{{"question_id": {i}}}\n' for i in (5, 3, 3)))
    write_chunk(tmp_path, "2_0.jsonl", [5, 3])
    write_chunk(tmp_path, "2_1.jsonl", [3])
    return tmp_path


def merge(folder: Path) -> int:
    return merge_chunks(str(folder / "q.jsonl"), str(folder), 2, str(folder / "merge.jsonl"))


def test_chunks_join_in_order_with_one_provenance(chunks: Path) -> None:
    assert merge(chunks) == 3
    parts = [(chunks / f"2_{i}.jsonl").read_bytes() for i in range(2)]
    assert (chunks / "merge.jsonl").read_bytes() == parts[0] + parts[1]
    record = read_provenance(chunks / "merge.jsonl")
    assert record["items"] == 3
    assert int(record["inputs_digest"], 16) == 5 + 3 + 3 - 2  # each chunk's is one less than its sum, modulo 2^256
    assert (record["questions"]["num_chunks"], record["questions"]["chunk_idx"]) == (2, None)
    assert record["answers_sha256"] == file_digest(chunks / "merge.jsonl")
    assert record["time"]["seconds"] == 2.0


def test_nothing_is_merged_unless_everything_is_there(chunks: Path) -> None:
    def refused(message: str) -> None:
        with pytest.raises(UserError, match=message):
            merge(chunks)
        assert not (chunks / "merge.jsonl").exists()

    write_chunk(chunks, "2_1.jsonl", [3], status="running")
    refused(r"2_1\.jsonl is running, not complete: .*; evaluate again with resuming")
    write_chunk(chunks, "2_1.jsonl", [3])
    (chunks / "2_1.jsonl").write_text("")
    refused(r"2_1\.jsonl was changed after its chunk had finished; evaluate anew")
    for questions in ({"sha256": "0"}, {"chunk_idx": 0}, {"num_chunks": 3}):
        write_chunk(chunks, "2_1.jsonl", [3], questions={"file": "other.jsonl"} | questions)
        refused(r"2_1\.jsonl does not answer chunk 1 of 2 of .*q\.jsonl, but of other\.jsonl; evaluate anew")
    write_chunk(chunks, "2_1.jsonl", [3], settings={"temperature": 1})
    refused(r"2_1\.jsonl was made with temperature 1, not 0")
    provenance_path(chunks / "2_1.jsonl").unlink()
    refused(r"2_1\.jsonl\.provenance\.json is not there")
    (chunks / "2_1.jsonl").unlink()
    refused(r"2_1\.jsonl is not there: its chunk did not run")
