"""Small helpers of the serving programs: log files, a moderation check, and what they print."""

import asyncio
import io
import json
import logging
import os
import sys
import urllib.request
from contextlib import ExitStack
from logging.handlers import TimedRotatingFileHandler
from pathlib import Path

from torch import nn

from llava.constants import LOGDIR
from llava.errors import UserError

server_error_msg = "**NETWORK ERROR DUE TO HIGH TRAFFIC. PLEASE REGENERATE OR REFRESH THIS PAGE.**"
moderation_msg = "YOUR INPUT VIOLATES OUR CONTENT MODERATION GUIDELINES. PLEASE TRY AGAIN."

LOG_FORMAT = "%(asctime)s | %(levelname)s | %(name)s | %(message)s"
DATE_FORMAT = "%Y-%m-%d %H:%M:%S"
MODERATION_URL = "https://api.openai.com/v1/moderations"
MODERATION_TIMEOUT = 5  # seconds


def build_logger(
    logger_name: str, logger_filename: str, capture_output: bool = False, folder: str | None = None
) -> logging.Logger:
    """A logger at INFO that writes to the console and to one log file per process, rotated daily (UTC).

    Args:
        logger_name: the logger.
        logger_filename: its name; only the first call of a process chooses it.
        capture_output: also send what the program prints to the log, by replacing ``sys.stdout`` and ``sys.stderr``.
            For a program's ``main``, never for a module that others may import.
        folder: where the file lies (default: ``LOGDIR``).
    """
    logging.basicConfig(level=logging.INFO, format=LOG_FORMAT, datefmt=DATE_FORMAT)
    root = logging.getLogger()
    if not any(isinstance(handler, TimedRotatingFileHandler) for handler in root.handlers):
        file = Path(folder or LOGDIR) / logger_filename
        file.parent.mkdir(parents=True, exist_ok=True)
        handler = TimedRotatingFileHandler(file, when="D", utc=True, encoding="UTF-8")
        handler.setFormatter(logging.Formatter(LOG_FORMAT, DATE_FORMAT))
        root.addHandler(handler)
    if capture_output:
        sys.stdout = StreamToLogger(logging.getLogger("stdout"), logging.INFO)
        sys.stderr = StreamToLogger(logging.getLogger("stderr"), logging.ERROR)
    logger = logging.getLogger(logger_name)
    logger.setLevel(logging.INFO)
    return logger


class StreamToLogger(io.TextIOBase):
    """A text stream whose lines become log records."""

    def __init__(self, logger: logging.Logger, log_level: int = logging.INFO) -> None:
        self.logger = logger
        self.log_level = log_level
        self._unfinished = ""

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        *lines, self._unfinished = (self._unfinished + text).split("\n")
        for line in lines:
            self.logger.log(self.log_level, line.rstrip())
        return len(text)

    def flush(self) -> None:
        if self._unfinished:
            self.logger.log(self.log_level, self._unfinished.rstrip())
            self._unfinished = ""


def disable_torch_init() -> ExitStack:
    """Skip the random initialisation of ``Linear`` and ``LayerNorm``, wasted where a checkpoint overwrites it.

    A plain call holds for the rest of the process; ``with disable_torch_init(): ...`` undoes it at the end.
    """
    undo = ExitStack()
    for layer in (nn.Linear, nn.LayerNorm):
        undo.callback(setattr, layer, "reset_parameters", layer.reset_parameters)
        layer.reset_parameters = lambda self: None  # type: ignore[method-assign]
    return undo


def moderation_key() -> str:
    """OpenAI's key from the environment. Raises UserError when there is none."""
    key = os.environ.get("OPENAI_API_KEY")
    if not key:
        raise UserError("OPENAI_API_KEY is not set; moderation needs a key, export it or start without --moderate")
    return key


def violates_moderation(text: str) -> bool:
    """Whether OpenAI's moderation service flags ``text``. If it cannot be asked, a warning is logged and text passes.

    Raises:
        UserError: when the environment has no ``OPENAI_API_KEY``.
    """
    request = urllib.request.Request(
        MODERATION_URL,
        data=json.dumps({"input": text}).encode(),
        headers={"Content-Type": "application/json", "Authorization": f"Bearer {moderation_key()}"},
    )
    try:
        with urllib.request.urlopen(request, timeout=MODERATION_TIMEOUT) as response:
            return bool(json.load(response)["results"][0]["flagged"])
    except (OSError, ValueError, LookupError) as error:  # no connection or time-out; not JSON; not the expected JSON
        logging.getLogger(__name__).warning("moderation check failed (%r); the text passes unchecked", error)
        return False


def pretty_print_semaphore(semaphore: asyncio.Semaphore | None) -> str:
    """The state of a worker's semaphore for its status line."""
    if semaphore is None:
        return "None"
    return f"Semaphore(value={semaphore._value}, locked={semaphore.locked()})"
