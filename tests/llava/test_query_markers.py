import json
import string
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import PreTrainedTokenizerBase

from ccra_patch.query import QueryMarkers, select_query
from llava.conversation import Conversation, conv_templates
from llava.mm_utils import tokenizer_image_token
from llava.query_markers import query_markers
from llava.tokenization import load_tokenizer

TOKENIZERS = ["tokenizer_legacy", "tokenizer_nonlegacy", "tokenizer_bytelevel"]
TEMPLATES = [name for name in conv_templates if "plain" not in name]
FRAMED = "<im_start><image><im_end>"

# Human texts and answers in turn; the last answer is what the model is to write.
DIALOGUES = {
    "image first": ["<image>\nWhat is on the table?", "A red cup."],
    "image last": ["What is on the table?\n<image>", "A red cup."],
    "image in between": ["What is <image> here?", "A red cup."],
    "no image": ["How are you?", "Fine."],
    "turns": ["<image>\nIs it full?", "No, it is empty.", "Is it red?", "Yes", "and why (briefly)", "I see."],
    "trailing newline": ["<image>\nIs it full?\n", "No.", "Is it red?\n\n", "Yes.\n"],
    "leading newline": ["\n<image>\n\nIs it full?", "No.", "\n\nIs it red?", "\nYes."],
    "spaces": ["<image>\n  Is it full?  ", "No.", " Is it  red? ", " Yes. "],
    "unicode": ["<image>\nWas ist das für ein Gefäß? 杯子。", "Eine Tasse 杯子。", "é😀", "😀"],
    "symbols": ['<image>\n#1 <b> [x] "USER" or | ASSISTANT |?', "[x]", 'Human {or} "Assistant"', "</b> ##"],
    "several images": ["<image>\n<image>\nCompare the two.", "Alike.", "<image> and this one?", "Not."],
    "framed image": [f"{FRAMED}\nWhat is on the table?", "A red cup.", "Is it full?", "No."],
}


@pytest.fixture(scope="module")
def tokenizers(assets: Path) -> dict[str, PreTrainedTokenizerBase]:
    loaded = {name: load_tokenizer(str(assets / name)) for name in TOKENIZERS}
    for tokenizer in loaded.values():
        tokenizer.add_tokens(["<im_start>", "<im_end>"], special_tokens=True)
    return loaded


def selected(prompt: str, tokenizer: PreTrainedTokenizerBase, markers: QueryMarkers, mode: str = "human") -> list[int]:
    ids = tokenizer_image_token(prompt, tokenizer, return_tensors="pt").unsqueeze(0)
    return ids[select_query(ids, None, markers, mode)].tolist()


def without_space(text: str) -> str:
    for placeholder in (FRAMED, "<image>"):
        text = text.replace(placeholder, "")
    return "".join(text.split())


def prompts(conv: Conversation, texts: list) -> tuple[str, str]:
    """The whole dialogue as training sees it, and the prompt for its last answer."""
    whole, opened = conv.copy(), conv.copy()
    whole.messages, opened.messages = [], []
    for turn, text in enumerate(texts):
        whole.append_message(conv.roles[turn % 2], text)
        opened.append_message(conv.roles[turn % 2], text if turn < len(texts) - 1 else None)
    return whole.get_prompt(), opened.get_prompt()


@pytest.mark.parametrize("tokenizer_name", TOKENIZERS)
@pytest.mark.parametrize("template", TEMPLATES)
class TestEveryTemplate:
    @pytest.fixture
    def tokenizer(self, tokenizers: dict, tokenizer_name: str) -> PreTrainedTokenizerBase:
        return tokenizers[tokenizer_name]

    @pytest.fixture
    def markers(self, template: str, tokenizer: PreTrainedTokenizerBase) -> QueryMarkers:
        return query_markers(conv_templates[template], tokenizer)

    def test_selects_the_human_texts(
        self, template: str, tokenizer: PreTrainedTokenizerBase, markers: QueryMarkers
    ) -> None:
        for name, texts in DIALOGUES.items():
            whole, opened = prompts(conv_templates[template], texts)
            query = selected(whole, tokenizer, markers)
            assert without_space(tokenizer.decode(query)) == without_space("".join(texts[::2])), name
            assert query == selected(opened, tokenizer, markers), name

    def test_first_and_last_turn(
        self, template: str, tokenizer: PreTrainedTokenizerBase, markers: QueryMarkers
    ) -> None:
        whole, _ = prompts(conv_templates[template], DIALOGUES["turns"])
        first, last = (tokenizer.decode(selected(whole, tokenizer, markers, mode)) for mode in ("first", "last"))
        assert without_space(first) == "Isitfull?"
        assert without_space(last) == "andwhy(briefly)"

    def test_no_ending_lets_the_answer_in(
        self, template: str, tokenizer: PreTrainedTokenizerBase, markers: QueryMarkers
    ) -> None:
        endings = [*string.punctuation, "...", '?"', '."', "?)", "!!", "**", "```", " #", "<3", ">>", "|"]
        for ending in endings:
            whole, opened = prompts(conv_templates[template], [f"Is it{ending}", "Green.", f"Is it{ending}", "Blue."])
            query = selected(whole, tokenizer, markers)
            assert query == selected(opened, tokenizer, markers), ending
            text = without_space(tokenizer.decode(query))
            # a sign that shares its id with the marker may be lost, nothing else
            assert text in {f"Isit{a}Isit{b}" for a in _cuts(ending) for b in _cuts(ending)}, ending

    def test_picture_turns(self, template: str, tokenizer: PreTrainedTokenizerBase, markers: QueryMarkers) -> None:
        picture = Image.new("RGB", (4, 4))
        shown = ("<image>\nWhat is on the table?", picture, "Pad")
        whole, opened = prompts(conv_templates[template], [shown, "A red cup.", "Is it full?", "No."])
        query = selected(whole, tokenizer, markers)
        assert without_space(tokenizer.decode(query)) == "Whatisonthetable?Isitfull?"
        assert query == selected(opened, tokenizer, markers)

    def test_markers_are_json(self, template: str, tokenizer: PreTrainedTokenizerBase, markers: QueryMarkers) -> None:
        assert QueryMarkers.from_dict(json.loads(json.dumps(markers.to_dict()))) == markers


