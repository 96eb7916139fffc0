"""Chat with a model about one picture in the terminal: ``python -m llava.serve.cli --image-file view.jpg``."""

import argparse
import contextlib
import logging
import sys
import threading

from llava.attanchor import add_attanchor_flags, enable_attanchor, given_attanchor_flags
from llava.constants import DEFAULT_IMAGE_TOKEN
from llava.conversation import Conversation, conv_templates
from llava.errors import UserError, exit_on_user_error, one_line
from llava.eval.items import known_conv_mode
from llava.eval.run_llava import conv_mode_for, load_image
from llava.mm_utils import get_model_name_from_path
from llava.serve.dialogue import answered
from llava.serve.engine import Answer, Ask, Engine
from llava.serve.failures import report
from llava.serve.templates import stop_of, template_of_checkpoint

logger = logging.getLogger(__name__)


def chat(engine: Engine, conversation: Conversation, image_file: str, args: argparse.Namespace) -> None:
    """Questions from the terminal until an empty line; each is asked with the picture and all turns before it."""
    picture = load_image(image_file)
    human, assistant = conversation.roles
    names = ("user", "assistant") if conversation.version == "mpt" else (human, assistant)
    stop = stop_of(conversation)
    while text := _read_line(f"{names[0]}: "):
        turns = list(conversation.messages)
        question = text if turns else f"{DEFAULT_IMAGE_TOKEN}\n{text}"
        conversation.append_message(human, question)
        conversation.append_message(assistant, None)
        ask = Ask(
            prompt=conversation.get_prompt(),
            pictures=[picture],
            temperature=args.temperature,
            max_new_tokens=args.max_new_tokens,
            stops=[stop] if stop else [],
        )
        printer = Printer()
        print(f"{names[1]}: ", end="", flush=True)
        try:
            with contextlib.suppress(KeyboardInterrupt):  # the answer is long enough: what is there stays
                engine.answer(ask, printer, threading.Event())
            conversation = answered(conversation, printer.text.strip())
        except (UserError, MemoryError, RuntimeError) as error:  # this turn failed; the dialogue goes on without it
            told = one_line(error) if isinstance(error, UserError) else report(error, logger).message
            print(f"\nerror: {told}", end="", file=sys.stderr)
            conversation.messages = turns
        print()
        if args.debug:
            print("\n", {"prompt": ask.prompt, "outputs": printer.text}, "\n")
    print("exit...")


def _read_line(prompt: str) -> str:
    try:
        return input(prompt)
    except (EOFError, KeyboardInterrupt):
        return ""


class Printer:
    """Prints what is new of a growing answer."""

    def __init__(self) -> None:
        self.text = ""

    def __call__(self, answer: Answer) -> None:
        print(answer.text[len(self.text) :], end="", flush=True)
        self.text = answer.text


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="llava.serve.cli", description="Chat about one picture in the terminal.")
    parser.add_argument("--model-path", type=str, default="facebook/opt-350m", help="checkpoint folder or hub name")
    parser.add_argument("--model-base", type=str, help="what a LoRA or projector checkpoint was trained on")
    parser.add_argument("--image-file", type=str, required=True, help="file or http(s) address")
    parser.add_argument("--device", type=str, default="cuda", help="cuda, cpu or mps (default: cuda)")
    parser.add_argument("--conv-mode", type=str, help="template (default: the checkpoint's, else by its name)")
    parser.add_argument("--temperature", type=float, default=0.2, help="0 decodes greedily (default: 0.2)")
    parser.add_argument("--max-new-tokens", type=int, default=512, help="default: 512")
    parser.add_argument("--load-8bit", action="store_true", help="quantise with bitsandbytes")
    parser.add_argument("--load-4bit", action="store_true", help="quantise with bitsandbytes")
    parser.add_argument("--debug", action="store_true", help="also print each prompt and answer as a dict")
    add_attanchor_flags(parser)
    return parser


@exit_on_user_error
def main() -> None:
    args = build_parser().parse_args()
    name = get_model_name_from_path(args.model_path)
    own = None if args.conv_mode else template_of_checkpoint(args.model_path)
    template = own or known_conv_mode(conv_mode_for(name, args.conv_mode))
    engine = Engine.load(
        args.model_path,
        args.model_base,
        name,
        device=args.device,
        load_8bit=args.load_8bit,
        load_4bit=args.load_4bit,
    )
    if attanchor := given_attanchor_flags(args):
        enable_attanchor(engine.model, engine.tokenizer, conv_templates[template], **attanchor)
    chat(engine, conv_templates[template].copy(), args.image_file, args)


if __name__ == "__main__":
    main()
