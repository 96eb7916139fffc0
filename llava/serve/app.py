"""The whole chat in one command: ``python -m llava.serve.app``. Controller, worker and web page in one process.

Controller and worker listen on loopback, at ports the system chooses, with a token that nobody else knows.
"""

import argparse
import logging
import secrets
import signal
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import torch
from transformers.utils import logging as transformers_logging

from llava.errors import UserError, exit_on_user_error
from llava.mm_utils import get_model_name_from_path
from llava.serve import controller, worker_app
from llava.serve.background import BackgroundServer
from llava.serve.client import Client
from llava.serve.conversation_log import ConversationLog
from llava.serve.gradio_web_server import EXAMPLES, QUESTIONS, add_examples_flag, build_demo, launch, private_uploads
from llava.serve.model_worker import load_backend
from llava.serve.page_events import Events
from llava.serve.pictures import Limits
from llava.serve.registration import Registration
from llava.utils import DATE_FORMAT, LOG_FORMAT

DEMOS = (Path("checkpoints/photos"), Path("checkpoints/demo"))  # of photographs, if it was trained; of drawings
POLL = 0.2  # seconds between two looks at whether the worker is known


def demo_checkpoint(demos: Sequence[Path] = DEMOS) -> Path:
    """The newest CCRA checkpoint of the first demo that has finished one. Raises UserError when none has."""
    for folder in demos:
        finished = sorted(folder.glob("*-ccra-*/.finished"), key=lambda file: file.stat().st_mtime)
        if finished:
            return finished[-1].parent
    raise UserError(
        f"there is no demo checkpoint in {' or '.join(map(str, demos))}; run `make demo` first (15 minutes on 2 "
        "cores), or give any LLaVA checkpoint as --model-path"
    )


def examples_of(checkpoint: Path) -> Path:
    """The folder of questions that a demo leaves beside its checkpoints; the page's own one where there is none."""
    beside = checkpoint.parent / EXAMPLES.name
    return beside if (beside / QUESTIONS).is_file() else EXAMPLES


def run(args: argparse.Namespace, until: threading.Event) -> None:
    """Serve until ``until`` is set. Raises UserError when the model cannot be loaded or a port is taken."""
    path = args.model_path.rstrip("/") if args.model_path else str(demo_checkpoint())
    examples = args.examples or examples_of(Path(path))
    name = args.model_name or get_model_name_from_path(path)
    token = secrets.token_urlsafe()
    print(f"loading {path} on {args.device}", flush=True)
    with ExitStack() as stack:
        stack.enter_context(private_uploads())
        registry = controller.Controller(token=token)
        controller_url = stack.enter_context(BackgroundServer(controller.build_app(registry, token))).url
        worker = worker_app.Worker(
            name,
            lambda: load_backend(
                path, args.model_base, name, args.conv_mode, Limits(), args.device, args.load_8bit, args.load_4bit
            ),
            args.limit_model_concurrency,
        )
        server = BackgroundServer(worker_app.build_app(worker, token))
        worker.registration = Registration(controller_url, server.url, worker.status, token)
        stack.enter_context(server)
        while not registry.workers:
            if worker.load_error:
                raise worker.load_error
            if until.wait(POLL):
                return

        log = ConversationLog(Path(args.log_dir) if args.log_dir else None)
        demo = build_demo(Events(Client(controller_url, token), log), examples=examples)
        try:
            url = launch(demo, args.host, args.port, args.share, block=False)
        except OSError as error:
            raise UserError(
                f"{args.host}:{args.port} cannot be listened on ({error}); choose another --port"
            ) from error
        stack.callback(demo.close, verbose=False)
        print(f"chat with {name} at {url} (Ctrl-C ends it)", flush=True)
        until.wait()


def build_parser() -> argparse.ArgumentParser:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser = argparse.ArgumentParser(prog="llava.serve.app", description="Chat with a model in the browser.")
    parser.add_argument(
        "--model-path",
        type=str,
        help=f"checkpoint folder or hub name (default: the newest in {' or '.join(map(str, DEMOS))})",
    )
    parser.add_argument("--model-base", type=str, help="what a LoRA or projector checkpoint was trained on")
    parser.add_argument("--model-name", type=str, help="name to show (default: from the path)")
    parser.add_argument("--conv-mode", type=str, help="template (default: the checkpoint's, else by its name)")
    parser.add_argument("--device", type=str, default=device, help=f"cuda, cpu or mps (default here: {device})")
    parser.add_argument("--load-8bit", action="store_true", help="quantise with bitsandbytes")
    parser.add_argument("--load-4bit", action="store_true", help="quantise with bitsandbytes")
    parser.add_argument("--limit-model-concurrency", type=int, default=2, help="answers written at once (default: 2)")
    parser.add_argument("--host", type=str, default="127.0.0.1", help="address of the page (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, help="port of the page (default: the first free one from 7860 on)")
    parser.add_argument("--share", action="store_true", help="also a public address through gradio.live")
    parser.add_argument("--log-dir", type=str, help="store conversations and pictures here (default: nowhere)")
    add_examples_flag(parser)
    return parser


@exit_on_user_error
def main() -> None:
    args = build_parser().parse_args()
    logging.basicConfig(level=logging.WARNING, format=LOG_FORMAT, datefmt=DATE_FORMAT)
    transformers_logging.set_verbosity_error()  # it lists the weights of CLIP's text half, which nobody needs
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does, and leaves nothing behind
    try:
        run(args, threading.Event())
    except KeyboardInterrupt:
        print("\nstopped", flush=True)


if __name__ == "__main__":
    main()
