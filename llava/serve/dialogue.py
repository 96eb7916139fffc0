"""The web page's dialogue without the page: turns, the request they make, and how they are shown."""

import html
from dataclasses import replace
from typing import Any

from PIL import Image

from llava.constants import DEFAULT_IMAGE_TOKEN
from llava.conversation import Conversation, conv_templates, default_conversation
from llava.errors import UserError
from llava.serve.engine import MAX_NEW_TOKENS
from llava.serve.templates import stop_of

MAX_TEXT, MAX_TEXT_WITH_IMAGE = 1536, 1200  # characters of one question
CURSOR = "▌"


def new_dialogue() -> Conversation:
    """An empty one; which template it has is decided with the first question."""
    return default_conversation.copy()


def add_question(state: Conversation, text: str, image: Image.Image | None, mode: str) -> Conversation:
    """The dialogue with one more question, open for its answer; a picture starts a new dialogue.

    A question that was never answered gives way to the new one, and leaves it its picture.
    """
    before = [list(turn) for turn in state.messages]
    if before and before[-1][1] is None:
        (_, unanswered), _ = before[-2:]
        del before[-2:]
        if image is None and isinstance(unanswered, tuple):
            _, image, mode = unanswered
    message: str | tuple[str, Image.Image, str] = text[:MAX_TEXT].replace(DEFAULT_IMAGE_TOKEN, "")
    if image is not None:
        text = text[:MAX_TEXT_WITH_IMAGE]
        message = (text if DEFAULT_IMAGE_TOKEN in text else f"{text}\n{DEFAULT_IMAGE_TOKEN}", image, mode)
        state, before = new_dialogue(), []
    return replace(state, messages=[*before, [state.roles[0], message], [state.roles[1], None]], skip_next=False)


def in_template(state: Conversation, conv_mode: str) -> Conversation:
    """A dialogue of one question, carried over into a model's template; a longer one stays as it is."""
    if len(state.messages) != state.offset + 2:
        return state
    template = conv_templates[conv_mode].copy()
    template.append_message(template.roles[0], state.messages[-2][1])
    template.append_message(template.roles[1], None)
    return template


def answered(state: Conversation, text: str | None) -> Conversation:
    """The dialogue with ``text`` as its last answer; None asks the last question once more."""
    return replace(state, messages=[*state.messages[:-1], [state.roles[1], text]])


def prepared_as(state: Conversation, mode: str) -> Conversation:
    """The dialogue with the picture of its last question, if there is one, prepared in another way."""
    *before, (role, question), last = state.messages
    if isinstance(question, tuple):
        question = (*question[:2], mode)
    return replace(state, messages=[*before, [role, question], last])


def request_for(
    state: Conversation, model: str, temperature: float, top_p: float, max_new_tokens: int, maps: bool
) -> dict[str, Any]:
    """The body for the worker. ``maps`` is a key of ours and only sent when wanted."""
    if not model:
        raise UserError("no model is ready yet; a worker may still be loading one: reload this page in a moment")
    return {
        "model": model,
        "prompt": state.get_prompt(),
        "temperature": float(temperature),
        "top_p": float(top_p),
        "max_new_tokens": min(int(max_new_tokens), MAX_NEW_TOKENS),
        "stop": stop_of(state),
        "images": state.get_images(),
    } | ({"maps": True} if maps else {})


def chat_messages(state: Conversation) -> list[dict[str, str]]:
    """The dialogue as Gradio's chat box takes it. What the user wrote is text, not HTML."""
    shown = []
    for number, (_, message) in enumerate(state.messages[state.offset :]):
        if number % 2 == 1:
            shown.append({"role": "assistant", "content": message or ""})
            continue
        text = message
        if isinstance(message, tuple):
            text = message[0].replace(DEFAULT_IMAGE_TOKEN, "").strip()
            data = state.process_image(message[1], "Default", image_format="JPEG")
            picture = f'<img src="data:image/jpeg;base64,{data}" alt="user upload image">'
            shown.append({"role": "user", "content": picture})
        if text:
            shown.append({"role": "user", "content": html.escape(text, quote=False)})
    return shown
