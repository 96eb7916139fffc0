"""An HTTP app served from a thread of this process, at a port that is known before it starts."""

import socket
import threading
import time
from types import TracebackType
from typing import Self

import uvicorn
from fastapi import FastAPI

from llava.errors import UserError

START_TIMEOUT = 30.0  # seconds


class BackgroundServer:
    """``with BackgroundServer(app) as server: ... server.url``.

    Args:
        app: what to serve.
        host: address to listen on.
        port: 0 lets the system choose.
        grace: seconds that open answers get when the block ends.
    """

    def __init__(self, app: FastAPI, host: str = "127.0.0.1", port: int = 0, grace: int = 1) -> None:
        try:
            self._socket = socket.create_server((host, port))
        except OSError as error:
            raise UserError(f"{host}:{port} cannot be listened on ({error}); choose another --port") from error
        self.url = f"http://{host}:{self._socket.getsockname()[1]}"
        self._server = uvicorn.Server(uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=grace))
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],), name=f"server {self.url}")

    def __enter__(self) -> Self:
        self._thread.start()
        deadline = time.monotonic() + START_TIMEOUT
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > deadline:
                raise RuntimeError(f"the server for {self.url} did not start; the log says why")
            time.sleep(0.01)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.should_exit = True
        self._thread.join()
        self._socket.close()
