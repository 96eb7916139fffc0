import sys

import pytest

from llava.serve.register_worker import main

from .conftest import Talker, call


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["register_worker", *arguments])
    main()


def test_a_worker_becomes_known(start, monkeypatch):
    controller, served = start.controller(token="secret"), start.worker(Talker(), token="secret")
    flags = ["--controller", controller, "--worker", served.url, "--auth-token", "secret"]
    run(monkeypatch, *flags, "--check-heart-beat")
    assert call(controller, "list_models", token="secret")["models"] == ["llava-v1.5-talker"]


def test_failures_are_one_line(start, monkeypatch, capsys):
    controller = start.controller(token="secret")
    for url, message in ((controller, "refuses (401"), ("http://127.0.0.1:9", "does not answer")):
        with pytest.raises(SystemExit, match="2"):
            run(monkeypatch, "--controller", url, "--worker", "http://127.0.0.1:8")
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert message in error
