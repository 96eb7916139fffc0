"""The train split as text for a language model: dialogues in Vicuna's prompt, and captions, without pictures."""

import json
from pathlib import Path

import llava.conversation
import llava.train.preprocess
from llava.constants import DEFAULT_IMAGE_TOKEN
from llava.conversation import conv_templates
from llava.train.preprocess import Segment, chat_segments, plain_segments
from playground.tiny.easy_vqa import SHORT_ANSWER

Turns = list[dict[str, str]]


def dialogues(data: Path) -> list[str]:
    """Each dialogue of ``finetune.json`` as the v1 prompt with its answers."""
    return [
        "".join(segment.text for segment in chat_segments(with_caption(turns, ""), conv_templates["v1"]))
        for turns in conversations(data / "finetune.json")
    ]


def captions(data: Path) -> list[str]:
    """The captions of ``pretrain.json``, in the order of the pictures."""
    return [turns[1]["value"] for turns in conversations(data / "pretrain.json")]


def corpus(data: Path) -> list[str]:
    return dialogues(data) + captions(data)


def told_samples(data: Path, questions: int) -> list[list[Segment]]:
    """The samples of both stages with each picture's caption in its place: what a reader can answer without eyes.

    Dialogues are cut into pieces of at most ``questions`` questions, each with the caption anew: where many answers
    stand in sight, a model learns to copy from them instead of reading the caption.
    """
    told = []
    for turns, caption in zip(conversations(data / "finetune.json"), captions(data), strict=True):
        told += [
            chat_segments(with_caption(piece, caption), conv_templates["v1"]) for piece in pieces(turns, questions)
        ]
    for turns in conversations(data / "pretrain.json"):
        _, answer = plain_segments(turns, conv_templates["plain"])
        told.append([Segment(turns[1]["value"], trained=False), answer])
    return told


def sources(data: Path) -> list[Path]:
    """The files that decide what the functions above return."""
    code = (__file__, llava.conversation.__file__, llava.train.preprocess.__file__)
    return [*map(Path, code), data / "finetune.json", data / "pretrain.json"]


def conversations(file: Path) -> list[Turns]:
    return [sample["conversations"] for sample in json.loads(file.read_text(encoding="utf-8"))]


def with_caption(turns: Turns, caption: str) -> Turns:
    """The turns with ``caption`` instead of the picture; an empty one leaves no line for it."""
    first, *others = turns
    value = first["value"].replace(DEFAULT_IMAGE_TOKEN, caption).strip()
    return [first | {"value": value}, *others]


def pieces(turns: Turns, questions: int) -> list[Turns]:
    """A dialogue as several, each of which begins with the picture and the answer format."""
    bare = turns[0]["value"].removeprefix(f"{DEFAULT_IMAGE_TOKEN}\n").removesuffix(SHORT_ANSWER)
    rest = [turns[0] | {"value": bare}, *turns[1:]]
    cut = [rest[start : start + 2 * questions] for start in range(0, len(rest), 2 * questions)]
    return [
        [piece[0] | {"value": f"{DEFAULT_IMAGE_TOKEN}\n{piece[0]['value']}{SHORT_ANSWER}"}, *piece[1:]] for piece in cut
    ]
