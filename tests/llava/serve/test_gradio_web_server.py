"""The web page as a client sees it: through gradio_client, over HTTP, with real controllers and workers behind."""

import json
from pathlib import Path

import gradio_client
import httpx
import pytest
from PIL import Image

from llava.errors import UserError
from llava.serve.client import Client
from llava.serve.conversation_log import ConversationLog
from llava.serve.gradio_web_server import EXAMPLES, build_demo, build_parser, launch, main, read_examples
from llava.serve.page_events import Events

from .conftest import Talker, free_port, wait_for

WISHES = {"temperature": 0.0, "top_p": 1.0, "max_new_tokens": 64, "wants_maps": True}


@pytest.fixture
def page(tmp_path):
    """Opens the page; gives a browser's session that has loaded it."""
    demos = []

    def open_page(controller: str, **settings):
        events = Events(Client(controller), ConversationLog(tmp_path / "log"), **settings)
        demos.append(build_demo(events))
        url = launch(demos[-1], "127.0.0.1", free_port(), block=False)
        return Session(url)

    yield open_page
    for demo in demos:
        demo.close(verbose=False)


class Session:
    """One visitor. What arrives is what the page shows, without states and buttons."""

    def __init__(self, url: str, **params: str) -> None:
        self.url = url
        self.client = gradio_client.Client(url, verbose=False)
        self.models, self.notice = self.client.predict(url_params=params, api_name="/load_page")

    def add(self, text: str, image: Path | None = None, button: str = "add_text"):
        file = gradio_client.handle_file(str(image)) if image else None
        return self.client.predict(text=text, image=file, mode="Default", api_name=f"/{button}")

    def answer(self, model: str = "llava-v1.5-talker", **wishes) -> list:
        """All states of the chat box while the answer comes."""
        job = self.client.submit(model=model, **(WISHES | wishes), api_name="/http_bot")
        job.result(timeout=60)
        return job.outputs()


def last_text(chat: list[dict]) -> str:
    return chat[-1]["content"][0]["text"]


@pytest.fixture
def red(tmp_path):
    Image.new("RGBA", (40, 20), (255, 0, 0, 100)).save(tmp_path / "red.png")
    return tmp_path / "red.png"


def test_an_answer_streams_and_is_logged(start, page, red, tmp_path):
    controller = start.controller()
    start.worker(Talker(words=4, pause=0.1), controller=controller)
    session = page(controller)
    assert session.models["choices"] == [["llava-v1.5-talker"] * 2]
    assert session.notice == ""
    assert Session(session.url, model="nobody").models["value"] == "llava-v1.5-talker"
    chat, text, image = session.add("What <b>is</b> it?", red)
    assert (text, image) == ("", None)
    assert "data:image/jpeg;base64," in json.dumps(chat[0])
    assert "What &lt;b&gt;is&lt;/b&gt; it?" in json.dumps(chat[1])
    outputs = session.answer()
    assert last_text(outputs[0]) == "▌"
    assert any(last_text(output).endswith("▌") and "0" in last_text(output) for output in outputs)
    assert last_text(outputs[-1]) == "0 1 2 3"

    assert session.client.predict(model="llava-v1.5-talker", api_name="/upvote") == ""
    (log,) = (tmp_path / "log").glob("*-conv.json")
    chat_row, vote_row = map(json.loads, log.read_text().splitlines())
    assert (chat_row["type"], vote_row["type"]) == ("chat", "upvote")
    assert chat_row["state"]["messages"][-1] == ["ASSISTANT", "0 1 2 3"]
    assert chat_row["ip"] == "127.0.0.1"
    assert session.client.predict(api_name="/clear") == ([], "", None)
    assert [file.suffix for file in (tmp_path / "log" / "serve_images").rglob("*.*")] == [".jpg"]


def test_the_golden_llava_and_the_panels(start, page, red, ccra_backend, plain_backend):
    controller = start.controller()
    start.worker(ccra_backend, controller=controller, name="tiny-ccra")
    start.worker(plain_backend, controller=controller, name="tiny-plain")
    session = page(controller)
    session.add("What is it?", red)
    assert last_text(session.answer("tiny-ccra")[-1])
    told, words, *pictures, weights, slider, pins = session.client.predict(api_name="/show_panel")
    assert "LPWCA weighs every patch" in told
    assert "".join(word["token"] for word in words["value"]).replace(" ", "") == "Whatisit?"
    assert [picture["label"].split(":")[0] for picture in pictures] == [
        "LPWCA, layer 1", "LPWCA, layer 3", "LPWCA, layer 5", "PWCA",
    ]  # fmt: skip
    assert slider["maximum"] == 5
    assert weights["visible"]
    assert not pins["visible"]
    moved = session.client.predict(number=4, api_name="/show_layer")
    assert moved["label"].startswith("LPWCA, layer 4: ")
    numbers = session.client.predict(api_name="/numbers")
    assert len(numbers["pictures"][0]["lpwca"]) == 5

    session.client.predict(mode="Default", api_name="/regenerate")
    session.answer("tiny-plain")
    told, *hidden = session.client.predict(api_name="/show_panel")
    assert "the projector `mlp2x_gelu` has no attention maps" in told
    assert not any(update["visible"] for update in hidden)


