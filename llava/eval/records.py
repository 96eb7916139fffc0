"""Files with one JSON record per line, and their chunks."""

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from llava.errors import UserError

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


def require_keys(records: Iterable[dict[str, Any]], keys: Sequence[str], path: str) -> None:
    """Raises UserError naming the first record of ``path`` that lacks one of ``keys``."""
    for number, record in enumerate(records, start=1):
        missing = [key for key in keys if key not in record]
        if missing:
            raise UserError(f"{path}, record {number} has no {missing[0]!r}; every record needs {', '.join(keys)}")


def split_list(lst: Sequence[T], n: int) -> list[Sequence[T]]:
    """Consecutive pieces of ``ceil(len(lst) / n)`` elements: at most ``n`` of them, the last may be shorter."""
    size = max(1, math.ceil(len(lst) / n))
    return [lst[start : start + size] for start in range(0, len(lst), size)]


def get_chunk(lst: Sequence[T], n: int, k: int) -> Sequence[T]:
    """The ``k``-th of the ``n`` pieces; empty when the list runs out before it."""
    pieces = split_list(lst, n)
    return pieces[k] if k < len(pieces) else lst[:0]