def _cuts(ending: str) -> Iterator[str]:
    return (without_space(ending[:length]) for length in range(len(ending) + 1))


@pytest.mark.parametrize("tokenizer_name", TOKENIZERS)
class TestOtherText:
    @pytest.mark.parametrize("template", ["v0_mmtag", "v1_mmtag"])
    def test_tagged_image_before_the_question(self, template: str, tokenizer_name: str, tokenizers: dict) -> None:
        tokenizer = tokenizers[tokenizer_name]
        markers = query_markers(conv_templates[template], tokenizer)
        texts = ["<Image><image></Image>\nWhat is on the table?", "A red cup.", "Is it full?", "No."]
        whole, opened = prompts(conv_templates[template], texts)
        query = selected(whole, tokenizer, markers)
        assert without_space(tokenizer.decode(query)) == "Whatisonthetable?Isitfull?"
        assert query == selected(opened, tokenizer, markers)

    @pytest.mark.parametrize("template", ["v0", "llava_v0", "v0_mmtag"])
    def test_training_text_of_version_v0(self, template: str, tokenizer_name: str, tokenizers: dict) -> None:
        conv, tokenizer = conv_templates[template], tokenizers[tokenizer_name]
        turns = "### Human: <image>\nIs it full?\n### Assistant: No.\n### Human: Why?\n### Assistant: So.\n### "
        query = selected(f"{conv.system}\n\n{turns}", tokenizer, query_markers(conv, tokenizer))
        assert without_space(tokenizer.decode(query)) == "Isitfull?Why?"

    def test_prompts_written_by_hand(self, tokenizer_name: str, tokenizers: dict) -> None:
        tokenizer = tokenizers[tokenizer_name]
        markers = query_markers(conv_templates["v1"], tokenizer)
        for prompt in (
            "USER: <image>\nIs it full?\nASSISTANT:",
            "USER: <image>\nIs it full? ASSISTANT: ",
            "\nUSER: Is it full?",
        ):
            assert without_space(tokenizer.decode(selected(prompt, tokenizer, markers))) == "Isitfull?"

    def test_a_template_without_roles_has_no_question(self, tokenizer_name: str, tokenizers: dict) -> None:
        tokenizer = tokenizers[tokenizer_name]
        markers = query_markers(conv_templates["plain"], tokenizer)
        assert markers == QueryMarkers(open=(), close=(), skip=())
        assert selected("<image>a red cup\n", tokenizer, markers) == []

    def test_image_frames_are_skipped(self, tokenizer_name: str, tokenizers: dict) -> None:
        tokenizer = tokenizers[tokenizer_name]
        skip = query_markers(conv_templates["v1"], tokenizer).skip
        frames = tokenizer.convert_tokens_to_ids(["<im_start>", "<im_end>"])
        assert {*frames, tokenizer.bos_token_id, tokenizer.eos_token_id} <= set(skip)


def test_an_early_prompt_has_the_question_that_the_dialogue_had_there(tokenizers: dict) -> None:
    """What a chat asks at its first turn is the beginning of what training sees of the whole dialogue."""
    tokenizer, conv = tokenizers["tokenizer_legacy"], conv_templates["v1"]
    markers = query_markers(conv, tokenizer)
    _, first = prompts(conv, DIALOGUES["turns"][:2])
    whole, _ = prompts(conv, DIALOGUES["turns"])
    query = selected(first, tokenizer, markers)
    assert query == selected(whole, tokenizer, markers)[: len(query)]


def test_select_query_sees_padding(tokenizers: dict) -> None:
    tokenizer, conv = tokenizers["tokenizer_legacy"], conv_templates["v1"]
    _, opened = prompts(conv, DIALOGUES["image first"])
    ids = tokenizer_image_token(opened, tokenizer, return_tensors="pt")
    padded = torch.cat([torch.zeros(3, dtype=torch.long), ids]).unsqueeze(0)
    mask = torch.cat([torch.zeros(3), torch.ones(len(ids))]).unsqueeze(0)
    chosen = padded[select_query(padded, mask, query_markers(conv, tokenizer), "human")]
    assert chosen.tolist() == selected(opened, tokenizer, query_markers(conv, tokenizer))
