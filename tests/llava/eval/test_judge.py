from typing import Any

import pytest

from llava.errors import UserError
from llava.eval import judge as module
from llava.eval.judge import Judge, has_judge

QUESTION = [{"role": "user", "content": "?"}]


def ask(model: str = "gpt-4") -> str:
    return Judge(model).ask(QUESTION, temperature=0.2, max_tokens=7)


def test_the_environment_names_endpoint_and_model(judge: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert has_judge()
    assert ask() == "8 7\nWell."
    monkeypatch.setenv("JUDGE_MODEL", "local")
    ask()
    first, second = judge.requests
    assert (first["model"], second["model"]) == ("gpt-4", "local")
    assert (first["messages"], first["temperature"], first["max_tokens"]) == (QUESTION, 0.2, 7)


def test_without_an_endpoint_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert not has_judge()
    with pytest.raises(UserError, match="no judge: set OPENAI_API_KEY"):
        Judge("gpt-4")


def test_a_busy_endpoint_is_asked_again_but_not_for_ever(judge: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_RETRIES", 1)
    judge.failures = 1
    assert ask() == "8 7\nWell."
    judge.failures = 9
    with pytest.raises(UserError, match=r"gpt-4 at http://127\.0\.0\.1:\d+/v1/ did not answer \(.*busy.*\); what was"):
        ask()
    assert len(judge.requests) == 4
