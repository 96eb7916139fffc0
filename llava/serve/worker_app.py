"""The HTTP side of a worker, whatever computes its answers: LLaVA's stream and OpenAI's chat completions.

The model loads while the server already answers, so that whoever comes early is told to wait.
"""

import argparse
import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol

import uvicorn
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import StreamingResponse

from llava.constants import LOGDIR
from llava.errors import UserError
from llava.serve import access
from llava.serve.engine import Answer
from llava.serve.failures import Loading, TooLong, report
from llava.serve.jobs import Job, JobResponse, Jobs
from llava.serve.openai_api import add_routes
from llava.serve.pictures import Limits
from llava.serve.protocol import KEEP_ALIVE, TOO_LONG, WORKER_ERROR, GenerateBody, WorkerStatus, frame
from llava.serve.registration import Registration

logger = logging.getLogger(__name__)

WAITING_PER_SLOT = 16  # questions in line before a worker says that it is busy
ALL_INTERFACES = ("0.0.0.0", "::")  # can be listened on, but are nobody's address
GRACE = 3  # seconds that open answers get when the server stops


class Backend(Protocol):
    """What computes answers."""

    conv_mode: str

    def answer(self, body: GenerateBody, tell: Callable[[Answer], None], given_up: threading.Event) -> Any:
        """Write one answer, calling ``tell`` with each new state of it, until it is done or given up; in a thread."""


class Worker:
    """One model at one address.

    Args:
        name: of the model.
        load: brings the backend; runs in a thread while the server already listens.
        slots: answers written at once.

    Attributes:
        backend: the model, once it is loaded.
        load_error: why it could not be.
        when_settled: called when loading has ended, either way.
        registration: the standing with a controller; set it before the app starts, or leave it None.
    """

    def __init__(self, name: str, load: Callable[[], Backend], slots: int) -> None:
        if slots < 1:
            raise UserError(f"--limit-model-concurrency is {slots}; it must be at least 1")
        self.name = name
        self.backend: Backend | None = None
        self.load_error: Exception | None = None
        self.when_settled: Callable[[], None] = lambda: None
        self.registration: Registration | None = None
        self.jobs = Jobs(slots, slots * WAITING_PER_SLOT)
        self._load = load
        self._started = time.monotonic()

    def status(self) -> WorkerStatus:
        """No models as long as there is none to ask."""
        return WorkerStatus(
            model_names=[self.name] if self.backend else [],
            queue_length=self.jobs.queue_length,
            conv_mode=self.backend.conv_mode if self.backend else None,
        )

    async def open(self) -> None:
        """Load the model, then keep the controller informed, until cancelled."""
        try:
            self.backend = await asyncio.to_thread(self._load)
        except Exception as error:  # reported by whoever runs the server, which ends with it
            self.load_error = error
        self.when_settled()
        if self.backend and self.registration:
            await self.registration.run()

    def ready(self) -> Backend:
        """Raises Loading as long as there is no model."""
        if self.backend is None:
            seconds = time.monotonic() - self._started
            raise Loading(f"the model {self.name} is still loading ({seconds:.0f} s so far); ask again in a moment")
        return self.backend

    def ask(self, body: GenerateBody) -> Job[Answer]:
        """Put a question into the line. Raises Loading, Busy."""
        backend = self.ready()
        job: Job[Answer] = self.jobs.submit(lambda job: backend.answer(body, job.emit, job.given_up))
        self._tell_controller()
        assert job.task is not None
        job.task.add_done_callback(lambda _: self._tell_controller())
        return job

    def _tell_controller(self) -> None:
        if self.registration:
            self.registration.poke()


