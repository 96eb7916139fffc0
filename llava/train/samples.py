"""The training file: a JSON list of samples, checked once and kept compactly."""

import json
from collections.abc import Iterable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, TypeAlias

import torch

from llava.constants import DEFAULT_IMAGE_TOKEN
from llava.conversation import Conversation, SeparatorStyle
from llava.errors import UserError
from llava.train.preprocess import check_turns, used_turns

Sample: TypeAlias = dict[str, Any]


class PictureError(UserError):
    """A sample's picture is missing, broken or does not fit its text. ``--bad_image_policy`` says what happens."""


def read_samples(path: str | Path) -> list[Any]:
    """The list in the JSON file ``path``.

    Raises:
        UserError: no such file, not JSON, not a list, or an empty one.
    """
    try:
        with open(path, encoding="utf-8") as file:
            samples = json.load(file)
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror}); --data_path must name a JSON file") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8") from error
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path} is not JSON: {error.msg} at line {error.lineno}, column {error.colno}; "
            "it must hold one list of samples (JSON has no comments and no comma after the last entry)"
        ) from error
    if not isinstance(samples, list):
        raise UserError(f"{path} holds a JSON {type(samples).__name__}; it must hold a list of samples")
    if not samples:
        raise UserError(f"{path} holds an empty list; training needs at least one sample")
    return samples


def name_of(path: str | Path, index: int, sample: Any) -> str:
    """How messages call a sample: file, place, id."""
    own_id = f" (id {sample['id']!r})" if isinstance(sample, dict) and "id" in sample else ""
    return f"{path}, sample {index}{own_id}"


def pictures_of(sample: Sample) -> list[str]:
    """Paths of a sample's pictures in the order of its ``<image>`` tokens; empty for a text-only sample."""
    if "image" not in sample:
        return []
    return sample["image"] if isinstance(sample["image"], list) else [sample["image"]]


def check_sample(sample: Any, template: Conversation) -> None:
    """Structure and turns of one sample, then whether its pictures fit its text.

    Raises:
        UserError: structure, roles or order of turns break a rule.
        PictureError: only the pictures do.
    """
    if not isinstance(sample, dict):
        raise UserError(f"it is a {type(sample).__name__}; a sample must be an object with 'conversations'")
    check_turns(sample.get("conversations"), template)
    check_pictures(sample, template)


def check_pictures(sample: Sample, template: Conversation) -> None:
    """Whether the ``<image>`` tokens of a well-formed sample and its pictures fit.

    A text-only sample may say ``<image>`` in an answer: there it is text. One picture may be shown once, in whichever
    turn, or not at all. Several pictures need as many ``<image>`` tokens.

    Raises:
        PictureError: they do not.
    """
    turns = used_turns(sample["conversations"], template)
    paths = pictures_of(sample)
    if not paths and "image" not in sample:
        if any(turn["from"].lower() != "gpt" and DEFAULT_IMAGE_TOKEN in turn["value"] for turn in turns):
            raise PictureError(f"its text has {DEFAULT_IMAGE_TOKEN} but it has no 'image'; add the picture's path")
        return
    if not paths or not all(isinstance(path, str) and path for path in paths):
        raise PictureError(f"its image is {sample['image']!r}; it must be a path or a list of paths (or left out)")
    if len(paths) == 1:
        shown = sum(DEFAULT_IMAGE_TOKEN in turn["value"] for turn in turns)
        if shown > 1:
            raise PictureError(f"{shown} turns have {DEFAULT_IMAGE_TOKEN} but it has 1 image; list one path for each")
        return
    if template.sep_style == SeparatorStyle.PLAIN:
        raise PictureError(f"it has {len(paths)} images; the plain template takes one picture and its caption")
    shown = sum(turn["value"].count(DEFAULT_IMAGE_TOKEN) for turn in turns)
    if shown != len(paths):
        raise PictureError(f"it has {len(paths)} images but {shown} {DEFAULT_IMAGE_TOKEN}; each image needs one")


class PackedSamples(Sequence[Sample]):
    """Samples as JSON text in one tensor.

    Python objects are copied into every loader worker, by reference counting after a fork and by pickling under spawn;
    a tensor is shared. Reading a sample parses it, which takes microseconds.
    """

    def __init__(self, samples: Iterable[Sample]) -> None:
        texts = [json.dumps(sample, ensure_ascii=False).encode("utf-8", "surrogatepass") for sample in samples]
        self._ends = torch.tensor(list(accumulate(map(len, texts))), dtype=torch.long)
        self._bytes = torch.frombuffer(bytearray(b"".join(texts)), dtype=torch.uint8)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> Sample:  # type: ignore[override]
        if not -len(self) <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        index %= len(self)
        start = int(self._ends[index - 1]) if index else 0
        return json.loads(self._bytes[start : int(self._ends[index])].numpy().tobytes())
