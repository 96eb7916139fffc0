"""Generations in threads behind an event loop: a fixed number of slots, a line of bounded length, and a way to give up.

A slot is held by the thread that computes, not by the client that listens: it is free again when the thread has ended,
however the client left.
"""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, TypeVar

from starlette.responses import StreamingResponse

from llava.serve.failures import Busy

T = TypeVar("T")


class Job(Generic[T]):
    """One generation. Its thread calls :meth:`emit` and looks at ``given_up``; the loop reads :meth:`updates`."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.given_up = threading.Event()
        self.started = False
        self.task: asyncio.Task[None] | None = None
        self._loop = loop
        self._latest: T | None = None
        self._news = asyncio.Event()

    def emit(self, update: T) -> None:
        """Replace the update to read next; from any thread. Each update holds all of those before it."""
        self._loop.call_soon_threadsafe(self._set, update)

    def _set(self, update: T) -> None:
        self._latest = update
        self._news.set()

    async def updates(self, patience: float) -> AsyncIterator[T | None]:
        """The newest update whenever there is one, and again whenever nothing came for ``patience`` seconds.

        None as long as there is no update. Raises what the work raised.
        """
        assert self.task is not None
        self.task.add_done_callback(lambda _: self._news.set())
        read: T | None = None
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), patience)
            self._news.clear()
            if self.task.done():
                break
            read = self._latest
            yield read
        self.task.result()
        if self._latest is not read:
            yield self._latest

    def give_up(self) -> None:
        """Nobody listens any more: leave the line, or stop at the next token. Safe to call at any time."""
        self.given_up.set()
        if not self.started and self.task is not None:
            self.task.cancel()


class JobResponse(StreamingResponse):
    """A stream that gives its job up when it ends, whether the client has read it or left."""

    def __init__(self, content: AsyncIterator[bytes], job: Job[Any], media_type: str | None = None) -> None:
        super().__init__(content, media_type=media_type)
        self._job = job

    async def __call__(self, *args: Any) -> None:
        try:
            await super().__call__(*args)
        finally:
            self._job.give_up()


class Jobs:
    """Runs at most ``slots`` generations at once and keeps at most ``line`` more waiting."""

    def __init__(self, slots: int, line: int) -> None:
        self.slots = slots
        self.line = line
        self._free = asyncio.Semaphore(slots)
        self._threads = ThreadPoolExecutor(slots, thread_name_prefix="generation")
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def queue_length(self) -> int:
        """Generations that run or wait."""
        return len(self._tasks)

    def submit(self, work: Callable[[Job[T]], object]) -> Job[T]:
        """Put ``work`` into the line. Raises Busy when the line is full."""
        if len(self._tasks) >= self.slots + self.line:
            raise Busy(
                f"the worker is busy: {self.slots} answers are being written and {self.line} questions wait; "
                "ask again in a moment"
            )
        job: Job[T] = Job(asyncio.get_running_loop())
        job.task = asyncio.create_task(self._run(job, work))
        self._tasks.add(job.task)
        job.task.add_done_callback(self._forget)
        return job

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # looked at, even when the client has left: asyncio complains about others

    async def _run(self, job: Job[T], work: Callable[[Job[T]], object]) -> None:
        async with self._free:
            job.started = True
            if not job.given_up.is_set():
                await asyncio.get_running_loop().run_in_executor(self._threads, work, job)

    def close(self) -> None:
        """Wait for the threads to end, at their next token once their jobs are given up."""
        self._threads.shutdown(wait=True, cancel_futures=True)
