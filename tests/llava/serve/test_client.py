"""What a client is told when an answer does not come."""

import asyncio

import pytest
from fastapi import FastAPI
from fastapi.responses import JSONResponse, StreamingResponse

from llava.errors import UserError
from llava.serve.background import BackgroundServer
from llava.serve.client import AnswerError, Client
from llava.serve.protocol import Frames, frame

from .conftest import Talker

BODY = {"model": "llava-v1.5-talker", "prompt": "Q:"}


def answer(client: Client, address: str | None = None) -> list[dict]:
    async def collect():
        return [frame async for frame in client.answer(BODY, address)]

    return asyncio.run(collect())


def test_an_answer(start):
    controller = start.controller()
    start.worker(Talker(), controller=controller)
    assert answer(Client(f"{controller}/"))[-1] == {"text": "Q: 0 1 2", "error_code": 0}


def test_an_error_frame_is_an_error(start):
    controller = start.controller()
    start.worker(Talker(words=2, error=RuntimeError("boom")), controller=controller)
    with pytest.raises(AnswerError, match=r"RuntimeError \(boom\)") as caught:
        answer(Client(controller))
    assert caught.value.code == 1


def test_nobody_to_ask(start):
    with pytest.raises(AnswerError, match=r"no worker serves .* now") as caught:
        answer(Client(start.controller()))
    assert caught.value.code == 2
    with pytest.raises(AnswerError, match=r"the controller at .* does not answer .*; try again") as caught:
        answer(Client("http://127.0.0.1:9"))
    assert caught.value.code == 3
    with pytest.raises(UserError, match=r"the controller refuses .* asks for a token"):
        asyncio.run(Client(start.controller(token="secret"), "wrong").models())


@pytest.mark.parametrize(
    ("reply", "message", "code"),
    [
        (lambda: JSONResponse({"detail": "no room"}, status_code=503), r"refuses \(no room\)", 1),
        (lambda: JSONResponse(["?"], status_code=500), r"refuses \(status 500\)", 1),
        (lambda: StreamingResponse(iter([frame("Q: A"), b"no json\0"])), "went away", 3),
    ],
)
def test_a_worker_that_speaks_otherwise(reply, message, code):
    app = FastAPI()
    app.post("/worker_generate_stream")(lambda: reply())
    with BackgroundServer(app) as server, pytest.raises(AnswerError, match=message) as caught:
        answer(Client("http://127.0.0.1:9"), server.url)
    assert caught.value.code == code


def test_frames_are_put_together_wherever_they_were_cut():
    stream = frame("ä" * 3) + frame("b", 1)
    for size in (1, 3, 7, len(stream)):
        frames = Frames()
        parts = [stream[start : start + size] for start in range(0, len(stream), size)]
        assert [f["text"] for part in parts for f in frames.feed(part)] == ["äää", "b"]
