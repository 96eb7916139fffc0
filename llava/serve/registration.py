"""A worker's standing with its controller: registered, kept alive by heartbeats, registered again when forgotten.

All of it happens in one background task. A controller that is away delays nothing but its own knowledge.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable

import httpx

from llava.constants import WORKER_HEART_BEAT_INTERVAL
from llava.serve.protocol import STATUS_TIMEOUT, WorkerStatus, bearer

logger = logging.getLogger(__name__)

RETRY_INTERVAL = 5.0  # seconds


class Registration:
    """Keeps a controller informed of one worker.

    Args:
        controller: its URL.
        address: the worker's URL, by which the controller knows it.
        status: what the worker says of itself.
        token: the shared token, if any.
        interval, retry: seconds between heartbeats, and between attempts when the controller does not answer.
    """

    def __init__(
        self,
        controller: str,
        address: str,
        status: Callable[[], WorkerStatus],
        token: str | None = None,
        interval: float = WORKER_HEART_BEAT_INTERVAL,
        retry: float = RETRY_INTERVAL,
    ) -> None:
        self.controller = controller.rstrip("/")
        self.address = address.rstrip("/")
        self._status = status
        self._headers = bearer(token)
        self._interval = interval
        self._retry = retry
        self._changed = asyncio.Event()

    def poke(self) -> None:
        """The queue has changed: let the next heartbeat come now. Never waits."""
        self._changed.set()

    async def run(self) -> None:
        """Until cancelled."""
        known, complained = False, False
        async with httpx.AsyncClient(timeout=STATUS_TIMEOUT, headers=self._headers, trust_env=False) as client:
            while True:
                try:
                    if known and not await self._beat(client):
                        logger.info("%s has forgotten %s", self.controller, self.address)
                        known = False
                    if not known:
                        known = await self._register(client)
                    complained = False
                except (httpx.HTTPError, ValueError) as error:  # not there, refuses, or does not speak our language
                    known = False
                    if not complained:
                        reason = str(error) or type(error).__name__
                        logger.warning("no word from the controller %s (%s); trying on", self.controller, reason)
                    complained = True
                await self._pause(self._interval if known else self._retry)

    async def _register(self, client: httpx.AsyncClient) -> bool:
        body = {"worker_name": self.address, "check_heart_beat": True, "worker_status": self._status().model_dump()}
        (await client.post(f"{self.controller}/register_worker", json=body)).raise_for_status()
        # The answer is the same whether it worked or not; a heartbeat tells.
        known = await self._beat(client)
        logger.log(
            logging.INFO if known else logging.WARNING,
            "%s %s %s", self.controller, "has registered" if known else "did not register", self.address,
        )  # fmt: skip
        return known

    async def _beat(self, client: httpx.AsyncClient) -> bool:
        body = {"worker_name": self.address, "queue_length": self._status().queue_length}
        response = await client.post(f"{self.controller}/receive_heart_beat", json=body)
        return bool(response.raise_for_status().json().get("exist"))

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), seconds)
        self._changed.clear()
