"""The way of a question through controller and worker, for the web page and for tools."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import httpx

from llava.errors import UserError
from llava.serve.protocol import NO_WORKER, OK, STATUS_TIMEOUT, STREAM_GAP, UNREACHABLE, WORKER_ERROR, Frames, bearer

USER_AGENT = "LLaVA Client"
LISTED_FIRST = ("vicuna-13b", "koala-13b")


class AnswerError(UserError):
    """An answer that ends in an error: the message and its code."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Models:
    """What a controller offers: names in the page's order, and the templates that workers name."""

    names: list[str] = field(default_factory=list)
    conv_modes: dict[str, str] = field(default_factory=dict)


class Client:
    """Speaks with a controller, and with the workers it points to.

    Args:
        controller: URL.
        token: the shared token, if any.
    """

    def __init__(self, controller: str, token: str | None = None) -> None:
        self.controller = controller.rstrip("/")
        self._headers = bearer(token)

    def _http(self) -> httpx.AsyncClient:
        timeout = httpx.Timeout(STATUS_TIMEOUT, read=STREAM_GAP)
        return httpx.AsyncClient(timeout=timeout, headers=self._headers, trust_env=False)

    async def models(self) -> Models:
        """Let the controller look at its workers, and list their models. Raises UserError when it cannot be asked."""
        async with self._http() as http:
            await self._ask_controller(http, "refresh_all_workers", {})
            listed = await self._ask_controller(http, "list_models", {})
        names = sorted(
            listed["models"],
            key=lambda name: (LISTED_FIRST.index(name) if name in LISTED_FIRST else len(LISTED_FIRST), name),
        )
        return Models(names, listed.get("conv_modes", {}))

    async def worker_address(self, model: str) -> str:
        """The worker that shall answer next; empty when there is none. Raises UserError as :meth:`models`."""
        async with self._http() as http:
            return (await self._ask_controller(http, "get_worker_address", {"model": model}))["address"]

    async def _ask_controller(self, http: httpx.AsyncClient, path: str, body: dict[str, str]) -> Any:
        url = f"{self.controller}/{path}"
        try:
            return (await http.post(url, json=body)).raise_for_status().json()
        except httpx.HTTPStatusError as error:
            raise UserError(f"the controller refuses {url} ({_detail(error.response)})") from error
        except (httpx.HTTPError, ValueError) as error:
            raise UserError(f"the controller at {self.controller} does not answer ({_reason(error)})") from error

    async def answer(self, body: dict[str, Any], address: str | None = None) -> AsyncIterator[dict[str, Any]]:
        """The frames of an answer to a request of ``/worker_generate_stream``; the model's next worker by default.

        Raises AnswerError with what went wrong and what to do.
        """
        if address is None:
            try:
                address = await self.worker_address(body["model"])
            except UserError as error:
                raise AnswerError(f"{error}; try again in a moment", UNREACHABLE) from error
        if not address:
            raise AnswerError(
                f"no worker serves {body['model']!r} now; wait for one to start or choose another model", NO_WORKER
            )
        frames = Frames()
        url = f"{address}/worker_generate_stream"
        try:
            async with (
                self._http() as http,
                http.stream("POST", url, json=body, headers={"User-Agent": USER_AGENT}) as response,
            ):
                if response.status_code != httpx.codes.OK:
                    await response.aread()
                    raise AnswerError(f"the worker at {address} refuses ({_detail(response)})", WORKER_ERROR)
                async for chunk in response.aiter_bytes():
                    for frame in frames.feed(chunk):
                        if frame["error_code"] != OK:
                            raise AnswerError(frame["text"], frame["error_code"])
                        yield frame
        except AnswerError:
            raise
        except (httpx.HTTPError, ValueError) as error:
            raise AnswerError(
                f"the worker at {address} went away ({_reason(error)}); ask again, another one will answer", UNREACHABLE
            ) from error


def _detail(response: httpx.Response) -> str:
    try:
        return str(response.json()["detail"])
    except (ValueError, KeyError, TypeError):
        return f"status {response.status_code}"


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
