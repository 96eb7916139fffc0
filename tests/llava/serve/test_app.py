"""The whole chat in one command."""

import os
import re
import socket
import threading
import time

import gradio_client
import httpx
import pytest

from llava.errors import UserError
from llava.serve import app

from .conftest import free_port, wait_for


def arguments(*flags: str):
    return app.build_parser().parse_args(["--device", "cpu", "--port", str(free_port()), *flags])


def test_everything_starts_answers_and_ends(ccra_folder, capfd, tmp_path, monkeypatch):
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
        client.predict(text="What?", image=None, mode="Default", api_name="/add_text")
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
    assert list(tmp_path.iterdir()) == []  # nothing of the visitor is kept
    assert threading.active_count() < before + 30


def test_the_newest_finished_demo_is_taken(tmp_path):
    for age, name in enumerate(("llava-tiny-ccra-1", "llava-tiny-ccra-2", "llava-tiny-mlp2x_gelu-3")):
        (tmp_path / name).mkdir()
        (tmp_path / name / ".finished").touch()
        stamp = time.time() + age
        os.utime(tmp_path / name / ".finished", (stamp, stamp))
    (tmp_path / "llava-tiny-ccra-9").mkdir()
    assert app.demo_checkpoint(tmp_path) == str(tmp_path / "llava-tiny-ccra-2")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "there is no demo checkpoint in checkpoints/demo; run `make demo` first .* as --model-path"),
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