def test_a_worker_that_dies_and_the_next_question(start, page):
    controller = start.controller()
    dying = start.worker(Talker(words=10_000, pause=0.02), controller=controller)
    session = page(controller)
    session.add("What?")
    job = session.client.submit(model="llava-v1.5-talker", **WISHES, api_name="/http_bot")
    wait_for(lambda: dying.worker.jobs.queue_length)
    start.worker(Talker(), controller=controller)
    dying.worker.registration.controller = "http://127.0.0.1:9"
    dying.server.__exit__(None, None, None)
    job.result(timeout=20)
    assert last_text(job.outputs()[-1]).endswith("ask again, another one will answer** (error_code: 3)")
    session.client.predict(mode="Default", api_name="/regenerate")
    assert last_text(session.answer()[-1]) == "0 1 2"


def test_a_visitor_who_leaves_ends_the_generation(start, page):
    controller = start.controller()
    talker = Talker(words=10_000, pause=0.02)
    served = start.worker(talker, controller=controller, slots=1)
    session = page(controller)
    session.add("What?")
    job = session.client.submit(model="llava-v1.5-talker", **WISHES, api_name="/http_bot")
    wait_for(lambda: served.worker.jobs.queue_length)
    wait_for(job.outputs)
    job.cancel()
    wait_for(lambda: talker.ended == ["given up"], seconds=20)


def test_what_is_wrong_with_a_picture_is_told(start, page, tmp_path):
    session = page(start.controller())
    Image.new("1", (9000, 9000)).save(tmp_path / "bomb.png")
    (tmp_path / "text.png").write_text("hello")
    with pytest.raises(gradio_client.exceptions.AppError, match="larger than 40 million pixels; upload a smaller one"):
        session.add("What?", tmp_path / "bomb.png")
    with pytest.raises(gradio_client.exceptions.AppError, match="cannot be read as a picture; upload a whole PNG"):
        session.add("What?", tmp_path / "text.png")


def send(url: str, event: str, data: list) -> dict:
    """What a hand-made request gets for an event, past every client."""
    config = httpx.get(f"{url}/config").json()
    number = next(d["id"] for d in config["dependencies"] if d["api_name"] == event)
    request = {"data": data, "fn_index": number, "session_hash": "hand-made"}
    httpx.post(f"{url}/gradio_api/queue/join", json=request).raise_for_status()
    with httpx.stream("GET", f"{url}/gradio_api/queue/data?session_hash=hand-made", timeout=20) as stream:
        messages = (json.loads(line[5:]) for line in stream.iter_lines() if line.startswith("data:"))
        return next(message for message in messages if message["msg"] == "process_completed")


@pytest.mark.parametrize("meta", [{}, {"meta": {"_type": "gradio.FileData"}}])
def test_no_path_of_a_request_is_opened(meta, start, page, red):
    session = page(start.controller())
    said = send(session.url.rstrip("/"), "add_text", [None, "What?", {"path": str(red)} | meta, "Default"])
    assert not said["success"]
    assert "base64" not in json.dumps(said)
    for path in (red, "README.md", EXAMPLES / "../panel.py"):
        assert httpx.get(f"{session.url}gradio_api/file={path}").status_code == 403


def test_moderation_without_a_key_is_refused_at_the_start(monkeypatch, tmp_path, capsys):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setattr("sys.argv", ["gradio_web_server", "--moderate", "--log-dir", str(tmp_path)])
    monkeypatch.setattr("llava.serve.gradio_web_server.build_logger", lambda *args, **options: None)
    with pytest.raises(SystemExit, match="2"):
        main()
    assert capsys.readouterr().err.startswith("error: OPENAI_API_KEY is not set")


def test_flags_and_files():
    args = build_parser().parse_args(["--controller", "http://c:1", "--port", "7", "--model-list-mode", "reload"])
    assert (args.controller_url, args.port, args.model_list_mode) == ("http://c:1", 7, "reload")
    assert (args.host, args.concurrency_count) == ("127.0.0.1", 16)
    assert not any((args.share, args.moderate, args.embed))


class TestExamples:
    def test_the_packages_own(self):
        assert [text for _, text in read_examples(EXAMPLES)] == [
            "What color is the circle?",
            "Which shape is above the others?",
        ]

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (None, "questions.jsonl holds no examples .*No such file"),
            ("[]", "questions.jsonl holds no examples .*each line is JSON with the keys image and text"),
            ('{"image": "a.jpg"}', r"questions.jsonl holds no examples \(KeyError\('text'\)\)"),
            ('{"image": "a.jpg", "text": "What?"}', "names .*a.jpg, which does not exist; put the picture there"),
        ],
    )
    def test_what_cannot_be_used_is_named(self, content, message, tmp_path):
        if content is not None:
            (tmp_path / "questions.jsonl").write_text(content)
        with pytest.raises(UserError, match=message):
            read_examples(tmp_path)
