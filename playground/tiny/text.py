"""The train split as text for a language model: dialogues in Vicuna's prompt without their pictures, and captions."""

import json
from pathlib import Path

import llava.conversation
from llava.constants import DEFAULT_IMAGE_TOKEN
from llava.conversation import conv_templates


def dialogues(data: Path) -> list[str]:
    """Each dialogue of ``finetune.json`` as the v1 prompt with its answers."""
    samples = json.loads((data / "finetune.json").read_text(encoding="utf-8"))
    return [prompt_of(sample["conversations"]) for sample in samples]


def captions(data: Path) -> list[str]:
    """The captions of ``pretrain.json``, in the order of the pictures."""
    samples = json.loads((data / "pretrain.json").read_text(encoding="utf-8"))
    return [sample["conversations"][1]["value"] for sample in samples]


def corpus(data: Path) -> list[str]:
    return dialogues(data) + captions(data)


def sources(data: Path) -> list[Path]:
    """The files that decide what the functions above return."""
    return [Path(__file__), Path(llava.conversation.__file__), data / "finetune.json", data / "pretrain.json"]


def prompt_of(conversation: list[dict[str, str]]) -> str:
    template = conv_templates["v1"].copy()
    role_of = dict(zip(("human", "gpt"), template.roles, strict=True))
    for turn in conversation:
        template.append_message(role_of[turn["from"]], turn["value"].replace(DEFAULT_IMAGE_TOKEN, "").strip())
    return template.get_prompt()
