"""A language model that judges answers: any OpenAI-compatible endpoint.

Where it is, the environment says: ``OPENAI_API_KEY``, ``OPENAI_BASE_URL`` (default: OpenAI's own), and ``JUDGE_MODEL``,
which takes the place of the model that a command would ask. Requests are tried again on overload and lost connections,
with growing pauses, and no more often than ``MAX_RETRIES`` times.
"""

import os
from collections.abc import Sequence
from typing import Any

from llava.errors import UserError
from llava.eval.extras import import_extra

MAX_RETRIES = 5
TIMEOUT = 120.0  # seconds
WITHOUT_JUDGE = "no judge: set OPENAI_API_KEY, and OPENAI_BASE_URL for an endpoint other than OpenAI's"


def has_judge() -> bool:
    """Whether the environment names an endpoint."""
    return bool(os.environ.get("OPENAI_API_KEY"))


class Judge:
    """One model at the endpoint. Raises UserError when the environment names none."""

    def __init__(self, model: str) -> None:
        if not has_judge():
            raise UserError(WITHOUT_JUDGE)
        self.model = os.environ.get("JUDGE_MODEL") or model
        self.openai = import_extra("openai", "judges are")
        self.client = self.openai.OpenAI(max_retries=MAX_RETRIES, timeout=TIMEOUT)

    def ask(self, messages: Sequence[dict[str, str]], *, temperature: float, max_tokens: int) -> str:
        """The reply to a chat. Raises UserError when the endpoint refuses, or cannot be reached."""
        try:
            reply: Any = self.client.chat.completions.create(
                model=self.model, messages=list(messages), temperature=temperature, max_tokens=max_tokens
            )
        except self.openai.OpenAIError as error:
            raise UserError(
                f"{self.model} at {self.client.base_url} did not answer ({error}); what was judged is kept, "
                "start again to go on"
            ) from error
        return reply.choices[0].message.content or ""
