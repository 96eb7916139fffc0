import base64
import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from llava import conversation
from llava.conversation import Conversation, SeparatorStyle, conv_templates
from llava.errors import UserError


@pytest.fixture(scope="module")
def templates(goldens: Path) -> dict:
    return json.loads((goldens / "conversation" / "templates.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def dialogues(goldens: Path) -> dict:
    return json.loads((goldens / "conversation" / "dialogues.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def image_goldens(goldens: Path) -> dict:
    return json.loads((goldens / "conversation" / "images.json").read_text(encoding="utf-8"))


def fill(conv: Conversation, turns: list) -> Conversation:
    for role, text, has_image in turns:
        message = (text, Image.new("RGB", (4, 4)), "Pad") if has_image else text
        conv.append_message(conv.roles[role], message)
    return conv


def one_turn(name: str, message: object) -> Conversation:
    conv = conv_templates[name].copy()
    conv.append_message(conv.roles[0], message)
    return conv


class TestTemplates:
    def test_names_and_fields(self, templates: dict) -> None:
        assert set(conv_templates) == set(templates["templates"])
        for name, golden in templates["templates"].items():
            conv = conv_templates[name]
            if golden["same_object_as"]:
                assert conv is conv_templates[golden["same_object_as"]]
            assert conv.sep_style is SeparatorStyle[golden["sep_style"]]
            assert conv.sep_style.value == golden["sep_style_value"]
            assert conv.roles == tuple(golden["roles"])
            for field in ("system", "sep", "sep2", "version", "offset"):
                assert getattr(conv, field) == golden[field], (name, field)
            assert len(conv.messages) == golden["n_preset_messages"]

    def test_prompts(self, templates: dict, dialogues: dict) -> None:
        for name, golden in templates["templates"].items():
            for dialogue, expected in golden.get("prompts", {}).items():
                if isinstance(expected, dict):  # upstream raises: see test_plain_takes_answers
                    assert (name, expected["exception"]) == ("plain", "TypeError")
                    continue
                conv = conv_templates[name].copy()
                conv.messages = []
                assert fill(conv, dialogues[dialogue]).get_prompt() == expected, (name, dialogue)

    def test_prompts_after_the_example_turns(self, templates: dict, dialogues: dict) -> None:
        for dialogue, expected in templates["templates"]["default"]["preset"].items():
            prompt = fill(conv_templates["default"].copy(), dialogues[dialogue]).get_prompt()
            assert len(prompt) == expected["len_chars"]
            assert hashlib.sha256(prompt.encode()).hexdigest() == expected["sha256"]

    def test_module_names(self) -> None:
        assert conversation.default_conversation is conv_templates["vicuna_v1"]
        keys = {
            "conv_vicuna_v0": "v0",
            "conv_vicuna_v1": "v1",
            "conv_llama_2": "llama_2",
            "conv_llava_llama_2": "llava_llama_2",
            "conv_mpt": "mpt",
            "conv_llava_plain": "plain",
            "conv_llava_v0": "llava_v0",
            "conv_llava_v0_mmtag": "v0_mmtag",
            "conv_llava_v1": "llava_v1",
            "conv_llava_v1_mmtag": "v1_mmtag",
            "conv_mistral_instruct": "mistral_instruct",
            "conv_chatml_direct": "chatml_direct",
        }
        for name, key in keys.items():
            assert getattr(conversation, name) is conv_templates[key]


class TestPrompts:
    def test_plain_takes_answers(self) -> None:
        conv = one_turn("plain", "<image>")
        conv.append_message("", "a black cat")
        assert conv.get_prompt() == "<image>\na black cat\n"

    def test_a_later_picture_gets_its_place(self) -> None:
        conv = one_turn("v1", "Hello.")
        conv.append_message("ASSISTANT", "Hi.")
        conv.append_message("USER", ("What is this?", Image.new("RGB", (4, 4)), "Pad"))
        assert conv.get_prompt().endswith("</s>USER: <image>\nWhat is this? ")

    def test_only_a_whole_separator_is_cut_off_the_front(self) -> None:
        conv = one_turn("mistral_instruct", "Hi.")
        conv.sep = "[s]"
        assert conv.get_prompt() == "[INST] Hi. [/INST]"

    @pytest.mark.parametrize("message", [None, ""])
    def test_llama_2_needs_a_question(self, message: str | None) -> None:
        with pytest.raises(UserError, match="needs a text of USER first"):
            one_turn("llama_2", message).get_prompt()

    def test_llama_2_needs_the_human_first(self) -> None:
        conv = conv_templates["llama_2"].copy()
        conv.append_message("ASSISTANT", "Hi.")
        with pytest.raises(UserError, match=r"begins with .*Hi"):
            conv.get_prompt()

    def test_text_may_hold_braces(self) -> None:
        assert one_turn("v1", "{role} {0}").get_prompt().endswith("USER: {role} {0} ")


class TestCopies:
    def test_templates_cannot_be_appended_to(self) -> None:
        with pytest.raises(AttributeError):
            conv_templates["v1"].append_message("USER", "Hi.")

    def test_copy_is_independent_and_whole(self) -> None:
        conv = one_turn("v1", "Hi.")
        conv.skip_next = True
        twin = conv.copy()
        assert twin == conv
        twin.messages[0][1] = "Bye."
        assert conv.messages == [["USER", "Hi."]]

    def test_dict_is_json_and_keeps_upstream_keys(self, image_goldens: dict) -> None:
        conv = one_turn("v1", ("<image>\nq", Image.new("RGB", (4, 4)), "Pad"))
        conv.append_message("ASSISTANT", "a")
        record = json.loads(json.dumps(conv.dict()))
        assert set(image_goldens["dict_keys_with_image"]) <= set(record)
        assert record["messages"] == image_goldens["dict_messages_with_image"]
        assert (record["sep_style"], record["version"]) == ("TWO", "v1")


class TestPictures:
    def test_sizes(self, image_goldens: dict) -> None:
        for case in image_goldens["get_images_sizes"]:
            conv = one_turn("v1", ("<image>\nq", Image.new("RGB", tuple(case["size"])), case["mode"]))
            if isinstance(case["out"], str):
                with pytest.raises(UserError, match=case["out"].removeprefix("ValueError: ")):
                    conv.get_images()
            else:
                (picture,) = conv.get_images(return_pil=True)
                assert list(picture.size) == case["out"], case

    def test_pad_pixels(self, image_goldens: dict) -> None:
        picture = one_turn("v1", "").process_image(Image.new("RGB", (4, 2), (10, 200, 30)), "Pad", return_pil=True)
        assert np.array(picture).reshape(-1, 3).tolist() == image_goldens["pad_pixels_4x2"]

    def test_a_thread_thin_picture_keeps_a_side(self) -> None:
        picture = one_turn("v1", "").process_image(Image.new("RGB", (3000, 1)), "Default", return_pil=True)
        assert picture.size == (1344, 1)

    def test_base64(self) -> None:
        conv = one_turn("v1", ("<image>\nq", Image.new("RGBA", (4, 2)), "Default"))
        (text,) = conv.get_images()
        assert Image.open(io.BytesIO(base64.b64decode(text))).format == "PNG"
        jpeg = conv.process_image(Image.new("RGBA", (4, 2)), "Default", image_format="JPEG")
        assert Image.open(io.BytesIO(base64.b64decode(jpeg))).mode == "RGB"

    def test_only_human_turns_after_the_examples(self) -> None:
        conv = conv_templates["default"].copy()
        for colour in ("red", "blue"):
            conv.append_message("Human", (f"<image>\n{colour}?", Image.new("RGB", (1, 1), colour), "Default"))
            conv.append_message("Assistant", "Yes.")
        pictures = conv.get_images(return_pil=True)
        assert [picture.getpixel((0, 0)) for picture in pictures] == [(255, 0, 0), (0, 0, 255)]

    def test_to_gradio_chatbot(self, image_goldens: dict) -> None:
        conv = one_turn("v1", ("<image>\nq", Image.new("RGB", (4, 2)), "Pad"))
        conv.append_message("ASSISTANT", "a")
        conv.append_message("USER", "r")
        (first, answer), second = conv.to_gradio_chatbot()
        assert first.startswith(image_goldens["to_gradio_chatbot_prefix"])
        assert first.endswith('" alt="user upload image" />q')
        assert (answer, second) == ("a", ["r", None])


class TestHumanMarkers:
    @pytest.mark.parametrize(
        ("name", "opening", "closing"),
        [
            ("v1", ["USER:"], ["ASSISTANT:", "</s>"]),
            ("llava_v0", ["###Human:", "### Human:"], ["###Assistant:", "### Assistant:"]),
            ("llama_2", ["[INST]", "<</SYS>>"], ["[/INST]", "<<SYS>>", "</s>"]),
            ("mpt", ["<|im_start|>user"], ["<|im_start|>assistant", "<|im_end|>"]),
            ("v1_mmtag", ["USER:", "</Image>\n"], ["ASSISTANT:", "</s>", "<Image>"]),
            ("plain", [], []),
        ],
    )
    def test_strings(self, name: str, opening: list[str], closing: list[str]) -> None:
        assert conv_templates[name].human_markers() == (opening, closing)