def build_app(worker: Worker, token: str | None = None, max_body: int = access.MAX_REQUEST_MB << 20) -> FastAPI:
    """The worker's routes."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        opening = asyncio.create_task(worker.open())
        yield
        opening.cancel()
        await asyncio.to_thread(worker.jobs.close)

    app = FastAPI(title="LLaVA worker", lifespan=lifespan)
    app.add_middleware(access.Gate, token=token, max_body=max_body)

    @app.post("/worker_get_status")
    async def worker_get_status() -> WorkerStatus:
        """Model names, speed, and how many questions run or wait."""
        return worker.status()

    @app.post("/worker_generate_stream")
    async def worker_generate_stream(request: Request) -> StreamingResponse:
        """Frames of ``{"text", "error_code"}``, each ended by NUL; errors are frames too."""
        try:
            body = GenerateBody.parse(await _json(request))
            job = worker.ask(body)
        except (UserError, HTTPException) as error:
            told = error if isinstance(error, UserError) else UserError(error.detail)
            return StreamingResponse(iter([frame(report(told, logger).message, WORKER_ERROR)]))
        return JobResponse(_frames(job, body), job)

    add_routes(app, worker)
    return app


async def _json(request: Request) -> Any:
    try:
        return await request.json()
    except ValueError as error:
        raise UserError(f"the request is not JSON ({error})") from error


async def _frames(job: Job[Answer], body: GenerateBody) -> AsyncIterator[bytes]:
    try:
        async for answer in job.updates(KEEP_ALIVE):
            answer = answer or Answer()
            yield frame(body.prompt + answer.text, maps=answer.maps)
    except TooLong as error:
        yield frame(f"{body.prompt}{TOO_LONG} ({error})")
    except Exception as error:  # the client is told what happened, whatever it was
        yield frame(report(error, logger).message, WORKER_ERROR)


# -- what both kinds of worker are started with ------------------------------------------------------------------------


def add_worker_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of every worker."""
    parser.add_argument("--host", type=str, default="localhost", help="address to listen on (default: localhost)")
    parser.add_argument("--port", type=int, default=21002, help="default: 21002")
    parser.add_argument(
        "--worker-address", type=str, help="URL by which others reach this worker (default: http://HOST:PORT)"
    )
    parser.add_argument(
        "--controller-address", type=str, default="http://localhost:21001", help="default: http://localhost:21001"
    )
    parser.add_argument("--model-name", type=str, help="name to serve the model under (default: from its path)")
    parser.add_argument("--limit-model-concurrency", type=int, default=5, help="answers written at once (default: 5)")
    parser.add_argument("--stream-interval", type=int, default=1, help="accepted and without effect")
    parser.add_argument("--no-register", action="store_true", help="serve without a controller")
    parser.add_argument("--conv-mode", type=str, help="template of chat completions and of the web page's prompts")
    limits = Limits()
    parser.add_argument("--max-images", type=int, default=limits.images, help="pictures in one request (default: 8)")
    parser.add_argument(
        "--max-pixels", type=int, default=limits.pixels, help="pixels of one picture (default: 40 million)"
    )
    add_server_flags(parser)


def add_server_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of everything that listens."""
    parser.add_argument(
        "--max-request-mb", type=int, default=access.MAX_REQUEST_MB, help="size of one request (default: 64)"
    )
    parser.add_argument("--log-dir", type=str, default=LOGDIR, help="folder of the log files (default: .)")
    access.add_token_flag(parser)


def worker_from_flags(args: argparse.Namespace, name: str, load: Callable[[], Backend]) -> Worker:
    """The worker that the common flags describe."""
    worker = Worker(name, load, args.limit_model_concurrency)
    if not args.no_register:
        host = "localhost" if args.host in ALL_INTERFACES else args.host
        address = args.worker_address or f"http://{host}:{args.port}"
        worker.registration = Registration(args.controller_address, address, worker.status, args.auth_token)
    return worker


def limits_from_flags(args: argparse.Namespace) -> Limits:
    return Limits(images=args.max_images, pixels=args.max_pixels)


def serve(worker: Worker, args: argparse.Namespace) -> None:
    """Listen until Ctrl-C. Raises what loading the model raised."""
    app = build_app(worker, args.auth_token, args.max_request_mb << 20)
    server = uvicorn.Server(uvicorn.Config(app, args.host, args.port, log_config=None, timeout_graceful_shutdown=GRACE))

    def settled() -> None:
        if worker.load_error:
            server.should_exit = True
        else:
            logger.info("%s is ready at http://%s:%s", worker.name, args.host, args.port)

    worker.when_settled = settled
    server.run()
    if worker.load_error:
        raise worker.load_error


def dump(args: argparse.Namespace) -> dict[str, Any]:
    """The flags for the log, without the secret."""
    return {name: value for name, value in vars(args).items() if name != "auth_token"}
