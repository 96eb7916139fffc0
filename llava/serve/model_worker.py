"""A worker: one LLaVA model behind HTTP. ``python -m llava.serve.model_worker --controller URL --worker URL ...``."""

import argparse
import threading
import uuid
from collections.abc import Callable

from llava.errors import exit_on_user_error
from llava.eval.items import known_conv_mode
from llava.mm_utils import get_model_name_from_path
from llava.serve.engine import Answer, Ask, Engine
from llava.serve.pictures import Limits, decode_pictures
from llava.serve.protocol import GenerateBody
from llava.serve.templates import template_for_name, template_of_checkpoint
from llava.serve.worker_app import add_worker_flags, dump, limits_from_flags, serve, worker_from_flags
from llava.utils import build_logger


class ModelBackend:
    """Answers requests with a model in this process."""

    def __init__(self, engine: Engine, conv_mode: str) -> None:
        self.engine = engine
        self.conv_mode = conv_mode

    def answer(self, body: GenerateBody, tell: Callable[[Answer], None], given_up: threading.Event) -> None:
        """Raises UserError for pictures that cannot be used, and what :meth:`Engine.answer` raises."""
        ask = Ask(
            prompt=body.prompt,
            pictures=decode_pictures(body.images or [], self.engine.limits),
            temperature=body.temperature,
            top_p=body.top_p,
            max_new_tokens=body.max_new_tokens,
            stops=body.stops,
            wants_maps=body.maps,
        )
        self.engine.answer(ask, tell, given_up)


def load_backend(
    model_path: str,
    model_base: str | None,
    name: str,
    conv_mode: str | None,
    limits: Limits,
    device: str = "cuda",
    load_8bit: bool = False,
    load_4bit: bool = False,
    use_flash_attn: bool = False,
) -> ModelBackend:
    """Load a checkpoint. Raises UserError for one that cannot be loaded or a template that does not exist."""
    template = known_conv_mode(conv_mode) if conv_mode else template_of_checkpoint(model_path)
    engine = Engine.load(
        model_path,
        model_base,
        name,
        limits,
        device=device,
        load_8bit=load_8bit,
        load_4bit=load_4bit,
        use_flash_attn=use_flash_attn,
    )
    return ModelBackend(engine, template or template_for_name(name))


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="llava.serve.model_worker", description="Serve one model over HTTP.")
    add_worker_flags(parser)
    parser.add_argument("--model-path", type=str, default="facebook/opt-350m", help="checkpoint folder or hub name")
    parser.add_argument("--model-base", type=str, help="what a LoRA or projector checkpoint was trained on")
    parser.add_argument("--device", type=str, default="cuda", help="cuda, cpu or mps (default: cuda)")
    parser.add_argument("--multi-modal", action="store_true", help="without effect: the checkpoint says what it is")
    parser.add_argument("--load-8bit", action="store_true", help="quantise with bitsandbytes")
    parser.add_argument("--load-4bit", action="store_true", help="quantise with bitsandbytes")
    parser.add_argument("--use-flash-attn", action="store_true", help="FlashAttention 2")
    return parser


@exit_on_user_error
def main() -> None:
    args = build_parser().parse_args()
    worker_id = uuid.uuid4().hex[:6]
    logger = build_logger("model_worker", f"model_worker_{worker_id}.log", capture_output=True, folder=args.log_dir)
    logger.info("args: %s", dump(args))
    if args.multi_modal:
        logger.warning("--multi-modal has no effect: the checkpoint says whether it reads pictures")
    path = args.model_path.rstrip("/")
    name = args.model_name or get_model_name_from_path(path)
    limits = limits_from_flags(args)
    worker = worker_from_flags(
        args,
        name,
        lambda: load_backend(
            path, args.model_base, name, args.conv_mode, limits,
            args.device, args.load_8bit, args.load_4bit, args.use_flash_attn,
        ),
    )  # fmt: skip
    serve(worker, args)


if __name__ == "__main__":
    main()
