"""The answers file: written line by line in question order, and taken up again after a run was killed."""

import json
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import shortuuid

from llava.errors import UserError
from llava.eval.items import Item


def find_finished(path: Path, items: Sequence[Item], model_id: str) -> tuple[int, int]:
    """How far an answers file has come: (answers that stand, bytes they fill). Nothing is changed.

    A last line without its line break is one that a killed run left half written; it does not count.
    Raises UserError when a line is damaged or belongs to another question set or model.
    """
    if not path.exists():
        return 0, 0
    content = path.read_bytes()
    *lines, half_written = content.split(b"\n")
    size = len(content) - len(half_written)
    if len(lines) > len(items):
        raise UserError(
            f"{path} has {len(lines)} answers, but there are only {len(items)} questions: they are not its own; "
            "choose another --answers-file"
        )
    for number, (line, item) in enumerate(zip(lines, items, strict=False), start=1):
        try:
            answer = json.loads(line)
        except ValueError as error:
            raise UserError(
                f"{path}, line {number} is not JSON ({error}); delete the file and run without --resume"
            ) from error
        # Compared as JSON, as that is how the file holds them.
        expected = json.loads(json.dumps(item.record)) | {"model_id": model_id}
        expected.pop("text", None)
        for key, value in expected.items():
            if answer.get(key) != value:
                raise UserError(
                    f"{path}, line {number} has {key} {answer.get(key)!r} where this run has {value!r}: it belongs to "
                    "other questions or another model; choose another --answers-file"
                )
    return len(lines), size


class AnswersFile:
    """Writes answers in the items' order, whatever order they come in; each line is flushed as soon as it is its turn.

    ``finished`` answers in ``kept_bytes`` are already there (:func:`find_finished`); entering cuts off what follows.
    """

    def __init__(self, path: Path, items: Sequence[Item], model_id: str, finished: int, kept_bytes: int) -> None:
        self.path = path
        self.items = items
        self.model_id = model_id
        self.finished = finished
        self.kept_bytes = kept_bytes
        self._waiting: dict[int, str] = {}

    def __enter__(self) -> "AnswersFile":
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("ab")
        self._file.truncate(self.kept_bytes)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, indices: Sequence[int], texts: Sequence[str]) -> None:
        """Answers to the items at ``indices``; those that the file already has are left as they stand."""
        self._waiting |= dict(zip(indices, texts, strict=True))
        while self.finished in self._waiting:
            self._file.write(self._line(self.items[self.finished], self._waiting.pop(self.finished)))
            self._file.flush()
            self.finished += 1

    def _line(self, item: Item, text: str) -> bytes:
        answer: dict[str, Any] = {
            **item.record,
            "text": text,
            "answer_id": shortuuid.uuid(),
            "model_id": self.model_id,
            "metadata": {},
        }
        return json.dumps(answer).encode() + b"\n"
