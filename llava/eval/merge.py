"""The answers of all chunks as one file: ``python -m llava.eval.merge``, after every chunk has been answered.

Nothing is written unless every chunk is complete and untouched since, comes from the same model and settings, and is
its part of the question file.
"""

import argparse
import os
from pathlib import Path
from typing import Any

from llava.errors import UserError, exit_on_user_error
from llava.eval.provenance import (
    add_digests,
    close_record,
    file_digest,
    now,
    provenance_path,
    read_provenance,
    refuse_other_settings,
)


def merge_chunks(question_file: str, answers_dir: str, num_chunks: int, answers_file: str) -> int:
    """Joins ``<answers_dir>/<num_chunks>_<index>.jsonl`` into ``answers_file`` with a provenance; returns the count.

    Raises UserError when a chunk is missing, unfinished, changed since, or of other settings or questions.
    """
    chunks = [Path(answers_dir).expanduser() / f"{num_chunks}_{index}.jsonl" for index in range(num_chunks)]
    records = [_finished_provenance(chunk) for chunk in chunks]
    for chunk, record in zip(chunks, records, strict=True):
        refuse_other_settings(chunk, record["settings"], records[0]["settings"])

    asked = file_digest(Path(question_file).expanduser())
    for index, (chunk, record) in enumerate(zip(chunks, records, strict=True)):
        questions = record["questions"]
        if (questions["sha256"], questions["num_chunks"], questions["chunk_idx"]) != (asked, num_chunks, index):
            raise UserError(
                f"{chunk} does not answer chunk {index} of {num_chunks} of {question_file}, but of "
                f"{questions['file']}; evaluate anew without resuming"
            )

    target = Path(answers_file).expanduser()
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(target.name + ".part")
    partial.write_bytes(b"".join(chunk.read_bytes() for chunk in chunks))
    os.replace(partial, target)
    merged = _merged_provenance(records)
    close_record(target, merged)
    return merged["items"]


def _finished_provenance(chunk: Path) -> dict[str, Any]:
    record = read_provenance(chunk)
    if not chunk.is_file() or record is None:
        missing = provenance_path(chunk) if chunk.is_file() else chunk
        raise UserError(f"{missing} is not there: its chunk did not run; evaluate again")
    if record["status"] != "complete":
        raise UserError(
            f"{chunk} is {record['status']}, not complete: its chunk did not finish; evaluate again with resuming"
        )
    if record["answers_sha256"] != file_digest(chunk):
        raise UserError(f"{chunk} was changed after its chunk had finished; evaluate anew without resuming")
    return record


def _merged_provenance(records: list[dict[str, Any]]) -> dict[str, Any]:
    times = [record["time"] for record in records]
    return records[0] | {
        "questions": records[0]["questions"] | {"num_chunks": len(records), "chunk_idx": None},
        "items": sum(record["items"] for record in records),
        "inputs_digest": f"{add_digests([int(record['inputs_digest'], 16) for record in records]):064x}",
        "resumed_at": [record["resumed_at"] for record in records],
        "time": {
            "started": min(time["started"] for time in times),
            "finished": now(),
            "seconds": max(time["seconds"] for time in times),
        },
    }


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="llava.eval.merge", description="Join the answers of all chunks.")
    parser.add_argument("--question-file", required=True, help="the questions that all chunks together answer")
    parser.add_argument("--answers-dir", required=True, help="folder of <chunks>_<index>.jsonl")
    parser.add_argument("--num-chunks", type=int, required=True)
    parser.add_argument("--answers-file", required=True, help="where the joined answers go")
    return parser


@exit_on_user_error
def main() -> None:
    args = build_parser().parse_args()
    count = merge_chunks(args.question_file, args.answers_dir, args.num_chunks, args.answers_file)
    print(f"{count} answers in {args.answers_file}")


if __name__ == "__main__":
    main()
