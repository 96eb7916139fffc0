"""Tell a controller of a worker that does not do so itself."""

import argparse

import httpx

from llava.errors import UserError, exit_on_user_error
from llava.serve.access import add_token_flag
from llava.serve.protocol import STATUS_TIMEOUT, bearer


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="llava.serve.register_worker", description=__doc__)
    parser.add_argument("--controller-address", type=str, required=True, help="URL of the controller")
    parser.add_argument("--worker-name", type=str, required=True, help="URL of the worker")
    parser.add_argument(
        "--check-heart-beat", action="store_true", help="forget the worker when its heartbeats stop for 30 s"
    )
    add_token_flag(parser)
    return parser


@exit_on_user_error
def main() -> None:
    args = build_parser().parse_args()
    body = {"worker_name": args.worker_name, "check_heart_beat": args.check_heart_beat, "worker_status": None}
    url = f"{args.controller_address.rstrip('/')}/register_worker"
    try:
        # The controller asks the worker for its status before it answers.
        response = httpx.post(
            url, json=body, headers=bearer(args.auth_token), timeout=2 * STATUS_TIMEOUT, trust_env=False
        )
    except httpx.HTTPError as error:
        raise UserError(f"{url} does not answer ({error}); is the controller running there?") from error
    if response.status_code != 200:
        raise UserError(f"{url} refuses ({response.status_code}: {response.text})")


if __name__ == "__main__":
    main()
