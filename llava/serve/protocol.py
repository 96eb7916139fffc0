"""What controller, workers and their clients say to each other: LLaVA's HTTP protocol, in one place.

A stream is a sequence of UTF-8 JSON objects, each followed by one NUL byte: ``{"text": ..., "error_code": ...}``. The
text is cumulative and begins with the prompt, except in an error, where it is the message.
"""

import json
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from llava.errors import UserError

OK, WORKER_ERROR, NO_WORKER, UNREACHABLE = range(4)

# Upstream's sentence for a prompt that leaves no room for an answer, sent with error code 0.
TOO_LONG = "Exceeds max token length. Please start a new conversation, thanks."

STATUS_TIMEOUT = 5.0  # seconds for everything but a stream
STREAM_GAP = 60.0  # seconds without a frame; workers of this project repeat the last one every KEEP_ALIVE
KEEP_ALIVE = 2.0


class GenerateBody(BaseModel):
    """The body of ``/worker_generate_stream``. Keys that are not listed are ignored, as they always were."""

    model_config = ConfigDict(extra="ignore")

    prompt: str
    model: str | None = None
    images: list[str] | None = None
    temperature: float = Field(default=1.0, ge=0)
    top_p: float = Field(default=1.0, ge=0, le=1)
    max_new_tokens: int = 256
    stop: str | list[str] | None = None
    maps: bool = False  # ours: the last frame of the answer carries what the question did to the pictures

    @property
    def stops(self) -> list[str]:
        """The stop strings as a list; empty ones would stop everything and are dropped."""
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return [stop for stop in stops if stop]

    @classmethod
    def parse(cls, data: Any) -> "GenerateBody":
        """Raises UserError that names the first key that does not fit."""
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise UserError(first_complaint(error)) from error


def first_complaint(error: ValidationError) -> str:
    """One line for the first thing that is wrong with a request."""
    first = error.errors()[0]
    place = ".".join(map(str, first["loc"])) or "the body"
    return f"the request's {place} cannot be used: {first['msg']}"


class WorkerStatus(BaseModel):
    """What a worker says of itself; ``conv_mode`` is ours and may be missing."""

    model_names: list[str]
    speed: int = 1
    queue_length: int = 0
    conv_mode: str | None = None


def frame(text: str, error_code: int = OK, maps: dict[str, Any] | None = None) -> bytes:
    """One object of a stream; ``maps`` only goes along when there are some."""
    extra = {} if maps is None else {"maps": maps}
    return json.dumps({"text": text, "error_code": error_code, **extra}).encode() + b"\0"


class Frames:
    """Puts the chunks of a stream together again, wherever the network cut them."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, chunk: bytes) -> Iterator[dict[str, Any]]:
        """The objects that are complete with this chunk. Raises ValueError for what is not JSON."""
        for whole in self.split(chunk):
            yield json.loads(whole)

    def split(self, chunk: bytes) -> list[bytes]:
        """The same as bytes, without their NUL."""
        *whole, self._rest = (self._rest + chunk).split(b"\0")
        return [part for part in whole if part]


def bearer(token: str | None) -> dict[str, str]:
    """The header that shows the shared token; none without one."""
    return {"Authorization": f"Bearer {token}"} if token else {}
