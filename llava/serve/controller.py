"""The controller: which workers there are, and which one takes the next question.

All state lives on the event loop and changes only between two awaits, so nothing needs a lock.
"""

import argparse
import asyncio
import contextlib
import json
import logging
import random
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import httpx
import uvicorn
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from llava.constants import CONTROLLER_HEART_BEAT_EXPIRATION
from llava.errors import exit_on_user_error
from llava.serve import access
from llava.serve.protocol import (
    NO_WORKER,
    STATUS_TIMEOUT,
    STREAM_GAP,
    UNREACHABLE,
    WORKER_ERROR,
    Frames,
    WorkerStatus,
    bearer,
    frame,
)
from llava.serve.worker_app import GRACE, add_server_flags, dump
from llava.utils import build_logger

logger = logging.getLogger(__name__)

DISPATCH_METHODS = ("lottery", "shortest_queue")
ALIVE_TIMEOUT = 2.0  # seconds for the look at a worker before its address is given out


class Registered(BaseModel):
    """Body of ``/register_worker``."""

    worker_name: str
    check_heart_beat: bool
    worker_status: WorkerStatus | None = None


class HeartBeat(BaseModel):
    """Body of ``/receive_heart_beat``."""

    worker_name: str
    queue_length: int


class Wanted(BaseModel):
    """Body of ``/get_worker_address``."""

    model: str


@dataclass
class Worker:
    """What is known of one worker; ``last_beat`` in seconds of the monotonic clock."""

    status: WorkerStatus
    check_heart_beat: bool
    queue_length: int
    last_beat: float = field(default_factory=time.monotonic)


class Controller:
    """The registry and its rules.

    Args:
        dispatch_method: ``lottery`` (at random, by speed) or ``shortest_queue``.
        token: shared with the workers.
        expiration: seconds after which a worker that promised heartbeats and sends none is dropped.
    """

    def __init__(
        self,
        dispatch_method: str = "shortest_queue",
        token: str | None = None,
        expiration: float = CONTROLLER_HEART_BEAT_EXPIRATION,
    ) -> None:
        self.dispatch_method = dispatch_method
        self.expiration = expiration
        self.workers: dict[str, Worker] = {}
        self._client = httpx.AsyncClient(
            headers=bearer(token),
            timeout=httpx.Timeout(STATUS_TIMEOUT, read=STREAM_GAP),
            limits=httpx.Limits(max_connections=None),
            trust_env=False,
        )

    async def register(self, name: str, check_heart_beat: bool, status: WorkerStatus | None) -> None:
        """Add a worker, or renew what is known of it; one that sends no status is asked for it."""
        status = status or await self.poll(name, STATUS_TIMEOUT)
        if status is None:
            logger.warning("%s wants to register but does not answer; it was not", name)
            return
        if name not in self.workers:
            logger.info("registered %s with %s", name, status.model_names)
        self.workers[name] = Worker(status, check_heart_beat, status.queue_length)

    async def poll(self, name: str, timeout: float) -> WorkerStatus | None:
        """A worker's own word; None when it does not answer as one."""
        try:
            response = await self._client.post(f"{name}/worker_get_status", timeout=timeout)
            return WorkerStatus.model_validate_json(response.raise_for_status().content)
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            logger.warning("%s does not answer (%s)", name, str(error) or type(error).__name__)
            return None

    def heart_beat(self, name: str, queue_length: int) -> bool:
        """Whether the worker is known."""
        worker = self.workers.get(name)
        if worker is None:
            return False
        worker.queue_length = queue_length
        worker.last_beat = time.monotonic()
        return True

    async def refresh(self) -> None:
        """Ask all workers at once and drop those that do not answer; the others stay in reach meanwhile."""
        asked = dict(self.workers)
        statuses = await asyncio.gather(*(self.poll(name, STATUS_TIMEOUT) for name in asked))
        for (name, worker), status in zip(asked.items(), statuses, strict=True):
            if self.workers.get(name) is not worker:
                continue  # it registered anew in the meantime
            if status is None:
                self._drop(name)
            else:
                worker.status, worker.queue_length = status, status.queue_length

    def expire(self) -> None:
        """Drop the workers whose heartbeats have stopped."""
        oldest = time.monotonic() - self.expiration
        for name, worker in list(self.workers.items()):
            if worker.check_heart_beat and worker.last_beat < oldest:
                self._drop(name)

    def _drop(self, name: str) -> None:
        if self.workers.pop(name, None):
            logger.info("dropped %s", name)

    def models(self) -> list[str]:
        return sorted({model for worker in self.workers.values() for model in worker.status.model_names})

    def conv_modes(self) -> dict[str, str]:
        """The templates that workers name for their models."""
        return {
            model: worker.status.conv_mode
            for worker in self.workers.values()
            if worker.status.conv_mode
            for model in worker.status.model_names
        }

    async def choose(self, model: str) -> str:
        """The address of the worker to ask next, one that answered just now; empty when there is none."""
        for name, worker in self._in_order(model):
            worker.queue_length += 1  # before the look, so that those who ask meanwhile see it
            if await self.poll(name, ALIVE_TIMEOUT):
                return name
            if self.workers.get(name) is worker:
                self._drop(name)  # should it only be slow, its next heartbeat brings it back
        return ""

    def _in_order(self, model: str) -> list[tuple[str, Worker]]:
        able = [(name, worker) for name, worker in self.workers.items() if model in worker.status.model_names]
        if self.dispatch_method == "lottery":
            # The order of a draw without putting back, weighted by speed.
            return sorted(able, key=lambda item: random.random() ** (1 / max(item[1].status.speed, 1e-9)), reverse=True)
        return sorted(able, key=lambda item: item[1].queue_length / max(item[1].status.speed, 1e-9))

    async def total_status(self) -> WorkerStatus:
        """All reachable workers as if they were one."""
        statuses = await asyncio.gather(*(self.poll(name, STATUS_TIMEOUT) for name in list(self.workers)))
        reached = [status for status in statuses if status]
        return WorkerStatus(
            model_names=sorted({model for status in reached for model in status.model_names}),
            speed=sum(status.speed for status in reached),
            queue_length=sum(status.queue_length for status in reached),
        )

    async def stream(self, model: str, body: bytes) -> AsyncIterator[bytes]:
        """A worker's answer, frame by frame; its own frame with error code 2 or 3 when there is none."""
        name = await self.choose(model)
        if not name:
            yield frame(f"no worker serves {model!r} now; choose another model or wait for one", NO_WORKER)
            return
        frames = Frames()
        try:
            async with self._client.stream("POST", f"{name}/worker_generate_stream", content=body) as response:
                async for chunk in response.aiter_bytes():
                    for whole in frames.split(chunk):
                        yield whole + b"\0"
        except httpx.HTTPError as error:
            reason = str(error) or type(error).__name__
            logger.warning("%s went away in mid-answer (%s)", name, reason)
            yield frame(f"the worker at {name} went away ({reason}); ask again, another one will answer", UNREACHABLE)

    async def run(self) -> None:
        """Until cancelled: look for workers that have gone."""
        while True:
            await asyncio.sleep(self.expiration)
            self.expire()

    async def close(self) -> None:
        await self._client.aclose()


