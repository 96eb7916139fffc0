"""The programs as processes, started as the documentation says, and killed as machines kill them."""

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from .conftest import QUESTION, ask, call, free_port, picture, prompt_of, wait_for

STARTED = 90  # seconds; the machine may be busy


@pytest.fixture
def programs(tmp_path) -> Iterator:
    """Starts modules of llava.serve in an empty folder; what still runs at the end is killed."""
    running: list[subprocess.Popen] = []

    def run(module: str, *flags: str) -> subprocess.Popen:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "GRADIO_ANALYTICS_ENABLED": "False"}
        command = [sys.executable, "-m", f"llava.serve.{module}", *flags]
        log = (tmp_path / f"{module}-{len(running)}.out").open("w")
        running.append(
            subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=subprocess.STDOUT, text=True)
        )
        log.close()
        return running[-1]

    yield run
    for process in running:
        process.kill()
        process.wait()


def answers(url: str) -> bool:
    try:
        return httpx.post(f"{url}/list_models").status_code == 200
    except httpx.HTTPError:
        return False


@pytest.mark.slow
def test_a_worker_is_killed_in_mid_answer(programs, assets, tmp_path):
    model = str(assets / "llava_tiny_mlp2x_gelu")
    ports = [str(free_port()) for _ in range(3)]
    controller, *urls = (f"http://127.0.0.1:{port}" for port in ports)
    programs("controller", "--host", "127.0.0.1", "--port", ports[0])
    workers = [
        programs(
            "model_worker", "--host", "127.0.0.1", "--controller", controller, "--port", port, "--worker", url,
            "--model-path", f"{model}/", "--device", "cpu", "--multi-modal",
        )
        for port, url in zip(ports[1:], urls, strict=True)
    ]  # fmt: skip
    wait_for(lambda: answers(controller), seconds=STARTED)
    wait_for(lambda: call(controller, "worker_get_status")["speed"] == 2, seconds=STARTED)
    name = "llava_tiny_mlp2x_gelu"
    assert call(controller, "list_models")["models"] == [name]

    body = {"model": name, "prompt": prompt_of(QUESTION), "images": [picture()], "temperature": 0}
    body["max_new_tokens"] = 1024
    frames: list[dict] = []
    listener = threading.Thread(target=lambda: frames.extend(ask(controller, body)))
    listener.start()
    busy = wait_for(lambda: [place for place, url in enumerate(urls) if call(url, "worker_get_status")["queue_length"]])
    workers[busy[0]].send_signal(signal.SIGKILL)
    listener.join(30)
    assert frames[-1]["error_code"] == 3
    assert f"the worker at {urls[busy[0]]} went away" in frames[-1]["text"]
    again = ask(controller, body | {"max_new_tokens": 4})
    assert again[-1]["error_code"] == 0

    refused = ask(controller, body | {"images": []})[-1]["text"]
    error_id = re.search(r"error id (\w+)", refused)[1]
    logs = sorted(file.name for file in tmp_path.glob("*.log"))
    assert logs[0] == "controller.log"
    assert all(re.fullmatch(r"model_worker_[0-9a-f]{6}\.log", file) for file in logs[1:])
    assert len(logs) == 3
    found = [file for file in tmp_path.glob("model_worker_*.log") if error_id in file.read_text()]
    assert len(found) == 1
    assert "Traceback" in found[0].read_text()


@pytest.mark.slow
def test_ctrl_c_ends_the_whole_chat(programs, ccra_folder, tmp_path):
    port = str(free_port())
    process = programs("app", "--model-path", str(ccra_folder), "--device", "cpu", "--port", port)
    log = tmp_path / "app-0.out"
    wait_for(lambda: "chat with llava-tiny-ccra at" in log.read_text() or process.poll(), seconds=STARTED)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0, log.read_text()
    assert log.read_text().rstrip().endswith("stopped")
    assert not [file for file in Path(tmp_path).iterdir() if file != log]
