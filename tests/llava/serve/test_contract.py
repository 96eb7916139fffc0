"""LLaVA's protocol, spoken by stand-ins on sockets: its clients and workers with ours, ours with its controller.

The stand-ins use nothing of this package. What they say is what LLaVA's processes say: routes, keys, framing, codes.
"""

import asyncio
import http.client
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

from llava import constants
from llava.serve import cli, controller, gradio_web_server, model_worker, protocol, register_worker, sglang_worker
from llava.serve import test_message as message_program
from llava.serve.client import Client, Models
from llava.serve.conversation_log import ConversationLog
from llava.serve.dialogue import new_dialogue
from llava.serve.gradio_web_server import build_demo
from llava.serve.page_events import Events

from .conftest import QUESTION, Talker, picture, prompt_of, wait_for

NAME = "llava-v1.5-talker"
WEB_SERVER = {"temperature": 0.2, "top_p": 0.7, "max_new_tokens": 512, "stop": "</s>", "images": []}


# -- LLaVA's side ------------------------------------------------------------------------------------------------------


def post(url: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> tuple[int, Any]:
    """Status and JSON of the answer to a bare POST; without ``body`` an empty one."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=10)
    content = b"" if body is None else json.dumps(body).encode()
    connection.request("POST", path, content, {"Content-Type": "application/json"} | (headers or {}))
    answer = connection.getresponse()
    status, text = answer.status, answer.read()
    connection.close()
    return status, json.loads(text)


def stream(url: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    """An answer, read as LLaVA's web server reads it."""
    answer = requests.post(
        f"{url}/worker_generate_stream", headers={"User-Agent": "LLaVA Client"}, json=body, stream=True, timeout=10
    )
    chunks = answer.iter_lines(decode_unicode=False, delimiter=b"\0")
    return [json.loads(chunk.decode()) for chunk in chunks if chunk]


@pytest.fixture
def stand_in() -> Iterator[Callable[..., SimpleNamespace]]:
    """Starts HTTP servers of the standard library: ``answers`` maps paths to what they say to a body."""
    servers: list[ThreadingHTTPServer] = []

    def start(**answers: Callable[[Any], Any]) -> SimpleNamespace:
        heard: list[tuple[str, Any]] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                body = json.loads(content) if content else None
                path = self.path.strip("/")
                heard.append((path, body))
                said = answers[path](body)
                self.send_response(200)
                self.end_headers()  # no content type and no length: the end of the connection ends the answer
                self.wfile.write(said if isinstance(said, bytes) else json.dumps(said).encode())

            def log_message(self, *args: object) -> None:
                pass

        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return SimpleNamespace(url=f"http://127.0.0.1:{servers[-1].server_port}", heard=heard)

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def frames_of(*texts: str) -> bytes:
    return b"".join(json.dumps({"text": text, "error_code": 0}).encode() + b"\0" for text in texts)


@pytest.fixture
def their_worker(stand_in):
    """LLaVA's worker: it knows neither ``maps`` nor ``conv_mode``."""
    return stand_in(
        worker_get_status=lambda body: {"model_names": [NAME], "speed": 1, "queue_length": 0},
        worker_generate_stream=lambda body: frames_of(body["prompt"] + " A", body["prompt"] + " A cup."),
    )


@pytest.fixture
def their_controller(stand_in):
    """LLaVA's controller, which forgets each worker once."""
    state: dict[str, Any] = {"workers": {}, "forgets": True}

    def register(body: dict[str, Any]) -> None:
        state["workers"][body["worker_name"]] = body["worker_status"]

    def beat(body: dict[str, Any]) -> dict[str, bool]:
        beats = [heard for path, heard in server.heard if path == "receive_heart_beat"]
        if state["forgets"] and len(beats) == 2:
            state["workers"].clear()
        return {"exist": body["worker_name"] in state["workers"]}

    def address(body: dict[str, Any]) -> dict[str, str]:
        serving = [name for name, status in state["workers"].items() if body["model"] in status["model_names"]]
        return {"address": next(iter(serving), "")}

    server = stand_in(
        register_worker=register,
        receive_heart_beat=beat,
        refresh_all_workers=lambda body: None,
        list_models=lambda body: {"models": sorted({m for s in state["workers"].values() for m in s["model_names"]})},
        get_worker_address=address,
    )
    server.workers = state["workers"]
    return server


# -- their client with our controller and worker -----------------------------------------------------------------------


class TestTheirClient:
    def test_the_way_of_their_web_server(self, start, plain_backend):
        url = start.controller()
        served = start.worker(plain_backend, controller=url, name=NAME)
        assert post(url, "/refresh_all_workers") == (200, None)
        status, listed = post(url, "/list_models")
        assert (status, listed["models"]) == (200, [NAME])
        assert post(url, "/get_worker_address", {"model": NAME}) == (200, {"address": served.url})
        prompt = prompt_of(QUESTION)
        body = {"model": NAME, "prompt": prompt} | WEB_SERVER | {"images": [picture()], "max_new_tokens": 8}
        for address in (served.url, url):  # the worker itself, and through the controller
            frames = stream(address, body)
            assert {frame["error_code"] for frame in frames} == {0}
            assert all(set(frame) == {"text", "error_code"} for frame in frames)
            assert all(frame["text"].startswith(prompt) for frame in frames)
            assert len(frames[-1]["text"]) > len(prompt)

    @pytest.mark.parametrize(
        "body",
        [
            {},  # everything but the prompt has a default
            {"images": []},
            {"images": None, "stop": None},
            {"temperature": 0, "top_p": 1, "max_new_tokens": 1536},  # what their page's slider may send
            {"model": "another name", "echo": False, "repetition_penalty": 1.0},
        ],
    )
    def test_every_key_they_may_send_or_leave_out(self, body, start):
        served = start.worker(Talker())
        assert stream(served.url, {"prompt": "Q:"} | body)[-1] == {"text": "Q: 0 1 2", "error_code": 0}

    def test_the_codes(self, start, plain_backend):
        url = start.controller()
        served = start.worker(plain_backend, controller=url, name=NAME)
        assert [f["error_code"] for f in stream(served.url, {"model": NAME})] == [1]  # no prompt
        body = {"model": NAME, "prompt": prompt_of(QUESTION)} | WEB_SERVER
        assert [f["error_code"] for f in stream(served.url, body)] == [1]  # a mark without its picture
        assert [f["error_code"] for f in stream(url, body | {"model": "nobody's"})] == [2]
        (too_long,) = stream(served.url, {"prompt": "word " * 3000})
        assert too_long["error_code"] == 0
        sentence = "Exceeds max token length. Please start a new conversation, thanks."
        assert too_long["text"].startswith("word " * 3000 + sentence)

    def test_a_worker_that_is_gone_is_code_3(self, start, stand_in):
        dying = stand_in(
            worker_get_status=lambda body: {"model_names": [NAME], "speed": 1, "queue_length": 0},
            worker_generate_stream=lambda body: 1 / 0,  # the connection breaks without an answer
        )
        url = start.controller()
        post(url, "/register_worker", {"worker_name": dying.url, "check_heart_beat": False, "worker_status": None})
        assert [f["error_code"] for f in stream(url, {"model": NAME, "prompt": "Q:"})] == [3]

    def test_what_is_asked_with_get_is_not_allowed_and_the_documentation_is_there(self, start):
        url = start.controller()
        served = start.worker(Talker())
        worker_paths = {"/worker_get_status", "/worker_generate_stream"}
        controller_paths = worker_paths | {
            "/register_worker", "/refresh_all_workers", "/list_models", "/get_worker_address", "/receive_heart_beat",
        }  # fmt: skip
        for address, paths in ((url, controller_paths), (served.url, worker_paths)):
            assert paths <= set(requests.get(f"{address}/openapi.json", timeout=10).json()["paths"])
            assert requests.get(f"{address}/docs", timeout=10).status_code == 200
            assert {requests.get(f"{address}{path}", timeout=10).status_code for path in paths} == {405}

    def test_no_gap_is_longer_than_their_patience(self):
        assert protocol.KEEP_ALIVE < 10


# -- their worker with our controller and web server -------------------------------------------------------------------


class TestTheirWorker:
    def test_it_registers_beats_and_is_given_out(self, start, their_worker):
        url = start.controller()
        beat = {"worker_name": their_worker.url, "queue_length": 0}
        status = {"model_names": [NAME], "speed": 1, "queue_length": 0}
        body = {"worker_name": their_worker.url, "check_heart_beat": True, "worker_status": status}
        assert post(url, "/receive_heart_beat", beat) == (200, {"exist": False})
        assert post(url, "/register_worker", body) == (200, None)
        assert post(url, "/receive_heart_beat", beat) == (200, {"exist": True})
        assert post(url, "/get_worker_address", {"model": NAME}) == (200, {"address": their_worker.url})
        total = post(url, "/worker_get_status")[1]
        assert {key: total[key] for key in status} == status
        assert post(url, "/refresh_all_workers") == (200, None)
        assert post(url, "/list_models")[1]["models"] == [NAME]

    def test_our_web_server_talks_to_it(self, start, their_worker):
        url = start.controller()
        post(url, "/register_worker", {"worker_name": their_worker.url, "check_heart_beat": False})
        assert _chat(Client(url)) == "A cup."
        (asked,) = [body for path, body in their_worker.heard if path == "worker_generate_stream"]
        known = {"model", "prompt", "temperature", "top_p", "max_new_tokens", "stop", "images"}
        assert known <= set(asked) <= known | {"maps"}  # theirs ignores what it does not know
        assert isinstance(asked["stop"], str)  # theirs fails without one
        assert asked["max_new_tokens"] <= 1536

    def test_its_frames_pass_our_controller_unchanged(self, start, their_worker):
        url = start.controller()
        post(url, "/register_worker", {"worker_name": their_worker.url, "check_heart_beat": False})
        answer = requests.post(f"{url}/worker_generate_stream", json={"model": NAME, "prompt": "Q:"}, timeout=10)
        assert answer.content == frames_of("Q: A", "Q: A cup.")
        assert "content-type" not in answer.headers

    def test_register_worker_makes_it_known(self, start, their_worker, monkeypatch):
        url = start.controller()
        flags = ["--controller", f"{url}/", "--worker", their_worker.url, "--check"]
        monkeypatch.setattr("sys.argv", ["register_worker", *flags])
        register_worker.main()
        assert post(url, "/get_worker_address", {"model": NAME})[1] == {"address": their_worker.url}

    def test_a_controller_of_ours_is_a_worker_to_one_above(self, start, their_worker):
        lower, upper = start.controller(), start.controller()
        post(lower, "/register_worker", {"worker_name": their_worker.url, "check_heart_beat": False})
        assert post(upper, "/register_worker", {"worker_name": lower, "check_heart_beat": False}) == (200, None)
        assert stream(upper, {"model": NAME, "prompt": "Q:"})[-1] == {"text": "Q: A cup.", "error_code": 0}


# -- our workers and web server with their controller ------------------------------------------------------------------


class TestTheirController:
    def test_our_worker_registers_and_does_so_again_when_it_is_forgotten(self, start, their_controller):
        served = start.worker(Talker(), controller=their_controller.url)
        wait_for(lambda: [path for path, _ in their_controller.heard].count("register_worker") == 2)
        wait_for(lambda: served.url in their_controller.workers)
        body = next(body for path, body in their_controller.heard if path == "register_worker")
        assert set(body) == {"worker_name", "check_heart_beat", "worker_status"}
        assert (body["worker_name"], body["check_heart_beat"]) == (served.url, True)
        assert {"model_names": [NAME], "speed": 1, "queue_length": 0}.items() <= body["worker_status"].items()
        beat = next(body for path, body in their_controller.heard if path == "receive_heart_beat")
        assert beat == {"worker_name": served.url, "queue_length": 0}

    def test_our_web_server_finds_models_and_workers_there(self, start, their_controller):
        start.worker(Talker(), controller=their_controller.url)
        assert _chat(Client(their_controller.url)) == "0 1 2"

    def test_our_test_message_asks_there(self, start, their_controller, monkeypatch, capsys):
        start.worker(Talker(), controller=their_controller.url)
        monkeypatch.setattr("sys.argv", ["test_message", "--controller", their_controller.url, "--model-name", NAME])
        message_program.main()
        assert "ASSISTANT: 0 1 2" in capsys.readouterr().out


def _chat(client: Client) -> str:
    """One question on our page; the answer in its chat box."""

    async def visit() -> str:
        events = Events(client, ConversationLog(None))
        await events.load_page({})
        assert events.models == Models([NAME], events.models.conv_modes)
        state, *_ = events.add_text(new_dialogue(), "What is it?", None, "Default")
        visitor = SimpleNamespace(client=None)
        shown = [changes[1] async for changes in events.http_bot(state, NAME, 0.2, 0.7, 512, True, visitor)]
        return shown[-1][-1]["content"]

    return asyncio.run(visit())


# -- flags, constants, page --------------------------------------------------------------------------------------------

WORKER_FLAGS = {
    "host": "localhost", "port": 21002, "controller_address": "http://localhost:21001", "model_name": None,
    "limit_model_concurrency": 5, "stream_interval": 1, "no_register": False,
}  # fmt: skip


@pytest.mark.parametrize(
    ("program", "required", "defaults"),
    [
        (controller, [], {"host": "localhost", "port": 21001, "dispatch_method": "shortest_queue"}),
        (
            model_worker,
            [],
            WORKER_FLAGS
            | {"model_path": "facebook/opt-350m", "model_base": None, "device": "cuda", "multi_modal": False}
            | dict.fromkeys(("load_8bit", "load_4bit", "use_flash_attn"), False),
        ),
        (sglang_worker, ["--sgl-endpoint", "http://s:1"], WORKER_FLAGS),
        (
            gradio_web_server,
            [],
            {"port": None, "controller_url": "http://localhost:21001", "concurrency_count": 16}
            | {"model_list_mode": "once", "share": False, "moderate": False, "embed": False},
        ),
        (
            cli,
            ["--image-file", "a.jpg"],
            {"model_path": "facebook/opt-350m", "model_base": None, "device": "cuda", "conv_mode": None}
            | {"temperature": 0.2, "max_new_tokens": 512, "load_8bit": False, "load_4bit": False, "debug": False},
        ),
        (
            register_worker,
            ["--controller-address", "http://c:1", "--worker-name", "http://w:1"],
            {"check_heart_beat": False},
        ),
        (
            message_program,
            [],
            {"controller_address": "http://localhost:21001", "worker_address": None, "max_new_tokens": 32}
            | {"model_name": "facebook/opt-350m"},
        ),
    ],
    ids=lambda value: getattr(value, "__name__", "").rpartition(".")[2] or None,
)
def test_flags_and_their_defaults(program, required, defaults):
    args = vars(program.build_parser().parse_args(required))
    assert {name: args[name] for name in defaults} == defaults


def test_the_worker_is_known_by_the_address_they_give_it():
    parser = model_worker.build_parser()
    for flags, address in (
        ([], "http://localhost:21002"),
        (["--worker", "http://w:1"], "http://w:1"),
        (["--worker-address", "http://w:2/"], "http://w:2"),
        (["--host", "0.0.0.0", "--port", "40000"], "http://localhost:40000"),
    ):
        args = parser.parse_args([*flags, "--model-path", "m"])
        assert model_worker.worker_from_flags(args, "m", Talker).registration.address == address


@pytest.mark.parametrize(
    ("program", "short", "value", "name"),
    [
        (model_worker, "--controller", "http://c:1", "controller_address"),
        (model_worker, "--worker", "http://w:1", "worker_address"),
        (model_worker, "--model-p", "m", "model_path"),
        (sglang_worker, "--controller", "http://c:1", "controller_address"),
        (sglang_worker, "--worker", "http://w:1", "worker_address"),
        (gradio_web_server, "--controller", "http://c:1", "controller_url"),
        (message_program, "--controller", "http://c:1", "controller_address"),
        (message_program, "--worker", "http://w:1", "worker_address"),
        (controller, "--host", "0.0.0.0", "host"),
        (controller, "--dispatch", "lottery", "dispatch_method"),
        (cli, "--image", "a.jpg", "image_file"),
    ],
)
def test_abbreviations(program, short, value, name):
    required = {sglang_worker: ["--sgl-endpoint", "s"], cli: ["--image-file", "b.jpg"]}.get(program, [])
    assert getattr(program.build_parser().parse_args([*required, short, value]), name) == value


def test_constants():
    assert (constants.WORKER_HEART_BEAT_INTERVAL, constants.CONTROLLER_HEART_BEAT_EXPIRATION) == (15, 30)
    assert (protocol.OK, protocol.WORKER_ERROR, protocol.NO_WORKER, protocol.UNREACHABLE) == (0, 1, 2, 3)
    assert protocol.STATUS_TIMEOUT == 5


def test_the_elements_of_the_page():
    demo = build_demo(Events(Client("http://127.0.0.1:9"), ConversationLog(None)))
    elements = [component["props"] for component in demo.get_config_file()["components"]]
    by_id = {props.get("elem_id"): props for props in elements}
    assert {"model_selector_row", "chatbot", "buttons"} <= set(by_id)
    chatbot = by_id["chatbot"]
    assert (chatbot["label"], chatbot["height"], chatbot["layout"]) == ("LLaVA Chatbot", 650, "panel")
    sliders = {p["label"]: (p["minimum"], p["maximum"], p["step"], p["value"]) for p in elements if "maximum" in p}
    assert sliders["Temperature"] == (0, 1, 0.1, 0.2)
    assert sliders["Top P"] == (0, 1, 0.1, 0.7)
    assert sliders["Max output tokens"][1:] == (1024, 64, 512)
    buttons = {p["value"].split()[-1]: p["interactive"] for p in elements if p.get("name") == "button"}
    assert {"Upvote", "Downvote", "Flag", "Regenerate", "Clear"} <= set(buttons)
    assert not any(buttons[name] for name in ("Upvote", "Downvote", "Flag", "Regenerate", "Clear"))
    (modes,) = [p for p in elements if p.get("label") == "Preprocess for non-square image"]
    assert [choice[1] for choice in modes["choices"]] == ["Crop", "Resize", "Pad", "Default"]
    assert (modes["value"], modes["visible"]) == ("Default", False)
    assert [p for p in elements if p.get("placeholder") == "Enter text and press ENTER"]
    assert demo.title == "LLaVA"
