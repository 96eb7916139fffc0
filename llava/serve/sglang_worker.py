"""A worker whose answers come from an SGLang server: the same HTTP side, another process computes.

SGLang is spoken to over its native HTTP endpoints (``/get_model_info``, ``/generate``); it need not be installed here.
"""

import argparse
import json
import threading
import uuid
from collections.abc import Callable
from typing import Any

import httpx

from llava.constants import DEFAULT_IMAGE_TOKEN
from llava.errors import UserError, exit_on_user_error
from llava.eval.items import known_conv_mode
from llava.mm_utils import get_model_name_from_path
from llava.serve.engine import GREEDY_BELOW, MAX_NEW_TOKENS, Answer, cut_at_stop
from llava.serve.pictures import Limits, decode_pictures
from llava.serve.protocol import STATUS_TIMEOUT, STREAM_GAP, GenerateBody
from llava.serve.templates import template_for_name
from llava.serve.worker_app import add_worker_flags, dump, limits_from_flags, serve, worker_from_flags
from llava.utils import build_logger


class SGLangBackend:
    """Answers requests through an SGLang server."""

    def __init__(self, endpoint: str, conv_mode: str, limits: Limits) -> None:
        self.endpoint = endpoint
        self.conv_mode = conv_mode
        self.limits = limits

    def answer(self, body: GenerateBody, tell: Callable[[Answer], None], given_up: threading.Event) -> None:
        """Raises UserError for pictures that cannot be used, and when SGLang refuses or goes away."""
        images = body.images or []
        decode_pictures(images, self.limits)
        prompt = body.prompt.replace(f" {DEFAULT_IMAGE_TOKEN}\n", DEFAULT_IMAGE_TOKEN)
        if prompt.count(DEFAULT_IMAGE_TOKEN) != len(images):
            raise UserError(
                f"the prompt has {prompt.count(DEFAULT_IMAGE_TOKEN)} {DEFAULT_IMAGE_TOKEN} for {len(images)} pictures; "
                "they must be as many"
            )
        question: dict[str, Any] = {
            "text": prompt,
            "stream": True,
            "sampling_params": {
                "temperature": 0.0 if body.temperature <= GREEDY_BELOW else body.temperature,
                "top_p": body.top_p,
                "max_new_tokens": min(body.max_new_tokens, MAX_NEW_TOKENS),
                "stop": body.stops,
            },
        }
        if images:
            question["image_data"] = images
        last = Answer()
        try:
            with (
                httpx.Client(timeout=STREAM_GAP, trust_env=False) as client,
                client.stream("POST", f"{self.endpoint}/generate", json=question) as response,
            ):
                response.raise_for_status()
                for line in response.iter_lines():
                    if given_up.is_set():
                        return
                    if line.startswith("data:") and not line.endswith("[DONE]"):
                        last = _read(json.loads(line.removeprefix("data:")), body.stops)
                        tell(last)
        except httpx.HTTPError as error:
            raise UserError(
                f"the SGLang server at {self.endpoint} failed ({str(error) or type(error).__name__}); look into its log"
            ) from error
        tell(Answer(last.text, last.finished or "stop", last.prompt_tokens, last.new_tokens))


def _read(event: dict[str, Any], stops: list[str]) -> Answer:
    """SGLang's cumulative text and counts."""
    if "error" in event:
        raise UserError(f"SGLang refuses the request: {event['error'].get('message', event['error'])}")
    info = event.get("meta_info", {})
    reason = info.get("finish_reason") or {}
    text, _ = cut_at_stop(event["text"], stops)
    finished = reason.get("type") if isinstance(reason, dict) else reason
    return Answer(text, finished, info.get("prompt_tokens", 0), info.get("completion_tokens", 0))


def model_path_of(endpoint: str) -> str:
    """The model that an SGLang server holds. Raises UserError when it does not answer as one."""
    try:
        response = httpx.get(f"{endpoint}/get_model_info", timeout=STATUS_TIMEOUT, trust_env=False)
        return str(response.raise_for_status().json()["model_path"])
    except (httpx.HTTPError, ValueError, KeyError) as error:
        raise UserError(
            f"--sgl-endpoint {endpoint} does not answer as an SGLang server ({error}); start it first"
        ) from error


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="llava.serve.sglang_worker", description="Serve a model that SGLang runs.")
    add_worker_flags(parser)
    parser.add_argument("--sgl-endpoint", type=str, required=True, help="URL of the SGLang server")
    return parser


@exit_on_user_error
def main() -> None:
    args = build_parser().parse_args()
    worker_id = uuid.uuid4().hex[:6]
    logger = build_logger("sglang_worker", f"model_worker_{worker_id}.log", capture_output=True, folder=args.log_dir)
    logger.info("args: %s", dump(args))
    endpoint = args.sgl_endpoint.rstrip("/")
    name = args.model_name or get_model_name_from_path(model_path_of(endpoint))
    template = known_conv_mode(args.conv_mode) if args.conv_mode else template_for_name(name)
    limits = limits_from_flags(args)
    serve(worker_from_flags(args, name, lambda: SGLangBackend(endpoint, template, limits)), args)


if __name__ == "__main__":
    main()
