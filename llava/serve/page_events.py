"""What happens on the web page: each method answers one event, and returns what changes on the page."""

import logging
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import gradio as gr
import pandas as pd
from PIL import Image

from llava.conversation import Conversation
from llava.errors import UserError
from llava.serve import panel
from llava.serve.client import AnswerError, Client, Models
from llava.serve.conversation_log import ConversationLog
from llava.serve.dialogue import (
    CURSOR,
    add_question,
    answered,
    chat_messages,
    in_template,
    new_dialogue,
    prepared_as,
    request_for,
)
from llava.serve.failures import report
from llava.serve.protocol import WORKER_ERROR
from llava.serve.templates import template_for_name
from llava.utils import moderation_msg, violates_moderation

logger = logging.getLogger(__name__)

VOTES = 3
BUTTONS = 5  # upvote, downvote, flag, regenerate, clear

Changes = tuple[Any, ...]


def buttons(votes: bool, rest: bool) -> list[Any]:
    """Which of the five buttons can be pressed."""
    return [gr.update(interactive=votes)] * VOTES + [gr.update(interactive=rest)] * (BUTTONS - VOTES)


@dataclass
class Events:
    """The page's events. What belongs to one visitor comes in and goes out with each of them.

    Attributes:
        client: the way to controller and workers.
        log: where answers and votes are written.
        conv_mode: template of every model; None lets workers, then names, decide.
        models: the list that was read last.
        reload: read it anew at every page load.
        moderate: ask OpenAI's moderation about every question.
    """

    client: Client
    log: ConversationLog
    conv_mode: str | None = None
    models: Models = field(default_factory=Models)
    reload: bool = False
    moderate: bool = False

    async def load_page(self, url_params: dict[str, str] | None) -> Changes:
        """A new visitor: the models there are, the one that the address asks for, a notice.

        The dialogue is left alone: who is quick has asked something before this has ended.
        """
        notice = ""
        if self.reload or not self.models.names:
            try:
                self.models = await self.client.models()
            except UserError as error:
                notice = f"⚠️ {error}; reload this page in a moment."
        names = self.models.names
        if not names:
            notice = notice or "⚠️ No model is ready. A worker may still be loading one: reload this page in a moment."
        asked = (url_params or {}).get("model")
        chosen = asked if asked in names else next(iter(names), None)
        return gr.update(choices=names, value=chosen), notice

    def add_text(self, state: Conversation, text: str, image: Image.Image | None, mode: str) -> Changes:
        """The question into the dialogue; an empty one without a picture, or one that moderation flags, is left out."""
        refused = moderation_msg if self.moderate and text.strip() and violates_moderation(text) else ""
        if refused or (not text.strip() and image is None):
            state.skip_next = True
            return state, gr.skip(), refused, None, *buttons(False, False)
        state = add_question(state, text, image, mode)
        return state, chat_messages(state), "", None, *buttons(False, False)

    def regenerate(self, state: Conversation, mode: str) -> Changes:
        """Take the last answer back."""
        state = answered(prepared_as(state, mode), None)
        return state, chat_messages(state), "", None, *buttons(False, False)

    def clear(self) -> Changes:
        """A new dialogue, and no maps."""
        return new_dialogue(), [], "", None, *buttons(False, False), None

    async def http_bot(
        self,
        state: Conversation,
        model: str | None,
        temperature: float,
        top_p: float,
        max_new_tokens: int,
        wants_maps: bool,
        request: gr.Request,
    ) -> AsyncIterator[Changes]:
        """Stream the answer to the dialogue's last question: dialogue, chat box, maps, buttons."""
        if state.skip_next or not state.messages or state.messages[-1][1] is not None:
            state.skip_next = False
            is_answered = bool(state.messages) and state.messages[-1][1] is not None
            yield state, gr.skip(), gr.skip(), *buttons(is_answered, bool(state.messages))
            return
        started = time.time()
        state = in_template(state, self._template(model or ""))
        shown = chat_messages(state)

        def step(text: str, maps: panel.Maps | None, *button_states: Any) -> Changes:
            shown[-1]["content"] = text
            return state, shown, maps, *button_states

        yield step(CURSOR, None, *buttons(False, False))
        text, maps, failure = "", None, ""
        try:
            body = request_for(state, model or "", temperature, top_p, max_new_tokens, wants_maps)
            async for frame in self.client.answer(body):
                text = frame["text"][len(body["prompt"]) :].strip()
                maps = frame.get("maps")
                yield step(text + CURSOR, None, *buttons(False, False))
        except UserError as error:
            code = error.code if isinstance(error, AnswerError) else WORKER_ERROR
            logger.warning("%s did not answer: %s", model, error)
            failure = f"**{error}** (error_code: {code})"
        except Exception as error:  # the visitor is told what happened, whatever it was
            failure = f"**{report(error, logger).message}** (error_code: {WORKER_ERROR})"
        if failure:
            yield step(f"{text}\n\n{failure}".strip(), None, *buttons(False, True))
            return

        state = answered(state, text)
        yield step(text, maps, *buttons(True, True))
        self.log.chat(state, str(model), started, time.time(), _pictures(state), _address(request))

    def _template(self, model: str) -> str:
        return self.conv_mode or self.models.conv_modes.get(model) or template_for_name(model)

    def vote(self, kind: str) -> Callable[..., Changes]:
        """The event that writes an ``upvote``, ``downvote`` or ``flag`` down; there is one for each answer."""

        def cast(state: Conversation, model: str | None, request: gr.Request) -> Changes:
            self.log.vote(state, kind, model or "", time.time(), _address(request))
            return "", *[gr.update(interactive=False)] * VOTES

        return cast

    def show_panel(self, state: Conversation, maps: panel.Maps | None) -> Changes:
        """What the maps say: text, words, three layers of LPWCA, PWCA, layer weights, slider, pins, download."""
        pictures = _pictures(state)
        shown = [_hidden()] * 7
        pins = _hidden()
        if maps is not None and panel.has_maps(maps):
            depth = len(maps["layers"])
            places = panel.default_places(depth)
            words, caption = panel.word_weights(maps)
            shown = [
                gr.update(value=words, label=caption, visible=True),
                *(_drawn(*panel.lpwca_picture(maps, pictures[0], place)) for place in places),
                _drawn(*panel.pwca_picture(maps, pictures[0])),
                gr.update(value=pd.DataFrame(panel.layer_weights(maps)), sort=panel.layer_names(maps), visible=True),
                gr.update(maximum=max(depth, 2), value=places[1] + 1, visible=depth > 1),
            ]
        if maps is not None and panel.has_pins(maps):
            pins = gr.update(value=panel.pinned_words(maps, pictures[0]), visible=True)
        has_numbers = maps is not None and bool(maps["pictures"])
        return panel.explanation(maps), *shown, pins, gr.update(visible=has_numbers)

    def show_layer(self, state: Conversation, maps: panel.Maps | None, number: int) -> Any:
        """LPWCA of the layer that the slider points to; the first is 1."""
        if maps is None or not panel.has_maps(maps) or not 1 <= number <= len(maps["layers"]):
            return gr.skip()
        return _drawn(*panel.lpwca_picture(maps, _pictures(state)[0], number - 1))


def _hidden() -> Any:
    return gr.update(visible=False)


def _pictures(state: Conversation) -> list[Image.Image]:
    """The dialogue's pictures as they are sent."""
    return [image for image in state.get_images(return_pil=True) if isinstance(image, Image.Image)]


def _drawn(image: Image.Image, caption: str) -> Any:
    return gr.update(value=image, label=caption, visible=True)


def _address(request: gr.Request) -> str:
    return request.client.host if request.client else ""
