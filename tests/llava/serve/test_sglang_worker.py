"""The SGLang worker against a server that speaks SGLang's native endpoints. SGLang itself was not run."""

import json

import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse

from llava.errors import UserError
from llava.serve.background import BackgroundServer
from llava.serve.pictures import Limits
from llava.serve.prompts import PromptMeter
from llava.serve.sglang_worker import SGLangBackend, build_parser, meter_of, paths_of

from .conftest import ask, picture


@pytest.fixture
def sglang():
    """A stand-in that records what it is asked and answers in cumulative events."""
    app = FastAPI()
    app.state.asked = []
    app.state.refuse = False

    @app.get("/get_model_info")
    async def get_model_info():
        return {"model_path": "liuhaotian/llava-v1.5-7b", "tokenizer_path": "llava-hf/llava-1.5-7b-hf"}

    @app.post("/generate")
    async def generate(request: Request):
        app.state.asked.append(await request.json())
        if app.state.refuse:
            return JSONResponse({"error": {"message": "the queue is full"}}, status_code=503)
        meta = {"prompt_tokens": 9, "completion_tokens": 2}
        events = [
            {"text": "A red", "meta_info": {**meta, "finish_reason": None}},
            {"text": "A red cup.###", "meta_info": {**meta, "finish_reason": {"type": "stop"}}},
        ]
        lines = [f"data: {json.dumps(event)}\n\n" for event in events] + ["data: [DONE]\n\n"]
        return StreamingResponse(iter(lines), media_type="text/event-stream")

    with BackgroundServer(app) as server:
        yield server.url, app.state


@pytest.fixture
def meter(assets):
    """Of upstream's tiny LLaVA, to which a picture is 16 tokens."""
    return PromptMeter.read(*[str(assets / "llava_tiny_mlp2x_gelu")] * 2)


def test_an_answer_comes_through(sglang, start):
    endpoint, state = sglang
    served = start.worker(SGLangBackend(endpoint, "vicuna_v1", Limits(), None))
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
    served = start.worker(SGLangBackend(endpoint, "vicuna_v1", Limits(), None))
    assert "the prompt has 1 <image> for 0 pictures" in ask(served.url, {"prompt": "<image>"})[-1]["text"]
    assert "picture 1 cannot be read" in ask(served.url, {"prompt": "<image>", "images": ["x"]})[-1]["text"]
    state.refuse = True
    frame = ask(served.url, {"prompt": "What?"})[-1]
    assert frame["error_code"] == 1
    assert "SGLang refuses the request: the queue is full (error id " in frame["text"]
    gone = start.worker(SGLangBackend("http://127.0.0.1:9", "vicuna_v1", Limits(), None))
    assert "the SGLang server at http://127.0.0.1:9 failed" in ask(gone.url, {"prompt": "What?"})[-1]["text"]


class TestMeasured:
    def test_the_answer_gets_the_room_that_is_left(self, sglang, start, meter):
        endpoint, state = sglang
        meter.config.max_position_embeddings = 100
        served = start.worker(SGLangBackend(endpoint, "vicuna_v1", Limits(), meter))
        body = {"prompt": "USER: <image>\nWhat?", "images": [picture()], "max_new_tokens": 4000}
        assert ask(served.url, body)[-1]["error_code"] == 0
        length = meter.length("USER:<image>What?", [(40, 20)])
        assert length > 16
        assert state.asked[0]["sampling_params"]["max_new_tokens"] == 100 - length - 1

    def test_too_long_is_told_with_code_0_and_asks_nobody(self, sglang, start, meter):
        endpoint, state = sglang
        served = start.worker(SGLangBackend(endpoint, "vicuna_v1", Limits(), meter))
        (frame,) = ask(served.url, {"prompt": "word " * 5000})
        assert frame["error_code"] == 0
        assert "Exceeds max token length. Please start a new conversation, thanks. (the prompt has " in frame["text"]
        assert state.asked == []

    def test_pictures_are_framed_as_in_training_and_the_echo_is_not(self, sglang, start, meter):
        endpoint, state = sglang
        meter.config.mm_use_im_start_end = True
        served = start.worker(SGLangBackend(endpoint, "vicuna_v1", Limits(), meter))
        body = {"prompt": "USER: <image>\nWhat?", "images": [picture()]}
        assert ask(served.url, body)[-1]["text"].startswith("USER: <image>\nWhat?A red cup.")
        assert state.asked[0]["text"] == "USER:<im_start><image><im_end>What?"


def test_the_model_is_asked_for(sglang):
    assert paths_of(sglang[0]) == ("liuhaotian/llava-v1.5-7b", "llava-hf/llava-1.5-7b-hf")
    with pytest.raises(UserError, match=r"--sgl-endpoint http://127\.0\.0\.1:9 does not answer as an SGLang server"):
        paths_of("http://127.0.0.1:9")


def test_a_checkpoint_that_is_elsewhere_is_told(tmp_path, caplog):
    assert meter_of(str(tmp_path / "nowhere"), str(tmp_path)) is None
    assert "nowhere does not exist" in caplog.text
    assert "unmeasured and without start and end tokens" in caplog.text
    assert "as --checkpoint" in caplog.text


def test_flags_of_the_documentation():
    args = build_parser().parse_args(
        ["--controller", "http://c:1", "--worker", "http://w:2", "--sgl-endpoint", "http://s:3", "--port", "40000"]
    )
    assert (args.controller_address, args.worker_address, args.sgl_endpoint) == (
        "http://c:1",
        "http://w:2",
        "http://s:3",
    )
