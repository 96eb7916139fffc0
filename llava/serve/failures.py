"""Errors as the person at the other end should read them: what happened, what to do, and an id to find it by."""

import logging
import re
import uuid
from dataclasses import dataclass

import torch

from llava.errors import UserError, one_line

_OUT_OF_MEMORY = re.compile(r"out of memory|can't allocate memory|failed to allocate", re.IGNORECASE)
_WRONG_DTYPE = re.compile(r"same dtype|expected scalar type|not implemented for '\w+'", re.IGNORECASE)


class Busy(UserError):
    """Every slot is taken and so is every place in the line."""


class Loading(UserError):
    """The model is not there yet."""


class TooLong(UserError):
    """The prompt leaves no room for an answer."""


@dataclass(frozen=True)
class Failure:
    """What a client is told.

    Attributes:
        message: one line, ending in the id under which the log has the traceback.
        status: the HTTP status of the same meaning, for protocols that have one.
    """

    message: str
    status: int


def report(error: Exception, logger: logging.Logger) -> Failure:
    """Log ``error`` under a new id, with its traceback unless it is about waiting; returns what to tell the client."""
    error_id = uuid.uuid4().hex[:8]
    told, status = _told(error)
    logger.error("error %s: %s", error_id, told, exc_info=None if isinstance(error, (Busy, Loading)) else error)
    return Failure(f"{told} (error id {error_id})", status)


def _told(error: Exception) -> tuple[str, int]:
    reason = str(error).strip().partition("\n")[0]
    if isinstance(error, (Busy, Loading)):
        return one_line(error), 503
    if isinstance(error, UserError):
        return one_line(error), 400
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or _OUT_OF_MEMORY.search(reason):
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return (
            f"the model ran out of memory ({reason or 'no room left'}); ask again with fewer or smaller pictures, a "
            "shorter conversation or fewer new tokens, or restart the worker with --load-4bit or a smaller "
            "--limit-model-concurrency",
            503,
        )
    if isinstance(error, RuntimeError) and _WRONG_DTYPE.search(reason):
        return (
            f"the model's parts have different number types ({reason}); load it whole in one, on a GPU float16 or "
            "bfloat16, on a CPU float32",
            500,
        )
    return f"the worker failed with {type(error).__name__} ({reason}); its log has the traceback", 500
