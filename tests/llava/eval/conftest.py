"""Small question sets with pictures, and one tiny LLaVA that all drivers share."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from llava.eval import driver
from llava.model.builder import load_pretrained_model

SENTENCES = (
    "What is it?",
    "Which colour has the object on the left of the table?",
    "Is there a small dog or a big cat?",
)


@pytest.fixture(scope="session")
def tiny_llava(assets: Path) -> Path:
    return assets / "llava_tiny_mlp2x_gelu"


@pytest.fixture
def one_load(monkeypatch: pytest.MonkeyPatch, loaded: dict[str, tuple[Any, ...]]) -> None:
    """The driver loads each checkpoint once for all tests."""

    def load(path: str, base: str | None, name: str, device: str) -> tuple[Any, ...]:
        if path not in loaded:
            loaded[path] = load_pretrained_model(path, base, name, device=device)
        return loaded[path]

    monkeypatch.setattr(driver, "load_pretrained_model", load)


@pytest.fixture(scope="session")
def loaded() -> dict[str, tuple[Any, ...]]:
    return {}


@pytest.fixture
def write_questions(tmp_path: Path) -> Callable[..., Path]:
    """``write_questions(count)`` -> question file beside ``images/``; 1 to 7 sentences, every fifth without picture."""

    def write(count: int) -> Path:
        (tmp_path / "images").mkdir()
        lines = []
        for number in range(count):
            # 7 is coprime to 40, so neighbours differ in length
            text = " ".join(SENTENCES[(number + k) % 3] for k in range(1 + number * 3 % 7))
            question = {"question_id": number, "text": text, "category": "ignored"}
            if number % 5 != 4:
                colour = (number * 37 % 256, number * 91 % 256, number * 11 % 256)
                Image.new("RGB", (20 + number, 30), colour).save(tmp_path / "images" / f"{number}.png")
                question["image"] = f"{number}.png"
            lines.append(json.dumps(question))
        path = tmp_path / "questions.jsonl"
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return path

    return write


@pytest.fixture
def arguments(tiny_llava: Path, tmp_path: Path) -> Callable[..., SimpleNamespace]:
    """What upstream's callers pass to ``eval_model``, and whatever a test adds."""

    def build(**changes: Any) -> SimpleNamespace:
        given = {
            "model_path": str(tiny_llava),
            "model_base": None,
            "image_folder": str(tmp_path / "images"),
            "question_file": str(tmp_path / "questions.jsonl"),
            "answers_file": str(tmp_path / "out" / "answers.jsonl"),
            "conv_mode": "vicuna_v1",
            "num_chunks": 1,
            "chunk_idx": 0,
            "temperature": 0,
            "top_p": None,
            "num_beams": 1,
            "max_new_tokens": 8,
        }
        return SimpleNamespace(**(given | {"workers": 0} | changes))

    return build


@pytest.fixture
def answers_of() -> Callable[[Path], list[dict[str, Any]]]:
    """The lines of an answers file without their random ids."""

    def read(path: Path) -> list[dict[str, Any]]:
        answers = [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]
        assert len({answer.pop("answer_id") for answer in answers}) == len(answers)
        return answers

    return read


@pytest.fixture
def run_main(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """``run_main(module, "--flag", value)`` -> what the command printed; SystemExit when it failed."""

    def run(module: Any, *arguments: object) -> str:
        monkeypatch.setattr("sys.argv", [module.__name__, *map(str, arguments)])
        capsys.readouterr()
        module.main()
        return capsys.readouterr().out

    return run


@pytest.fixture
def refusal(run_main: Callable[..., str], capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """``refusal(module, "--flag", value)`` -> the one line by which the command refused, with exit code 2."""

    def refuse(module: Any, *arguments: object) -> str:
        with pytest.raises(SystemExit) as stop:
            run_main(module, *arguments)
        assert stop.value.code == 2
        error = capsys.readouterr().err.splitlines()[-1]  # behind a progress bar, if there was one
        assert error.startswith("error: ")
        return error

    return refuse


class FakeJudge:
    """An OpenAI-compatible endpoint on this machine. ``reply`` makes the answer; ``failures`` come before it."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.failures = 0
        self.reply: Callable[[list[dict[str, str]]], str] = lambda messages: "8 7\nWell."

    def answer(self, request: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        self.requests.append(request)
        if self.failures:
            self.failures -= 1
            return 500, {"error": {"message": "busy"}}
        message = {"role": "assistant", "content": self.reply(request["messages"])}
        choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
        return 200, {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": choices}


@pytest.fixture
def judge(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeJudge]:
    """The endpoint that the environment names."""
    pytest.importorskip("openai")
    fake = FakeJudge()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/chat/completions"
            status, content = fake.answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(content).encode())

        def log_message(self, *args: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        monkeypatch.setenv("OPENAI_API_KEY", "none is needed")
        monkeypatch.setenv("OPENAI_BASE_URL", f"http://127.0.0.1:{http.server_port}/v1")
        monkeypatch.delenv("JUDGE_MODEL", raising=False)
        yield fake
        http.shutdown()
