"""A worker whose answers come from an SGLang server: the same HTTP side, another process computes.

SGLang is spoken to over its native HTTP endpoints (``/get_model_info``, ``/generate``); it need not be installed here.
Config and tokenizer of its model are read here, to frame pictures as in training and to see what fits the context.
"""

import argparse
import json
import logging
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
from llava.serve.prompts import PromptMeter, framed, require_marks, too_long
from llava.serve.protocol import STATUS_TIMEOUT, STREAM_GAP, GenerateBody
from llava.serve.templates import template_for_name
from llava.serve.worker_app import add_worker_flags, dump, limits_from_flags, serve, worker_from_flags
from llava.utils import build_logger

logger = logging.getLogger(__name__)


class SGLangBackend:
    """Answers requests through an SGLang server.

    Args:
        endpoint: its URL.
        conv_mode: template of the model.
        limits: of one request.
        meter: measures prompts; without one, SGLang alone says what is too long, and pictures are not framed.
    """

    def __init__(self, endpoint: str, conv_mode: str, limits: Limits, meter: PromptMeter | None) -> None:
        self.endpoint = endpoint
        self.conv_mode = conv_mode
        self.limits = limits
        self.meter = meter

    def answer(self, body: GenerateBody, tell: Callable[[Answer], None], given_up: threading.Event) -> None:
        """Raises UserError for what cannot be asked, and when SGLang refuses or goes away; TooLong without room."""
        last = Answer()
        question = self._question(body)
        try:
            with (
                httpx.Client(timeout=STREAM_GAP, trust_env=False) as client,
                client.stream("POST", f"{self.endpoint}/generate", json=question) as response,
            ):
                if response.is_error:
                    response.read()
                    raise UserError(f"SGLang refuses the request: {_complaint(response)}")
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

    def _question(self, body: GenerateBody) -> dict[str, Any]:
        """The body for SGLang's ``/generate``."""
        images = body.images or []
        pictures = decode_pictures(images, self.limits)
        prompt = body.prompt.replace(f" {DEFAULT_IMAGE_TOKEN}\n", DEFAULT_IMAGE_TOKEN)
        require_marks(prompt, len(images))
        budget = min(body.max_new_tokens, MAX_NEW_TOKENS)
        if self.meter:
            prompt = framed(prompt) if self.meter.frames_pictures else prompt
            length, context = (
                self.meter.length(prompt, [picture.size for picture in pictures]),
                self.meter.context_length,
            )
            budget = min(budget, context - length - 1)  # SGLang leaves one position free
            if budget < 1:
                raise too_long(f"{length} tokens with its pictures", context)
        sampling = {
            "temperature": 0.0 if body.temperature <= GREEDY_BELOW else body.temperature,
            "top_p": body.top_p,
            "max_new_tokens": budget,
            "stop": body.stops,
        }
        question = {"text": prompt, "stream": True, "sampling_params": sampling}
        return question | ({"image_data": images} if images else {})


def _read(event: dict[str, Any], stops: list[str]) -> Answer:
    """SGLang's cumulative text and counts."""
    if "error" in event:
        raise UserError(f"SGLang refuses the request: {event['error'].get('message', event['error'])}")
    info = event.get("meta_info", {})
    reason = info.get("finish_reason") or {}
    text, _ = cut_at_stop(event["text"], stops)
    finished = reason.get("type") if isinstance(reason, dict) else reason
    return Answer(text, finished, info.get("prompt_tokens", 0), info.get("completion_tokens", 0))


def _complaint(response: httpx.Response) -> str:
    """What SGLang says of a request that it refuses."""
    try:
        return str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"status {response.status_code}"


def paths_of(endpoint: str) -> tuple[str, str]:
    """Where an SGLang server has its model and tokenizer from. Raises UserError when it does not answer as one."""
    try:
        response = httpx.get(f"{endpoint}/get_model_info", timeout=STATUS_TIMEOUT, trust_env=False)
        info = response.raise_for_status().json()
        return str(info["model_path"]), str(info.get("tokenizer_path") or info["model_path"])
    except (httpx.HTTPError, ValueError, KeyError) as error:
        raise UserError(
            f"--sgl-endpoint {endpoint} does not answer as an SGLang server ({error}); start it first"
        ) from error


def meter_of(checkpoint: str, tokenizer: str) -> PromptMeter | None:
    """The measure of a model's prompts; None, with a warning, when its files cannot be read from here."""
    try:
        return PromptMeter.read(checkpoint, tokenizer)
    except (UserError, OSError) as error:
        logger.warning(
            "%s; prompts are sent to SGLang unmeasured and without start and end tokens around pictures. Give a folder "
            "with config and tokenizer as --checkpoint",
            str(error).strip().partition("\n")[0],
        )
        return None


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="llava.serve.sglang_worker", description="Serve a model that SGLang runs.")
    add_worker_flags(parser)
    parser.add_argument("--sgl-endpoint", type=str, required=True, help="URL of the SGLang server")
    parser.add_argument(
        "--checkpoint",
        type=str,
        help="where its model's config and tokenizer are (default: where SGLang has them from)",
    )
    return parser


@exit_on_user_error
def main() -> None:
    args = build_parser().parse_args()
    worker_id = uuid.uuid4().hex[:6]
    logger = build_logger("sglang_worker", f"model_worker_{worker_id}.log", capture_output=True, folder=args.log_dir)
    logger.info("args: %s", dump(args))
    endpoint = args.sgl_endpoint.rstrip("/")
    model, tokenizer = paths_of(endpoint)
    name = args.model_name or get_model_name_from_path(model)
    template = known_conv_mode(args.conv_mode) if args.conv_mode else template_for_name(name)
    limits = limits_from_flags(args)
    files = (args.checkpoint, args.checkpoint) if args.checkpoint else (model, tokenizer)
    serve(worker_from_flags(args, name, lambda: SGLangBackend(endpoint, template, limits, meter_of(*files))), args)


if __name__ == "__main__":
    main()