def build_app(
    controller: Controller,
    token: str | None = None,
    allowed: access.AllowedWorkers | None = None,
    max_body: int = access.MAX_REQUEST_MB << 20,
) -> FastAPI:
    """The controller's routes; with ``allowed``, workers register only from and for its addresses."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        watching = asyncio.create_task(controller.run())
        yield
        watching.cancel()
        await controller.close()

    app = FastAPI(title="LLaVA controller", lifespan=lifespan)
    app.add_middleware(access.Gate, token=token, max_body=max_body)

    @app.post("/register_worker")
    async def register_worker(body: Registered, request: Request) -> None:
        """Make a worker known. The answer is null either way; a heartbeat tells whether it worked."""
        peer = request.client.host if request.client else ""
        if allowed and not await asyncio.to_thread(allowed.permits, peer, body.worker_name):
            logger.warning("refused to register %s from %s", body.worker_name, peer)
            raise HTTPException(403, f"{body.worker_name} from {peer} is not among --allow-workers of the controller")
        await controller.register(body.worker_name, body.check_heart_beat, body.worker_status)

    @app.post("/refresh_all_workers")
    async def refresh_all_workers() -> None:
        """Ask every worker how it is, and forget those that do not answer."""
        await controller.refresh()

    @app.post("/list_models")
    async def list_models() -> dict[str, list[str] | dict[str, str]]:
        """All models, and the conversation templates of those whose workers name one."""
        return {"models": controller.models(), "conv_modes": controller.conv_modes()}

    @app.post("/get_worker_address")
    async def get_worker_address(body: Wanted) -> dict[str, str]:
        """Where to send the next question for a model; empty when nobody serves it."""
        return {"address": await controller.choose(body.model)}

    @app.post("/receive_heart_beat")
    async def receive_heart_beat(body: HeartBeat) -> dict[str, bool]:
        """A worker is alive; ``exist: false`` asks it to register again."""
        return {"exist": controller.heart_beat(body.worker_name, body.queue_length)}

    @app.post("/worker_get_status")
    async def worker_get_status() -> WorkerStatus:
        """All workers as one, for a controller above this one."""
        return await controller.total_status()

    @app.post("/worker_generate_stream")
    async def worker_generate_stream(request: Request) -> StreamingResponse:
        """As on a worker; the key ``model`` says which."""
        try:
            body = await request.body()
            model = json.loads(body)["model"]
        except HTTPException as error:
            return StreamingResponse(iter([frame(error.detail, WORKER_ERROR)]))
        except (ValueError, KeyError, TypeError) as error:
            told = f"the request cannot be used ({error!r}); it must be a JSON object with the keys model and prompt"
            return StreamingResponse(iter([frame(told, WORKER_ERROR)]))
        return StreamingResponse(controller.stream(str(model), body))

    return app


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="llava.serve.controller", description="Share questions out among workers.")
    parser.add_argument("--host", type=str, default="localhost", help="address to listen on (default: localhost)")
    parser.add_argument("--port", type=int, default=21001, help="default: 21001")
    parser.add_argument("--dispatch-method", type=str, choices=DISPATCH_METHODS, default="shortest_queue")
    parser.add_argument(
        "--allow-workers",
        type=str,
        nargs="+",
        metavar="NETWORK",
        default=list(access.LOOPBACK),
        help="with a token: addresses that workers may register from and for (default: this machine)",
    )
    add_server_flags(parser)
    return parser


@exit_on_user_error
def main() -> None:
    args = build_parser().parse_args()
    build_logger("controller", "controller.log", capture_output=True, folder=args.log_dir)
    logger.info("args: %s", dump(args))
    allowed = access.AllowedWorkers(args.allow_workers) if args.auth_token else None
    controller = Controller(args.dispatch_method, args.auth_token)
    app = build_app(controller, args.auth_token, allowed, args.max_request_mb << 20)
    uvicorn.run(app, host=args.host, port=args.port, log_config=None, timeout_graceful_shutdown=GRACE)


if __name__ == "__main__":
    main()
