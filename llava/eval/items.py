"""What an evaluation asks: records of a question file, cut into chunks, put into a conversation template."""

import json
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image, UnidentifiedImageError

from llava.constants import DEFAULT_IM_END_TOKEN, DEFAULT_IM_START_TOKEN, DEFAULT_IMAGE_TOKEN
from llava.conversation import conv_templates
from llava.errors import UserError

T = TypeVar("T")


@dataclass(frozen=True)
class Item:
    """One thing to answer.

    record: what its line in the answers file says besides the answer, in the line's order. The answer takes the place
        of a ``text`` key, or follows the others when there is none.
    text: the user's turn, with ``<image>`` wherever a picture stands.
    images: the pictures in the order of the ``<image>`` marks: a path, or the bytes of an encoded picture.
    """

    record: dict[str, Any]
    text: str
    images: tuple[str | bytes, ...] = ()

    @property
    def name(self) -> str:
        """How messages call it."""
        return f"question {self.record['question_id']!r}"


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


def resolve_conv_mode(conv_mode: str, model_name: str) -> str:
    """The template to use: a ``plain`` model that was never fine-tuned gets the ``_mmtag`` one, with a notice."""
    name = model_name.lower()
    if "plain" in name and "finetune" not in name and "mmtag" not in conv_mode.lower():
        with_tags = f"{conv_mode.removeprefix('llava_')}_mmtag"  # llava_v1's is called v1_mmtag
        print(f"{model_name} is a plain model: using the template {with_tags} instead of {conv_mode}")
        conv_mode = with_tags
    return known_conv_mode(conv_mode)


def known_conv_mode(conv_mode: str) -> str:
    """The same name. Raises UserError for a template that does not exist."""
    if conv_mode not in conv_templates:
        raise UserError(f"--conv-mode is {conv_mode!r}; it must be one of {', '.join(sorted(conv_templates))}")
    return conv_mode


def render_prompt(text: str, conv_mode: str, start_end: bool = False) -> str:
    """A user's turn in its template, open for the assistant's answer.

    ``start_end`` wraps every ``<image>`` for models trained with ``mm_use_im_start_end``.
    """
    if start_end:
        text = text.replace(DEFAULT_IMAGE_TOKEN, DEFAULT_IM_START_TOKEN + DEFAULT_IMAGE_TOKEN + DEFAULT_IM_END_TOKEN)
    conversation = conv_templates[conv_mode].copy()
    for role, message in zip(conversation.roles, (text, None), strict=True):
        conversation.append_message(role, message)
    return conversation.get_prompt()


def check_items(items: Sequence[Item]) -> None:
    """Raises UserError when a text has more or fewer ``<image>`` than pictures, or picture files are missing."""
    for item in items:
        marks = item.text.count(DEFAULT_IMAGE_TOKEN)
        if marks != len(item.images):
            raise UserError(
                f"{item.name} has {marks} {DEFAULT_IMAGE_TOKEN} for {len(item.images)} pictures; they must be as many: "
                "check the question's text"
            )
    files = [(item, image) for item in items for image in item.images if isinstance(image, str)]
    missing = [(item, image) for item, image in files if not os.path.isfile(image)]
    if missing:
        item, image = missing[0]
        raise UserError(
            f"{len(missing)} of {len(files)} pictures are not there, first {image} of {item.name}; check --image-folder"
        )


def open_image(image: str | bytes, item_name: str) -> Image.Image:
    """The picture in RGB. Raises UserError naming file and question when it cannot be decoded."""
    try:
        with Image.open(image if isinstance(image, str) else BytesIO(image)) as picture:
            return picture.convert("RGB")
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError) as error:
        name = image if isinstance(image, str) else "the picture in the question file"
        raise UserError(f"{name} of {item_name} cannot be read as a picture ({error}); replace the file") from error
