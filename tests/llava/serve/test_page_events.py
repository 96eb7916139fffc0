"""The web page's events one by one, with a controller that is made up."""

import asyncio
from types import SimpleNamespace

import gradio as gr
import pytest
from PIL import Image

from llava.errors import UserError
from llava.serve.client import AnswerError, Models
from llava.serve.conversation_log import ConversationLog
from llava.serve.dialogue import add_question, answered, new_dialogue
from llava.serve.page_events import Events
from llava.serve.protocol import NO_WORKER, UNREACHABLE

RED = Image.new("RGB", (40, 20), "red")
VISITOR = SimpleNamespace(client=SimpleNamespace(host="127.0.0.1"))
SKIPPED = gr.skip()


class MadeUp:
    """A controller with one worker, whose answer may end in an error."""

    def __init__(self, names=("m",), error=None, conv_modes=None, maps=None):
        self.listed = Models(list(names), conv_modes or {})
        self.error, self.maps = error, maps
        self.asked = []

    async def models(self):
        if self.error:
            raise self.error
        return self.listed

    async def answer(self, body):
        self.asked.append(body)
        yield {"text": body["prompt"] + " A", "error_code": 0}
        if self.error:
            raise self.error
        extra = {"maps": self.maps} if body.get("maps") else {}
        yield {"text": body["prompt"] + " A cup.", "error_code": 0, **extra}


@pytest.fixture
def events(tmp_path):
    def build(client=None, **settings):
        return Events(client or MadeUp(), ConversationLog(tmp_path), models=Models(["m"]), **settings)

    return build


def answer(events, state, model="m", wants_maps=False):
    async def collect():
        return [changes async for changes in events.http_bot(state, model, 0.2, 0.7, 64, wants_maps, VISITOR)]

    return asyncio.run(collect())


def enabled(changes):
    return [update["interactive"] for update in changes[-5:]]


def load(events, **params):
    return asyncio.run(events.load_page(params))


def test_buttons_and_text_while_an_answer_comes(events):
    state, shown, text, image, *five = events().add_text(new_dialogue(), "What?", RED, "Default")
    assert (len(shown), text, image) == (3, "", None)
    assert enabled(five) == [False] * 5
    first, *_, last = answer(events(), state)
    assert first[1][-1]["content"] in ("▌", "A cup.")  # one list, filled as the answer grows
    assert enabled(first) == [False] * 5
    assert last[1][-1] == {"role": "assistant", "content": "A cup."}
    assert last[0].messages[-1] == ["ASSISTANT", "A cup."]
    assert enabled(last) == [True] * 5
    assert state.messages[-1][1] is None


def test_maps_are_asked_for_when_wanted(events):
    client = MadeUp(maps={"pictures": []})
    for wants in (False, True):
        state = add_question(new_dialogue(), "What?", RED, "Default")
        *_, (_, _, maps, *_) = answer(events(client), state, wants_maps=wants)
        assert maps == ({"pictures": []} if wants else None)
    assert ["maps" in body for body in client.asked] == [False, True]


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (AnswerError("it went away", UNREACHABLE), "A\n\n**it went away** (error_code: 3)"),
        (AnswerError("nobody", NO_WORKER), "A\n\n**nobody** (error_code: 2)"),
        (UserError("wrong"), "A\n\n**wrong** (error_code: 1)"),
        (KeyError("surprise"), "the worker failed with KeyError ('surprise'); its log has the traceback (error id "),
    ],
)
def test_errors_are_shown_and_do_not_enter_the_dialogue(error, text, events, tmp_path):
    last = answer(events(MadeUp(error=error)), add_question(new_dialogue(), "What?", None, "Default"))[-1]
    assert text in last[1][-1]["content"]
    assert last[0].messages[-1][1] is None
    assert enabled(last) == [False] * 3 + [True] * 2
    assert list(tmp_path.iterdir()) == []


def test_without_a_model_nothing_is_sent(events):
    client = MadeUp()
    last = answer(events(client), add_question(new_dialogue(), "What?", None, "Default"), model=None)[-1]
    assert "no model is ready yet" in last[1][-1]["content"]
    assert client.asked == []


@pytest.mark.parametrize(
    ("settings", "conv_modes", "name", "expected"),
    [
        ({}, {}, "llava-v1.5-7b", "A chat between a curious human"),
        ({}, {"llava-tiny": "vicuna_v1"}, "llava-tiny", "A chat between a curious user"),
        ({"conv_mode": "mpt"}, {"llava-tiny": "vicuna_v1"}, "llava-tiny", "<|im_start|>system"),
    ],
)
def test_the_template_by_flag_by_worker_by_name(settings, conv_modes, name, expected, events):
    client = MadeUp()
    page = events(client, **settings)
    page.models = Models([name], conv_modes)
    answer(page, add_question(new_dialogue(), "What?", None, "Default"), model=name)
    assert client.asked[0]["prompt"].startswith(expected)


class TestNothingToAnswer:
    def test_an_empty_question(self, events):
        for before, expected in ((new_dialogue(), [False] * 5), (self.done(), [True] * 5)):
            state, shown, text, *_ = events().add_text(before, "  ", None, "Default")
            assert (shown, text) == (SKIPPED, "")
            (only,) = answer(events(), state)
            assert enabled(only) == expected
            assert state.skip_next is False

    def test_moderation(self, events, monkeypatch):
        monkeypatch.setattr("llava.serve.page_events.violates_moderation", lambda text: "bad" in text)
        page = events(moderate=True)
        state, _, text, *_ = page.add_text(new_dialogue(), "bad thing", RED, "Default")
        assert "VIOLATES" in text
        assert state.messages == []
        assert page.add_text(state, "good thing", None, "Default")[2] == ""
        assert events().add_text(new_dialogue(), "bad thing", None, "Default")[2] == ""

    def done(self):
        return answered(add_question(new_dialogue(), "What?", None, "Default"), "A cup.")


def test_regenerate_and_clear(events):
    state = answered(add_question(new_dialogue(), "What?", RED, "Default"), "A cup.")
    again, shown, *_ = events().regenerate(state, "Pad")
    assert again.messages[0][1][2] == "Pad"
    assert shown[-1]["content"] == ""
    cleared, shown, text, image, *rest = events().clear()
    assert (cleared.messages, shown, text, image, rest[-1]) == ([], [], "", None, None)


class TestLoading:
    def test_the_address_chooses_the_model(self, events):
        page = events()
        page.models = Models(["a", "b"])
        assert load(page)[0]["value"] == "a"
        assert load(page, model="b")[0]["value"] == "b"
        assert load(page, model="nobody")[0]["value"] == "a"

    def test_the_list_is_read_once_or_each_time_and_again_when_empty(self, events):
        new = MadeUp(["new"])
        assert load(events(new))[0]["choices"] == ["m"]
        assert load(events(new, reload=True))[0]["choices"] == ["new"]
        empty = Events(new, ConversationLog(None))
        assert load(empty) == (gr.update(choices=["new"], value="new"), "")

    def test_what_keeps_models_away_is_said(self, events):
        away = Events(MadeUp(error=UserError("the controller does not answer")), ConversationLog(None))
        assert load(away)[1] == "⚠️ the controller does not answer; reload this page in a moment."
        assert "No model is ready" in load(Events(MadeUp([]), ConversationLog(None)))[1]


def test_votes_are_written_once(events, tmp_path):
    text, *buttons = events().vote("flag")(new_dialogue(), "m", VISITOR)
    assert text == ""
    assert [update["interactive"] for update in buttons] == [False] * 3
    (log,) = tmp_path.iterdir()
    assert '"type": "flag"' in log.read_text()
