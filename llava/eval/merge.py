"""The answers of all chunks as one file: ``python -m llava.eval.merge``, after every chunk has been answered.

Nothing is written unless every chunk is complete, comes from the same model and settings, and together they answer
exactly the question file, in its order.
"""

import argparse
import json
import os
from pathlib import Path
from typing import Any

from llava.errors import UserError, exit_on_user_error
from llava.eval.provenance import (
    add_digests,
    now,
    provenance_path,
    read_provenance,
    refuse_other_settings,
    write_provenance,
)
from llava.eval.records import read_json_lines


def merge_chunks(question_file: str, answers_dir: str, num_chunks: int, answers_file: str) -> int:
    """Joins ``<answers_dir>/<num_chunks>_<index>.jsonl`` into ``answers_file`` with a provenance; returns the count.

    Raises UserError when a chunk is missing, unfinished or of other settings, or when an answer is missing.
    """
    chunks = [Path(answers_dir).expanduser() / f"{num_chunks}_{index}.jsonl" for index in range(num_chunks)]
    records = [_finished_provenance(chunk) for chunk in chunks]
    for chunk, record in zip(chunks, records, strict=True):
        refuse_other_settings(chunk, record["settings"], records[0]["settings"])

    lines = [line for chunk in chunks for line in chunk.read_text(encoding="utf-8").splitlines(keepends=True)]
    answered = [json.loads(line)["question_id"] for line in lines]
    asked = [question["question_id"] for question in read_json_lines(question_file)]
    if answered != asked:
        position = next((i for i, pair in enumerate(zip(answered, asked, strict=False)) if pair[0] != pair[1]), None)
        where = "" if position is None else f", first difference at answer {position + 1}"
        raise UserError(
            f"{answers_dir} answers {len(answered)} questions, {question_file} asks {len(asked)}{where}; evaluate anew "
            "without resuming"
        )

    target = Path(answers_file).expanduser()
    partial = target.with_name(target.name + ".part")
    partial.write_text("".join(lines), encoding="utf-8")
    os.replace(partial, target)
    write_provenance(target, _merged_provenance(records))
    return len(lines)


def _finished_provenance(chunk: Path) -> dict[str, Any]:
    record = read_provenance(chunk)
    if not chunk.is_file() or record is None:
        missing = provenance_path(chunk) if chunk.is_file() else chunk
        raise UserError(f"{missing} is not there: its chunk did not run; evaluate again")
    if record["status"] != "complete":
        raise UserError(
            f"{chunk} is {record['status']}, not complete: its chunk did not finish; evaluate again with resuming"
        )
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
