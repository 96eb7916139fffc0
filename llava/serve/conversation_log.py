"""What the web server writes down: one JSON line for each answer and vote, and the pictures they were about."""

import datetime
import hashlib
import json
from pathlib import Path
from typing import Any

from PIL import Image

from llava.conversation import Conversation


class ConversationLog:
    """Upstream's layout: ``<date>-conv.json`` and ``serve_images/<date>/<md5>.jpg``, by local date.

    Args:
        folder: where; None writes nothing at all.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def chat(
        self, state: Conversation, model: str, start: float, finish: float, images: list[Image.Image], ip: str
    ) -> None:
        """An answer: its times in seconds, and the pictures as they were sent."""
        row = {
            "tstamp": round(finish, 4),
            "type": "chat",
            "model": model,
            "start": round(start, 4),
            "finish": round(finish, 4),
            "state": state.dict(),
            "images": [self._store(image) for image in images],
            "ip": ip,
        }
        self._write(row)

    def vote(self, state: Conversation, kind: str, model: str, time: float, ip: str) -> None:
        """``upvote``, ``downvote`` or ``flag``."""
        self._write({"tstamp": round(time, 4), "type": kind, "model": model, "state": state.dict(), "ip": ip})

    def _write(self, row: dict[str, Any]) -> None:
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / f"{datetime.date.today()}-conv.json").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def _store(self, image: Image.Image) -> str:
        """The picture's name: md5 of its pixels, which tells pictures apart and is no secret."""
        name = hashlib.md5(image.tobytes(), usedforsecurity=False).hexdigest()
        if self.folder is not None:
            file = self.folder / "serve_images" / str(datetime.date.today()) / f"{name}.jpg"
            if not file.exists():
                file.parent.mkdir(parents=True, exist_ok=True)
                image.convert("RGB").save(file)  # JPEG has neither alpha nor palette
        return name
