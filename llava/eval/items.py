"""What an evaluation asks: a text, its pictures, and the conversation template around them."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from PIL import Image, UnidentifiedImageError

from llava.constants import DEFAULT_IM_END_TOKEN, DEFAULT_IM_START_TOKEN, DEFAULT_IMAGE_TOKEN
from llava.conversation import conv_templates
from llava.errors import UserError


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


def resolve_conv_mode(conv_mode: str, model_name: str, plain_uses_mmtag: bool = True) -> str:
    """The template to use; UserError when there is none of that name.

    With ``plain_uses_mmtag``, a ``plain`` model that was never fine-tuned gets the ``_mmtag`` one, with a notice.
    """
    name = model_name.lower()
    if plain_uses_mmtag and "plain" in name and "finetune" not in name and "mmtag" not in conv_mode.lower():
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


def picture_path(image_folder: str, image: str) -> str:
    """Where a picture of the question file lies."""
    return os.path.join(os.path.expanduser(image_folder), image)


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
