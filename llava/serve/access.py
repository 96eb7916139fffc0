"""Who may talk to a server, how much they may send, and which workers a controller may be told of."""

import hmac
import ipaddress
import os
import socket
from argparse import ArgumentParser
from urllib.parse import urlsplit

from fastapi import HTTPException
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llava.errors import UserError
from llava.serve.protocol import bearer

TOKEN_VARIABLE = "LLAVA_AUTH_TOKEN"
LOOPBACK = ("127.0.0.0/8", "::1/128")
MAX_REQUEST_MB = 64


class Gate:
    """Middleware: refuses requests without the shared token, and bodies beyond the limit.

    Args:
        app: what stands behind.
        token: what ``Authorization: Bearer ...`` must carry; None lets everyone in.
        max_body: bytes.
    """

    def __init__(self, app: ASGIApp, token: str | None, max_body: int) -> None:
        self.app = app
        self.expected = bearer(token).get("Authorization")
        self.max_body = max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get("Authorization", "")
        if self.expected and not hmac.compare_digest(given.encode(), self.expected.encode()):
            message = f"this server asks for a token; start its clients with the same --auth-token or {TOKEN_VARIABLE}"
            error = {"message": message, "type": "authentication_error"}
            await JSONResponse({"detail": message, "error": error}, status_code=401)(scope, receive, send)
            return

        received = 0

        async def limited() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.max_body:
                while message.get("more_body"):  # a client that still writes would not read the answer
                    message = await receive()
                raise HTTPException(413, f"the request is larger than {self.max_body >> 20} MB; send smaller pictures")
            return message

        await self.app(scope, limited, send)


class AllowedWorkers:
    """Addresses that workers may have: names are resolved, and every address behind a name must be allowed.

    Args:
        networks: addresses or networks such as ``10.0.0.0/8``.
    """

    def __init__(self, networks: list[str]) -> None:
        try:
            self._networks = [ipaddress.ip_network(network) for network in networks]
        except ValueError as error:
            raise UserError(f"--allow-workers: {error}; give addresses or networks such as 10.0.0.0/8") from error

    def permits(self, peer: str, worker_name: str) -> bool:
        """Whether ``peer`` may register, and the worker's own address lies inside too. Resolves names: may block."""
        parts = urlsplit(worker_name)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            return False
        try:
            found = socket.getaddrinfo(parts.hostname, parts.port, type=socket.SOCK_STREAM)
        except (OSError, ValueError):
            return False
        return all(self._holds(address) for address in (peer, *(str(entry[4][0]) for entry in found)))

    def _holds(self, address: str) -> bool:
        try:
            ip = ipaddress.ip_address(address)
        except ValueError:
            return False
        ip = getattr(ip, "ipv4_mapped", None) or ip
        return any(ip in network for network in self._networks)


def add_token_flag(parser: ArgumentParser) -> None:
    """``--auth-token``, by default what the environment says, which does not show in the process list."""
    parser.add_argument(
        "--auth-token",
        type=str,
        default=os.environ.get(TOKEN_VARIABLE),
        help=f"secret that web server, controller and workers share (default: ${TOKEN_VARIABLE}; unset: none)",
    )
