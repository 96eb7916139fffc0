"""The SGLang worker against a server that speaks SGLang's native endpoints. SGLang itself was not run."""

import json

import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse

from llava.errors import UserError
from llava.serve.background import BackgroundServer
from llava.serve.pictures import Limits
from llava.serve.sglang_worker import SGLangBackend, build_parser, model_path_of

from .conftest import ask, picture


@pytest.fixture
def sglang():
    """A stand-in that records what it is asked and answers in cumulative events."""
    app = FastAPI()
    app.state.asked = []
    app.state.refuse = False

    @app.get("/get_model_info")
    async def get_model_info():
        return {"model_path": "liuhaotian/llava-v1.5-7b", "is_generation": True}

    @app.post("/generate")
    async def generate(request: Request):
        app.state.asked.append(await request.json())
        if app.state.refuse:
            return JSONResponse({"error": {"message": "no room"}}, status_code=503)
        meta = {"prompt_tokens": 9, "completion_tokens": 2}
        events = [
            {"text": "A red", "meta_info": {**meta, "finish_reason": None}},
            {"text": "A red cup.###", "meta_info": {**meta, "finish_reason": {"type": "stop"}}},
        ]
        lines = [f"data: {json.dumps(event)}\n\n" for event in events] + ["data: [DONE]\n\n"]
        return StreamingResponse(iter(lines), media_type="text/event-stream")

    with BackgroundServer(app) as server:
        yield server.url, app.state


def test_an_answer_comes_through(sglang, start):
    endpoint, state = sglang
    served = start.worker(SGLangBackend(endpoint, "vicuna_v1", Limits()))
    body = {"prompt": "USER: <image>\nWhat?", "images": [picture()], "temperature": 0, "stop": "###"}
    assert ask(served.url, body)[-1] == {"text": "USER: <image>\nWhat?A red cup.", "error_code": 0}
    assert state.asked == [
        {
            "text": "USER:<image>What?",
            "stream": True,
            "sampling_params": {"temperature": 0.0, "top_p": 1.0, "max_new_tokens": 256, "stop": ["###"]},
            "image_data": [picture()],
        }
    ]


def test_errors_are_told(sglang, start):
    endpoint, state = sglang
    served = start.worker(SGLangBackend(endpoint, "vicuna_v1", Limits()))
    assert "the prompt has 1 <image> for 0 pictures" in ask(served.url, {"prompt": "<image>"})[-1]["text"]
    assert "picture 1 cannot be read" in ask(served.url, {"prompt": "<image>", "images": ["x"]})[-1]["text"]
    state.refuse = True
    frame = ask(served.url, {"prompt": "What?"})[-1]
    assert frame["error_code"] == 1
    assert f"the SGLang server at {endpoint} failed" in frame["text"]


def test_the_model_is_asked_for(sglang):
    assert model_path_of(sglang[0]) == "liuhaotian/llava-v1.5-7b"
    with pytest.raises(UserError, match=r"--sgl-endpoint http://127\.0\.0\.1:9 does not answer as an SGLang server"):
        model_path_of("http://127.0.0.1:9")


def test_flags_of_the_documentation():
    args = build_parser().parse_args(
        ["--controller", "http://c:1", "--worker", "http://w:2", "--sgl-endpoint", "http://s:3", "--port", "40000"]
    )
    assert (args.controller_address, args.worker_address, args.sgl_endpoint) == (
        "http://c:1",
        "http://w:2",
        "http://s:3",
    )
