"""The train split as text for a language model: dialogues in Vicuna's prompt, and captions, without pictures."""

import json
from pathlib import Path

import llava.conversation
import llava.train.preprocess
from llava.constants import DEFAULT_IMAGE_TOKEN
from llava.conversation import conv_templates
from llava.train.preprocess import Segment, chat_segments, plain_segments
from playground.tiny.easy_vqa import SHORT_ANSWER, Question
from playground.tiny.easy_vqa import turns as turns_of

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


def told_samples(data: Path, repeats: int) -> list[list[Segment]]:
    """The samples of both stages with each picture's caption in its place: what a reader can answer without eyes.

    Each question stands alone with the caption. Where other answers are in sight, a model learns to copy from them
    first, and reads the caption much later.

    Args:
        data: folder of the converted set.
        repeats: how often a question stands here that affirms a colour. It is one in eight of those about a colour's
            presence; without repeats a model denies them all, and stays at that for longer than a demo lasts.
    """
    told = []
    for turns, caption in zip(conversations(data / "finetune.json"), captions(data), strict=True):
        for question in questions_of(turns):
            alone = turns_of(f"{DEFAULT_IMAGE_TOKEN}\n{question.text}{SHORT_ANSWER}", question.answer)
            sample = chat_segments(with_caption(alone, caption), conv_templates["v1"])
            told += [sample] * (repeats if question.is_affirmed and question.is_about_color else 1)
    for turns in conversations(data / "pretrain.json"):
        _, caption_segment = plain_segments(turns, conv_templates["plain"])
        told.append([Segment(turns[1]["value"], trained=False), caption_segment])
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


def questions_of(turns: Turns) -> list[Question]:
    """The questions of a dialogue of ``finetune.json`` in the package's own words; they say nothing of the picture."""
    texts = [turn["value"].removeprefix(f"{DEFAULT_IMAGE_TOKEN}\n").removesuffix(SHORT_ANSWER) for turn in turns[::2]]
    answers = [turn["value"] for turn in turns[1::2]]
    return [Question(*pair, picture=-1) for pair in zip(texts, answers, strict=True)]
