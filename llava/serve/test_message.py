"""Send one message to a model through the controller, and print what comes back."""

import argparse
import asyncio

from llava.conversation import conv_templates
from llava.errors import UserError, exit_on_user_error
from llava.serve.access import add_token_flag
from llava.serve.client import Client
from llava.serve.templates import stop_of, template_for_name

MESSAGE = "Tell me a story with more than 1000 words."


async def send(args: argparse.Namespace) -> None:
    """Raises UserError when the controller, a worker or the model is not there, or the answer fails."""
    client = Client(args.controller_address, args.auth_token)
    address, conv_mode = args.worker_address, None
    if address is None:
        models = await client.models()
        print(f"Models: {models.names}")
        address = await client.worker_address(args.model_name)
        print(f"worker_addr: {address}")
        if not address:
            raise UserError(f"no worker serves {args.model_name}; give one of the models above as --model-name")
        conv_mode = models.conv_modes.get(args.model_name)

    conversation = conv_templates[conv_mode or template_for_name(args.model_name)].copy()
    conversation.append_message(conversation.roles[0], args.message)
    conversation.append_message(conversation.roles[1], None)
    body = {
        "model": args.model_name,
        "prompt": conversation.get_prompt(),
        "max_new_tokens": args.max_new_tokens,
        "temperature": 0.7,
        "stop": stop_of(conversation),
    }
    print(f"{conversation.roles[0]}: {args.message}")
    print(f"{conversation.roles[1]}:", end="", flush=True)
    told = len(body["prompt"])
    async for frame in client.answer(body, address):
        print(frame["text"][told:], end="", flush=True)
        told = len(frame["text"])
    print()


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="llava.serve.test_message", description=__doc__)
    parser.add_argument("--controller-address", type=str, default="http://localhost:21001")
    parser.add_argument("--worker-address", type=str, default=None, help="ask this worker, not the controller's choice")
    parser.add_argument("--model-name", type=str, default="facebook/opt-350m")
    parser.add_argument("--max-new-tokens", type=int, default=32)
    parser.add_argument("--message", type=str, default=MESSAGE)
    add_token_flag(parser)
    return parser


@exit_on_user_error
def main() -> None:
    asyncio.run(send(build_parser().parse_args()))


if __name__ == "__main__":
    main()
