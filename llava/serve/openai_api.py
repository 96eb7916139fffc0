"""``/v1/chat/completions`` and ``/v1/models``: what today's clients speak, on every worker.

Pictures come as ``image_url`` parts with data URLs. Nothing is fetched from anywhere for a request.
"""

import json
import logging
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field, ValidationError

from llava.constants import DEFAULT_IMAGE_TOKEN
from llava.conversation import conv_templates
from llava.errors import UserError
from llava.serve.engine import Answer
from llava.serve.failures import Failure, report
from llava.serve.jobs import Job, JobResponse
from llava.serve.protocol import KEEP_ALIVE, GenerateBody, first_complaint
from llava.serve.templates import stop_of

if TYPE_CHECKING:
    from llava.serve.worker_app import Worker

logger = logging.getLogger(__name__)


class ImageURL(BaseModel):
    url: str


class Part(BaseModel):
    type: Literal["text", "image_url"]
    text: str = ""
    image_url: ImageURL | None = None


class Message(BaseModel):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part] | None = None


class StreamOptions(BaseModel):
    include_usage: bool = False


class ChatRequest(BaseModel):
    """The keys that are used; others are ignored, except ``n``, which cannot be."""

    model: str
    messages: list[Message] = Field(min_length=1)
    temperature: float = Field(default=1.0, ge=0)
    top_p: float = Field(default=1.0, ge=0, le=1)
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    stop: str | list[str] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: Literal[1] | None = None


def add_routes(app: FastAPI, worker: "Worker") -> None:
    """OpenAI's routes on a worker's app."""

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        """The model, once it is loaded."""
        known = [{"id": name, "object": "model", "owned_by": "llava"} for name in worker.status().model_names]
        return {"object": "list", "data": known}

    @app.post("/v1/chat/completions", response_model=None)
    async def chat_completions(request: Request) -> Response:
        """One answer to a dialogue, whole or as server-sent events."""
        try:
            chat = ChatRequest.model_validate(await request.json())
            if chat.model != worker.name:
                raise UserError(f"the model {chat.model!r} is not here; this worker serves {worker.name!r}")
            job = worker.ask(to_generate_body(chat, worker.ready().conv_mode))
        except ValidationError as error:
            return _error(report(UserError(first_complaint(error)), logger))
        except HTTPException as error:  # the body is too large
            return _error(Failure(error.detail, error.status_code))
        except ValueError as error:  # a UserError, or no JSON
            return _error(report(error if isinstance(error, UserError) else UserError(str(error)), logger))

        reply = _Reply(worker.name)
        if chat.stream:
            with_usage = chat.stream_options is not None and chat.stream_options.include_usage
            return JobResponse(_events(job, reply, with_usage), job, media_type="text/event-stream")
        try:
            answer = await _whole(job, request)
        except Exception as error:  # the client is told what happened, whatever it was
            return _error(report(error, logger))
        finally:
            job.give_up()
        return JSONResponse(reply.completion(answer))


def to_generate_body(chat: ChatRequest, conv_mode: str) -> GenerateBody:
    """The dialogue in the model's template. Raises UserError for roles out of turn and pictures that are no data."""
    conversation = conv_templates[conv_mode].copy()
    images: list[str] = []
    messages = chat.messages
    if messages[0].role in ("system", "developer"):
        role, line_end, _ = conversation.system.partition("\n")
        head = role + line_end if role.startswith("<|im_start|>") else ""  # ChatML's role is part of the field
        conversation = replace(conversation, system=head + _text(messages[0], images))
        messages = messages[1:]
    for number, message in enumerate(messages):
        expected = ("user", "assistant")[number % 2]
        if message.role != expected:
            raise UserError(
                f"message {number + 1} is the {message.role}'s; after the system prompt, user and assistant take turns"
            )
        conversation.append_message(conversation.roles[number % 2], _text(message, images))
    if len(messages) % 2 == 0:
        raise UserError("the last message must be the user's; that is what the model answers")
    conversation.append_message(conversation.roles[1], None)

    stops = [chat.stop] if isinstance(chat.stop, str) else chat.stop or []
    end = stop_of(conversation)
    return GenerateBody(
        prompt=conversation.get_prompt(),
        images=images,
        temperature=chat.temperature,
        top_p=chat.top_p,
        max_new_tokens=chat.max_completion_tokens or chat.max_tokens or 512,
        stop=[*stops, *([end] if end else [])],
    )


