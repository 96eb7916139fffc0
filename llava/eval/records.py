"""The files that evaluations read: JSON, JSON Lines and tables; and chunks of them."""

import json
import math
from collections.abc import Collection, Container, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from llava.errors import UserError
from llava.eval.extras import import_extra

T = TypeVar("T")


def read_json_lines(path: str) -> list[dict[str, Any]]:
    """The records of a JSON Lines file (utf-8, ``~`` allowed, blank lines skipped).

    Raises UserError for a missing or empty file and for a line that is not a JSON object.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise UserError(f"{file} is not there; it must be a file with one JSON record per line: check the path")
    records = []
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                raise UserError(
                    f"{file}, line {number} is not JSON ({error}); one record per line is the rule"
                ) from error
            if not isinstance(record, dict):
                raise UserError(
                    f"{file}, line {number} is a JSON {type(record).__name__}; every line must be an object"
                )
            records.append(record)
    if not records:
        raise UserError(f"{file} is empty; it must hold at least one record")
    return records


def read_json(path: str | Path, kind: str) -> Any:
    """What a JSON file (utf-8, ``~`` allowed) holds. Raises UserError, in which the file is called a ``kind``."""
    file = Path(path).expanduser()
    if not file.is_file():
        raise UserError(f"{file} is not there; it must be {kind}: check the path")
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{file} is not JSON ({error}); it must be {kind}") from error


def write_json(path: str | Path, content: Any, indent: int | None = None) -> None:
    """Writes a JSON file; its folder is made if it is not there."""
    file = Path(path).expanduser()
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content, indent=indent, ensure_ascii=False), encoding="utf-8")


def write_json_lines(path: str | Path, records: Iterable[Any]) -> None:
    """Writes one JSON record per line; the file's folder is made if it is not there."""
    file = Path(path).expanduser()
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def read_json_list(path: str) -> list[dict[str, Any]]:
    """The records in a JSON file's list. Raises UserError for anything else, and for an empty list."""
    records = read_json(path, "a JSON list of records")
    if not isinstance(records, list) or not records or not all(isinstance(record, dict) for record in records):
        raise UserError(f"{path} holds no JSON list of records; it must hold at least one")
    return records


def read_conversations(path: str) -> list[dict[str, Any]]:
    """The samples of a LLaVA-format JSON file. Raises UserError naming one without ``id`` or ``conversations``."""
    samples = read_json_list(path)
    require_keys(samples, ("id", "conversations"), path)
    for number, sample in enumerate(samples, start=1):
        turns = sample["conversations"]
        if not isinstance(turns, list) or not turns or not all(isinstance(turn.get("value"), str) for turn in turns):
            raise UserError(
                f"{path}, record {number} has no turns with a text 'value'; every record needs at least one"
            )
    return samples


def read_table(path: str, columns: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of a tab-separated table: ``index`` a whole number, all else text, empty cells NaN.

    Raises UserError for a missing or empty table and for a missing column.
    """
    pandas = import_extra("pandas", "MMBench's tables are")
    file = Path(path).expanduser()
    if not file.is_file():
        raise UserError(f"{file} is not there; it must be a tab-separated table: check the path")
    try:
        table = pandas.read_table(file, dtype=str)
        missing = [column for column in columns if column not in table.columns]
        if missing:
            raise UserError(f"{file} has no column {missing[0]!r}; it must have {', '.join(columns)}")
        table["index"] = table["index"].astype(int)
    except pandas.errors.EmptyDataError as error:
        raise UserError(f"{file} is empty; it must hold at least one row") from error
    except (pandas.errors.ParserError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{file} cannot be read as a tab-separated table ({error}); get it again") from error
    if not len(table):
        raise UserError(f"{file} is empty; it must hold at least one row")
    return table.to_dict("records")


def require_keys(records: Iterable[dict[str, Any]], keys: Sequence[str], path: str) -> None:
    """Raises UserError naming the first record of ``path`` that lacks one of ``keys``."""
    for number, record in enumerate(records, start=1):
        missing = [key for key in keys if key not in record]
        if missing:
            raise UserError(f"{path}, record {number} has no {missing[0]!r}; every record needs {', '.join(keys)}")


def read_answers(path: str) -> dict[str, dict[str, Any]]:
    """The records of an answers file by ``question_id`` as text. Raises UserError for two answers to a question."""
    answers: dict[str, dict[str, Any]] = {}
    records = read_json_lines(path)
    require_keys(records, ("question_id", "text"), path)
    for record in records:
        name = str(record["question_id"])
        if answers.setdefault(name, record) is not record:
            raise UserError(f"{path} answers question {name} twice; keep one answer to each")
    return answers


def require_answers(answers: Container[str], asked: Collection[str], path: str) -> None:
    """Raises UserError unless the answers of ``path`` cover all questions that were ``asked``."""
    missing = [name for name in asked if name not in answers]
    if missing:
        raise UserError(
            f"{path} has no answer to {len(missing)} of {len(asked)} questions, first {missing[0]}; it is unfinished "
            "or of another question set: answer them first"
        )


def split_list(lst: Sequence[T], n: int) -> list[Sequence[T]]:
    """Consecutive pieces of ``ceil(len(lst) / n)`` elements: at most ``n`` of them, the last may be shorter."""
    size = max(1, math.ceil(len(lst) / n))
    return [lst[start : start + size] for start in range(0, len(lst), size)]


def get_chunk(lst: Sequence[T], n: int, k: int) -> Sequence[T]:
    """The ``k``-th of the ``n`` pieces; empty when the list runs out before it."""
    pieces = split_list(lst, n)
    return pieces[k] if k < len(pieces) else lst[:0]
