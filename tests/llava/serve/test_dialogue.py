"""Turns of the web page's dialogue, and what they become for the worker and for the chat box."""

import pytest
from PIL import Image

from llava.conversation import conv_templates
from llava.errors import UserError
from llava.serve.dialogue import (
    add_question,
    answered,
    chat_messages,
    in_template,
    new_dialogue,
    prepared_as,
    request_for,
)

from .conftest import prompt_of

RED, BLUE = Image.new("RGB", (40, 20), "red"), Image.new("RGB", (20, 40), "blue")


def prompt(state, conv_mode="vicuna_v1"):
    return in_template(state, conv_mode).get_prompt()


def test_a_question_with_a_picture_and_one_more():
    first = add_question(new_dialogue(), "What?", RED, "Default")
    assert prompt(first) == prompt_of("<image>\nWhat?")
    second = add_question(answered(first, "A cup."), "Red?", None, "Default")
    assert prompt(second) == prompt_of("<image>\nWhat?", "A cup.", "Red?")
    assert len(second.get_images()) == 1


def test_a_picture_starts_anew():
    state = answered(add_question(new_dialogue(), "What?", RED, "Default"), "A cup.")
    assert prompt(add_question(state, "And this?", BLUE, "Default")) == prompt_of("<image>\nAnd this?")


def test_the_mark_may_stand_in_the_text_with_a_picture_and_is_dropped_without():
    with_picture = add_question(new_dialogue(), "In <image>, what?", RED, "Default")
    assert with_picture.messages[0][1][0] == "In <image>, what?"
    assert prompt(add_question(new_dialogue(), "<image>What?", None, "Default")) == prompt_of("What?")


@pytest.mark.parametrize(("image", "length"), [(None, 1536), (RED, 1200)])
def test_long_text_is_cut(image, length):
    asked = add_question(new_dialogue(), "x" * 2000, image, "Default").messages[0][1]
    text = asked if image is None else asked[0].removesuffix("\n<image>")
    assert len(text) == length


def test_an_unanswered_question_gives_way_and_leaves_its_picture():
    failed = add_question(new_dialogue(), "What?", RED, "Pad")
    again = add_question(failed, "Where?", None, "Default")
    assert prompt(again) == prompt_of("<image>\nWhere?")
    assert again.messages[0][1][1:] == (RED, "Pad")
    later = add_question(add_question(answered(failed, "A cup."), "lost", None, "Default"), "kept", None, "Default")
    assert prompt(later) == prompt_of("<image>\nWhat?", "A cup.", "kept")


def test_the_template_is_chosen_with_the_first_question_only():
    first = in_template(add_question(new_dialogue(), "What?", None, "Default"), "llava_llama_2")
    assert "[INST]" in first.get_prompt()
    later = add_question(answered(first, "This."), "And?", None, "Default")
    assert "[INST]" in prompt(later, "vicuna_v1")
    assert conv_templates["llava_llama_2"].messages == ()


def test_regenerating_prepares_the_picture_anew():
    state = answered(add_question(new_dialogue(), "What?", RED, "Default"), "A cup.")
    again = answered(prepared_as(state, "Pad"), None)
    assert again.messages[0][1] == ("What?\n<image>", RED, "Pad")
    assert again.messages[1][1] is None
    assert state.messages[1][1] == "A cup."
    text = answered(add_question(new_dialogue(), "What?", None, "Default"), "This.")
    assert prepared_as(text, "Pad").messages == text.messages


def test_the_request():
    state = in_template(add_question(new_dialogue(), "What?", RED, "Default"), "vicuna_v1")
    body = request_for(state, "m", 0.2, 0.7, 5000, maps=False)
    assert set(body) == {"model", "prompt", "temperature", "top_p", "max_new_tokens", "stop", "images"}
    assert (body["max_new_tokens"], body["stop"], len(body["images"])) == (1024, "</s>", 1)
    assert request_for(state, "m", 0.2, 0.7, 64, maps=True)["maps"] is True
    mpt = in_template(add_question(new_dialogue(), "What?", None, "Default"), "mpt")
    assert request_for(mpt, "m", 0.2, 0.7, 64, maps=False)["stop"] == "<|im_end|>"
    with pytest.raises(UserError, match="no model is ready yet"):
        request_for(state, "", 0.2, 0.7, 64, maps=False)


def test_what_the_user_wrote_is_text_and_no_html():
    state = answered(add_question(new_dialogue(), '<img src=x onerror="alert(1)"> & more', RED, "Default"), "**Yes**")
    picture, text, answer = chat_messages(state)
    assert picture["content"].startswith('<img src="data:image/jpeg;base64,')
    assert text == {"role": "user", "content": '&lt;img src=x onerror="alert(1)"&gt; &amp; more'}
    assert answer == {"role": "assistant", "content": "**Yes**"}
