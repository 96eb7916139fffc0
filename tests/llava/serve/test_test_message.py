import sys

import pytest

from llava.serve import test_message as tool

from .conftest import Talker


@pytest.fixture
def run(monkeypatch, capsys):
    def call(*flags):
        monkeypatch.setattr(sys, "argv", ["test_message", *flags])
        tool.main()
        return capsys.readouterr().out

    return call


class Recorder(Talker):
    def answer(self, body, tell, given_up):
        self.ended.append(body)
        super().answer(body, tell, given_up)


def test_through_the_controller_and_to_a_worker(start, run):
    controller, recorder = start.controller(), Recorder(conv_mode="llava_v1")
    served = start.worker(recorder, controller=controller, name="llava-v1.5-7b")
    name = ["--model-name", "llava-v1.5-7b", "--message", "Hi there"]
    printed = run("--controller", controller, *name).splitlines()
    assert printed == [
        "Models: ['llava-v1.5-7b']",
        f"worker_addr: {served.url}",
        "USER: Hi there",
        "ASSISTANT: 0 1 2",
    ]
    assert run("--worker", served.url, *name).splitlines() == ["USER: Hi there", "ASSISTANT: 0 1 2"]
    body = recorder.ended[0]
    assert body.prompt.endswith("USER: Hi there ASSISTANT:")
    assert (body.stop, body.max_new_tokens) == ("</s>", 32)


def test_failures_are_one_line(start, run, capsys):
    controller = start.controller()
    for flags, message in (
        (["--controller", controller], "no worker serves facebook/opt-350m"),
        (["--controller", "http://127.0.0.1:9"], "the controller at http://127.0.0.1:9 does not answer"),
        (["--worker", "http://127.0.0.1:9"], "the worker at http://127.0.0.1:9 went away"),
    ):
        with pytest.raises(SystemExit, match="2"):
            run(*flags)
        assert message in capsys.readouterr().err
