"""The whole chat in one command."""

import os
import re
import shutil
import socket
import threading
import time

import gradio_client
import httpx
import pytest

from llava.errors import UserError
from llava.serve import app
from llava.serve.gradio_web_server import EXAMPLES

from .conftest import free_port, wait_for


def arguments(*flags: str):
    return app.build_parser().parse_args(["--device", "cpu", "--port", str(free_port()), *flags])


def test_everything_starts_answers_and_ends(ccra_folder, capfd, tmp_path, monkeypatch):
    uploads = tmp_path / "uploads"
    uploads.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(uploads))
    monkeypatch.chdir(tmp_path)
    until = threading.Event()
    args = arguments("--model-path", f"{ccra_folder}/")
    before = threading.active_count()
    running = threading.Thread(target=app.run, args=(args, until))
    running.start()
    printed = ""

    def address():
        nonlocal printed
        printed += capfd.readouterr().out
        return re.search(r"chat with llava-tiny-ccra at (http://127\.0\.0\.1:\d+)", printed)

    try:
        url = wait_for(address, seconds=60)[1]
        client = gradio_client.Client(url, verbose=False)
        client.predict(url_params={}, api_name="/load_page")
        picture = gradio_client.handle_file(str(EXAMPLES / "circle.jpg"))
        client.predict(text="What?", image=picture, mode="Default", api_name="/add_text")
        (private,) = uploads.glob("llava-page-*")
        assert private.stat().st_mode & 0o077 == 0
        assert list(private.rglob("circle.jpg"))
        wishes = {"temperature": 0.0, "top_p": 1.0, "max_new_tokens": 64, "wants_maps": True}
        chat = client.predict(model="llava-tiny-ccra", **wishes, api_name="/http_bot")
        assert chat[-1]["role"] == "assistant"
        assert "error_code" not in chat[-1]["content"][0]["text"]
    finally:
        until.set()
        running.join(30)
    assert not running.is_alive()
    with pytest.raises(httpx.ConnectError):
        httpx.get(url)
    assert [*tmp_path.iterdir(), *uploads.iterdir()] == [uploads]  # nothing of the visitor is kept
    assert "GRADIO_TEMP_DIR" not in os.environ
    assert threading.active_count() < before + 30


def finished(folder, *names):
    """Checkpoints in ``folder``, each newer than those before it."""
    for age, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        (folder / name / ".finished").touch()
        stamp = time.time() + age
        os.utime(folder / name / ".finished", (stamp, stamp))


def test_the_newest_finished_demo_is_taken_and_photographs_before_drawings(tmp_path):
    photos, drawings = tmp_path / "photos", tmp_path / "demo"
    finished(drawings, "llava-tiny-ccra-1", "llava-tiny-ccra-2", "llava-tiny-mlp2x_gelu-3")
    (drawings / "llava-tiny-ccra-9").mkdir()
    assert app.demo_checkpoint([photos, drawings]) == drawings / "llava-tiny-ccra-2"
    finished(photos, "llava-photos-cpu-mlp2x_gelu-1")
    assert app.demo_checkpoint([photos, drawings]) == drawings / "llava-tiny-ccra-2"
    finished(photos, "llava-photos-cpu-ccra-1")
    assert app.demo_checkpoint([photos, drawings]) == photos / "llava-photos-cpu-ccra-1"


def test_the_questions_beside_the_demos_checkpoint_are_shown(tmp_path):
    checkpoint = tmp_path / "llava-tiny-ccra-1"
    assert app.examples_of(checkpoint) == EXAMPLES
    shutil.copytree(EXAMPLES, tmp_path / "examples")
    assert app.examples_of(checkpoint) == tmp_path / "examples"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "no demo checkpoint in checkpoints/photos or checkpoints/demo; run `make demo` first .* --model-path"),
        (["--model-path", "nowhere/at/all"], "nowhere/at/all"),
    ],
)
def test_what_is_missing_is_one_line(flags, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        app.run(arguments(*flags), threading.Event())


def test_a_taken_port_is_one_line(ccra_folder):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with pytest.raises(UserError, match=f"127.0.0.1:{port} cannot be listened on .* choose another --port"):
            app.run(arguments("--model-path", str(ccra_folder), "--port", port), threading.Event())