def _text(message: Message, images: list[str]) -> str:
    """The message as text with a mark for each picture, which goes into ``images``."""
    parts = [Part(type="text", text=message.content)] if isinstance(message.content, str) else message.content or []
    texts = []
    for part in parts:
        if part.type == "text":
            if DEFAULT_IMAGE_TOKEN in part.text:
                raise UserError(f"a text holds {DEFAULT_IMAGE_TOKEN}, the mark of a picture; send image_url parts")
            texts.append(part.text)
        else:
            images.append(_data_of(part.image_url))
            texts.append(DEFAULT_IMAGE_TOKEN)
    return "\n".join(texts)


def _data_of(image: ImageURL | None) -> str:
    url = image.url if image else ""
    head, _, data = url.partition(",")
    if not (head.startswith("data:image/") and head.endswith(";base64")):
        raise UserError(
            f"image_url is {url[:40]!r}; only data URLs (data:image/png;base64,...) are read, nothing is fetched"
        )
    return data


class _Reply:
    """The answers' shape, whole and in pieces."""

    def __init__(self, model: str) -> None:
        self._head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}

    def completion(self, answer: Answer) -> dict[str, Any]:
        message = {"role": "assistant", "content": answer.text}
        choice = {"index": 0, "message": message, "finish_reason": answer.finished, "logprobs": None}
        return {**self._head, "object": "chat.completion", "choices": [choice], "usage": usage(answer)}

    def chunk(self, delta: dict[str, str], finished: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "finish_reason": finished, "logprobs": None}
        return {**self._head, "object": "chat.completion.chunk", "choices": [choice]}

    def usage_chunk(self, answer: Answer) -> dict[str, Any]:
        return {**self._head, "object": "chat.completion.chunk", "choices": [], "usage": usage(answer)}


def usage(answer: Answer) -> dict[str, int]:
    """Tokens read and written."""
    return {
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": answer.new_tokens,
        "total_tokens": answer.prompt_tokens + answer.new_tokens,
    }


async def _whole(job: Job[Answer], request: Request) -> Answer:
    last = Answer()
    async for answer in job.updates(KEEP_ALIVE):
        last = answer or last
        if await request.is_disconnected():
            break
    return last


async def _events(job: Job[Answer], reply: _Reply, with_usage: bool) -> AsyncIterator[bytes]:
    yield _event(reply.chunk({"role": "assistant", "content": ""}))
    last = Answer()
    try:
        async for answer in job.updates(KEEP_ALIVE):
            if answer is None or answer.text == last.text:
                yield b": waiting\n\n"
            else:
                yield _event(reply.chunk({"content": answer.text[len(last.text) :]}))
            last = answer or last
    except Exception as error:  # the client is told what happened, whatever it was
        yield _event(_error_body(report(error, logger)))
        return
    yield _event(reply.chunk({}, last.finished))
    if with_usage:
        yield _event(reply.usage_chunk(last))
    yield b"data: [DONE]\n\n"


def _event(data: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(data)}\n\n".encode()


def _error_body(failure: Failure) -> dict[str, Any]:
    kind = "invalid_request_error" if failure.status < 500 else "server_error"
    return {"error": {"message": failure.message, "type": kind, "param": None, "code": failure.status}}


def _error(failure: Failure) -> Response:
    return JSONResponse(_error_body(failure), status_code=failure.status)
