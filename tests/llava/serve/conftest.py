"""Servers on loopback for the tests of serving: free ports, tiny models, and a backend that can be slowed down."""

import base64
import json
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from PIL import Image

from llava import conversation
from llava.model.builder import load_config, read_json
from llava.query_markers import query_markers
from llava.serve import controller as controller_module
from llava.serve import worker_app
from llava.serve.background import BackgroundServer
from llava.serve.engine import Answer
from llava.serve.model_worker import load_backend
from llava.serve.pictures import Limits
from llava.serve.protocol import Frames, GenerateBody, bearer
from llava.serve.registration import Registration
from llava.tokenization import load_tokenizer
from llava.train.arguments import ModelArguments

QUESTION = "<image>\nWhat is on the table?"


def prompt_of(*texts: str) -> str:
    """A dialogue in the template vicuna_v1, open for the assistant."""
    dialogue = conversation.conv_templates["vicuna_v1"].copy()
    for number, text in enumerate((*texts, None)):
        dialogue.append_message(dialogue.roles[number % 2], text)
    return dialogue.get_prompt()


def picture(width: int = 40, height: int = 20, color: str = "red") -> str:
    """A PNG in base64."""
    buffer = BytesIO()
    Image.new("RGB", (width, height), color).save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def ask(url: str, body: dict[str, Any], token: str | None = None, path: str = "worker_generate_stream") -> list[dict]:
    """All frames of an answer."""
    with httpx.stream("POST", f"{url}/{path}", json=body, headers=bearer(token), timeout=60) as response:
        assert response.status_code == 200
        frames = Frames()
        return [frame for chunk in response.iter_bytes() for frame in frames.feed(chunk)]


def call(url: str, path: str, body: dict[str, Any] | None = None, token: str | None = None) -> Any:
    return httpx.post(f"{url}/{path}", json=body, headers=bearer(token), timeout=30).raise_for_status().json()


def wait_for(condition: Callable[[], Any], seconds: float = 10) -> Any:
    """The first true value of ``condition``; fails after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
    return value


def free_port() -> int:
    """For programs that must be told a port before they start."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


PILS_OWN_LIMIT = Image.MAX_IMAGE_PIXELS


@pytest.fixture(autouse=True)
def _pils_own_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening the web page, which a fixture may do for a whole module, sets another for the whole process."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", PILS_OWN_LIMIT)


@dataclass
class Talker:
    """A backend that counts: one word each ``pause`` seconds, ``words`` of them, until it is given up."""

    words: int = 3
    pause: float = 0.0
    conv_mode: str = "vicuna_v1"
    error: Exception | None = None
    ended: list[str] = field(default_factory=list)

    def answer(self, body: GenerateBody, tell: Callable[[Answer], None], given_up: threading.Event) -> None:
        text = ""
        for number in range(self.words):
            if given_up.is_set():
                self.ended.append("given up")
                return
            text += f" {number}"
            tell(Answer(text, None, 5, number + 1))
            time.sleep(self.pause)
        if self.error:
            raise self.error
        tell(Answer(text, "stop", 5, self.words))
        self.ended.append("done")


@dataclass
class Served:
    """A worker and where it is."""

    worker: worker_app.Worker
    url: str
    server: BackgroundServer


@pytest.fixture
def start() -> Iterator["Starter"]:
    """Starts controllers and workers that end with the test."""
    with ExitStack() as stack:
        yield Starter(stack)


class Starter:
    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack

    def controller(self, **options: Any) -> str:
        return self.controller_server(**options).url

    def controller_server(
        self, token: str | None = None, allowed: Any = None, port: int = 0, **options: Any
    ) -> BackgroundServer:
        controller = controller_module.Controller(token=token, **options)
        app = controller_module.build_app(controller, token, allowed)
        return self._stack.enter_context(BackgroundServer(app, port=port))

    def worker(
        self,
        backend: Any,
        controller: str | None = None,
        name: str = "llava-v1.5-talker",
        slots: int = 2,
        token: str | None = None,
        load: Callable[[], Any] | None = None,
        **app_options: Any,
    ) -> Served:
        """Ready to answer, and known to the controller if there is one."""
        worker = worker_app.Worker(name, load or (lambda: backend), slots)
        server = BackgroundServer(worker_app.build_app(worker, token, **app_options))
        if controller:
            worker.registration = Registration(controller, server.url, worker.status, token, interval=0.3, retry=0.2)
        self._stack.enter_context(server)
        if load is None:
            wait_for(lambda: worker.backend)
        if controller:
            wait_for(lambda: name in call(controller, "list_models", token=token)["models"])
        return Served(worker, server.url, server)


@pytest.fixture(scope="session")
def ccra_folder(assets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CCRA checkpoint on the tiny Vicuna with the record that training leaves."""
    folder = tmp_path_factory.mktemp("serve") / "llava-tiny-ccra"
    source = str(assets / "vicuna_tiny")
    config, model_class = load_config(read_json(f"{source}/config.json"), source)
    torch.manual_seed(0)
    model = model_class.from_pretrained(source, config=config, dtype=torch.float32).eval()
    flags = {"mm_vision_select_layer": -2, "mm_projector_type": "ccra", "mm_ccra_hidden_dim": 16}
    model.get_model().initialize_vision_modules(
        ModelArguments(vision_tower=str(assets / "clip_tiny"), mm_use_im_patch_token=False, **flags)
    )
    model.config.mm_use_im_patch_token = model.config.mm_use_im_start_end = False
    model.config.image_aspect_ratio = "pad"
    tokenizer = load_tokenizer(source)
    model.config.mm_query_markers = query_markers(conversation.conv_templates["v1"], tokenizer).to_dict()
    model.save_pretrained(folder)
    for file in Path(source).glob("tokenizer*"):
        shutil.copy(file, folder)
    (folder / "run.json").write_text(json.dumps({"settings": {"version": "v1"}}))
    return folder


@pytest.fixture(scope="session")
def ccra_backend(ccra_folder: Path) -> Any:
    return load_backend(str(ccra_folder), None, ccra_folder.name, None, Limits(), device="cpu")


@pytest.fixture(scope="session")
def plain_backend(assets: Path) -> Any:
    """Upstream's tiny LLaVA with an mlp2x_gelu projector."""
    folder = assets / "llava_tiny_mlp2x_gelu"
    return load_backend(str(folder), None, folder.name, "vicuna_v1", Limits(), device="cpu")
