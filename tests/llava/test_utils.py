import asyncio
import json
import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import torch
from torch import nn

from llava import utils
from llava.errors import UserError


@pytest.fixture
def log_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A process without log files, writing its own to a new folder."""
    monkeypatch.setattr(utils, "LOGDIR", str(tmp_path / "logs"))
    before = list(logging.root.handlers)
    yield tmp_path / "logs"
    for handler in set(logging.root.handlers) - set(before):
        logging.root.removeHandler(handler)
        handler.close()


class TestBuildLogger:
    def test_writes_the_first_callers_file(self, log_folder: Path) -> None:
        utils.build_logger("first", "first.log").info("from the first: é")
        utils.build_logger("second", "second.log").info("from the second")
        assert [path.name for path in log_folder.iterdir()] == ["first.log"]
        lines = (log_folder / "first.log").read_text(encoding="utf-8").splitlines()
        assert [line.split(" | ")[1:] for line in lines] == [
            ["INFO", "first", "from the first: é"],
            ["INFO", "second", "from the second"],
        ]

    def test_leaves_the_console_alone(self, log_folder: Path) -> None:
        streams = sys.stdout, sys.stderr
        logger = utils.build_logger("quiet", "quiet.log")
        assert (sys.stdout, sys.stderr) == streams
        assert logger.level == logging.INFO

    def test_captures_output_when_asked(self, tmp_path: Path) -> None:
        program = (
            "import sys; from llava import utils; utils.LOGDIR = sys.argv[1]\n"
            "utils.build_logger('main', 'main.log', capture_output=True)\n"
            "print('to stdout'); print('to stderr', file=sys.stderr)"
        )
        done = subprocess.run(
            [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True
        )
        lines = (tmp_path / "main.log").read_text().splitlines()
        assert [line.split(" | ")[1:] for line in lines[-2:]] == [
            ["INFO", "stdout", "to stdout"],
            ["ERROR", "stderr", "to stderr"],
        ]
        assert "| stdout | to stdout" in done.stderr


def test_stream_to_logger_waits_for_whole_lines(caplog: pytest.LogCaptureFixture) -> None:
    stream = utils.StreamToLogger(logging.getLogger("stream"), logging.WARNING)
    stream.write("one\ntw")
    assert caplog.messages == ["one"]
    stream.write("o\n")
    stream.write("three")
    stream.flush()
    stream.flush()
    assert caplog.messages == ["one", "two", "three"]
    assert {record.levelname for record in caplog.records} == {"WARNING"}
    assert stream.isatty() is False


class TestDisableTorchInit:
    @pytest.fixture(autouse=True)
    def _restore(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for layer in (nn.Linear, nn.LayerNorm):
            monkeypatch.setattr(layer, "reset_parameters", layer.reset_parameters)

    @staticmethod
    def bias_after_reset() -> float:
        layer = nn.LayerNorm(2)
        torch.nn.init.constant_(layer.bias, 7.0)
        layer.reset_parameters()
        return layer.bias[0].item()

    def test_holds_after_a_plain_call(self) -> None:
        assert self.bias_after_reset() == 0.0
        utils.disable_torch_init()
        assert self.bias_after_reset() == 7.0

    def test_ends_with_the_block(self) -> None:
        original = nn.Linear.reset_parameters
        with utils.disable_torch_init():
            assert nn.Linear.reset_parameters is not original
            assert self.bias_after_reset() == 7.0
        assert nn.Linear.reset_parameters is original
        assert self.bias_after_reset() == 0.0


class TestModeration:
    @pytest.fixture
    def asked(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[list]:
        """A service that flags texts with a quote in them and breaks on demand; the requests it got."""
        requests: list = []

        class Service(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                requests.append((body, self.headers["Authorization"], self.headers["Content-Type"]))
                answers = {
                    "break": b"<html>",
                    "odd": b'{"error": "no"}',
                    "empty": b'{"results": []}',
                }
                flagged = json.dumps({"results": [{"flagged": '"' in body["input"]}]}).encode()
                self.send_response(500 if body["input"] == "fail" else 200)
                self.end_headers()
                self.wfile.write(answers.get(body["input"], flagged))

            def log_message(self, *args: object) -> None:
                pass

        server = HTTPServer(("127.0.0.1", 0), Service)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setattr(utils, "MODERATION_URL", f"http://127.0.0.1:{server.server_port}/")
        monkeypatch.setenv("OPENAI_API_KEY", "key")
        yield requests
        server.shutdown()
        thread.join()
        server.server_close()

    def test_any_text_reaches_the_service(self, asked: list) -> None:
        text = 'say "no"\n\\ é'
        assert utils.violates_moderation(text) is True
        assert utils.violates_moderation("fine") is False
        assert asked[0] == ({"input": text}, "Bearer key", "application/json")

    @pytest.mark.parametrize("text", ["break", "odd", "empty", "fail"])
    def test_a_broken_answer_is_logged_and_passes(
        self, text: str, asked: list, caplog: pytest.LogCaptureFixture
    ) -> None:
        assert utils.violates_moderation(text) is False
        assert "moderation check failed" in caplog.text

    def test_an_unreachable_service_is_logged_and_passes(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setenv("OPENAI_API_KEY", "key")
        monkeypatch.setattr(utils, "MODERATION_URL", "http://127.0.0.1:1/")
        assert utils.violates_moderation("x") is False
        assert "moderation check failed" in caplog.text

    def test_a_missing_key_is_said(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("OPENAI_API_KEY", raising=False)
        with pytest.raises(UserError, match="OPENAI_API_KEY is not set"):
            utils.violates_moderation("x")


def test_pretty_print_semaphore() -> None:
    assert utils.pretty_print_semaphore(None) == "None"
    assert utils.pretty_print_semaphore(asyncio.Semaphore(3)) == "Semaphore(value=3, locked=False)"
    assert utils.pretty_print_semaphore(asyncio.Semaphore(0)) == "Semaphore(value=0, locked=True)"


def test_messages() -> None:
    assert utils.server_error_msg == "**NETWORK ERROR DUE TO HIGH TRAFFIC. PLEASE REGENERATE OR REFRESH THIS PAGE.**"
    assert utils.moderation_msg == "YOUR INPUT VIOLATES OUR CONTENT MODERATION GUIDELINES. PLEASE TRY AGAIN."
