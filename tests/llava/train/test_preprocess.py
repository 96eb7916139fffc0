import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import PreTrainedTokenizerBase

from llava import conversation as conversation_lib
from llava.constants import IGNORE_INDEX
from llava.conversation import conv_templates
from llava.errors import UserError
from llava.tokenization import load_tokenizer
from llava.train.preprocess import (
    chat_segments,
    plain_segments,
    preprocess,
    preprocess_llama_2,
    preprocess_mpt,
    preprocess_multimodal,
    preprocess_plain,
    preprocess_v1,
)

RECORDED = {
    "v1": ("v1__legacy__2048", "tokenizer_legacy"),
    "v1 start/end": ("v1__legacy__2048__mm_use_im_start_end", "tokenizer_legacy"),
    "plain": ("plain__legacy__2048", "tokenizer_legacy"),
    "llama_2": ("llama_2__legacy__2048", "tokenizer_legacy"),
    "mpt": ("mpt__bytelevel__2048", "tokenizer_bytelevel"),
    "chatml_direct": ("chatml_direct__bytelevel__2048", "tokenizer_bytelevel"),
    "llava_v0": ("llava_v0__legacy__2048", "tokenizer_legacy"),
}
LABELS_AS_UPSTREAM = ("v1", "v1 start/end", "plain", "llama_2")

# What is trained where upstream masks the whole sample, text by text; "▁" is sentencepiece's space.
MEANT = {
    "v1": {
        "empty_answer_img": [],
        "empty_answer_text": [],
        "empty_question": ["▁On▁the▁roof.</s>"],
        "human_last": ["▁It▁is▁under▁the▁bridge.</s>"],
        "human_only": [],
        "eos_in_user_text": ["▁It▁ends▁a▁text.</s>"],
        "eos_in_answer_text": ["▁Under▁</s>▁▁the▁bridge.</s>"],
        "assistant_marker_in_answer": ["▁He▁said▁ASSISTANT:▁under▁the▁bridge.</s>"],
        "unk_in_answer": ["▁It▁is▁<unk>▁▁there.</s>"],
    },
    "llama_2": {
        "empty_answer_img": [],
        "empty_answer_text": [],
        "human_last": ["▁It▁is▁under▁the▁bridge.▁</s>"],
        "human_only": [],
        "eos_in_user_text": ["▁It▁ends▁a▁text.▁</s>"],
        "eos_in_answer_text": ["▁Under▁</s>▁▁the▁bridge.▁</s>"],
        "unk_in_answer": ["▁It▁is▁<unk>▁▁there.▁</s>"],
        "inst_markers": ["▁A▁mark▁[/INST]▁yes.▁</s>"],
    },
}


@pytest.fixture(scope="module")
def samples(goldens: Path) -> dict[str, dict]:
    return {sample["id"]: sample for sample in json.loads((goldens / "data/preprocess_samples.json").read_text())}


@pytest.fixture(scope="module")
def tokenizer(assets: Path) -> Callable[[str], PreTrainedTokenizerBase]:
    loaded: dict[str, PreTrainedTokenizerBase] = {}

    def load(name: str) -> PreTrainedTokenizerBase:
        folder, _, added = name.partition(" ")
        if name not in loaded:
            loaded[name] = load_tokenizer(str(assets / folder), model_max_length=2048)
            if added:
                loaded[name].add_tokens(["<im_start>", "<im_end>"], special_tokens=True)
        return loaded[name]

    return load


@pytest.fixture
def run(goldens: Path, samples, tokenizer):
    """Recorded samples of a case, and a function that does now what was recorded."""

    def prepare(case: str):
        file, folder = RECORDED[case]
        version, _, start_end = case.partition(" ")
        recorded = json.loads((goldens / "preprocess" / f"{file}.json").read_text())
        words = tokenizer(f"{folder} {start_end}".strip())
        data_args = SimpleNamespace(is_multimodal=True, mm_use_im_start_end=bool(start_end))
        template = conv_templates[version]

        def encode(name: str) -> dict:
            sources = [samples[name]["conversations"]]
            has_image = "image" in samples[name]
            if has_image:
                sources = preprocess_multimodal(sources, data_args, template)
            encoded = preprocess(sources, words, has_image, template)
            return {key: value[0].tolist() for key, value in encoded.items()}

        return recorded, encode, words

    return prepare


def expected_labels(recorded: dict) -> list[int]:
    labels = [IGNORE_INDEX] * len(recorded["input_ids"])
    for start, end in recorded["trained"]:
        labels[start:end] = recorded["input_ids"][start:end]
    return labels


def trained_texts(encoded: dict, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Each run of trained tokens as text."""
    texts, inside = [], False
    for token, label in zip(encoded["input_ids"], encoded["labels"], strict=True):
        if label == IGNORE_INDEX:
            inside = False
            continue
        assert label == token
        texts += [] if inside else [""]
        inside = True
        piece = tokenizer.convert_ids_to_tokens(token) if tokenizer.is_fast is False else tokenizer.decode([token])
        texts[-1] += piece
    return texts


@pytest.mark.parametrize("case", RECORDED)
def test_ids_equal_upstream(case, run):
    recorded, encode, _ = run(case)
    compared = 0
    for name, expected in recorded.items():
        if "input_ids" in expected:
            assert encode(name)["input_ids"] == expected["input_ids"], name
            compared += 1
    assert compared >= 7


@pytest.mark.parametrize("case", LABELS_AS_UPSTREAM)
def test_labels_equal_upstream_where_it_did_not_give_up(case, run):
    recorded, encode, _ = run(case)
    compared = 0
    for name, expected in recorded.items():
        if "input_ids" in expected and "mismatch" not in expected:
            assert encode(name)["labels"] == expected_labels(expected), name
            compared += 1
    assert compared >= 7


@pytest.mark.parametrize("case", MEANT)
def test_labels_are_the_answers_where_upstream_masks_the_sample(case, run):
    recorded, encode, words = run(case)
    assert set(MEANT[case]) == {name for name, expected in recorded.items() if "mismatch" in expected}
    for name, texts in MEANT[case].items():
        assert trained_texts(encode(name), words) == texts, name


@pytest.mark.parametrize("case", ["mpt", "chatml_direct"])
def test_chatml_trains_answers_and_their_end(case, run, samples):
    recorded, encode, words = run(case)
    for name in ("single_img_first", "multi_img_first", "text_multi", "gpt_first", "surrounding_spaces", "human_last"):
        turns = samples[name]["conversations"]
        answers = [turn["value"] for turn in turns if turn["from"] == "gpt"]
        answers = answers[1:] if turns[0]["from"] == "gpt" else answers
        assert trained_texts(encode(name), words) == [f"{answer}<|im_end|>" for answer in answers], name
        assert not recorded[name]["trained"], "upstream masks it"


def test_v0_trains_answers_and_the_mark_that_ends_them(run):
    recorded, encode, words = run("llava_v0")
    expected = {
        "text_multi": ["▁It▁is▁under▁the▁bridge.<0x0A>###", "▁On▁the▁roof.<0x0A>###"],
        "gpt_first": ["▁Welcome.<0x0A>###", "▁It▁is▁under▁the▁bridge.<0x0A>###"],
        "unknown_role": ["▁On▁the▁roof.<0x0A>###"],
        "human_last": ["▁It▁is▁under▁the▁bridge.<0x0A>###"],
    }
    for name, texts in expected.items():
        assert trained_texts(encode(name), words) == texts
    assert recorded["text_multi"]["trained"], "upstream trains something else"


@pytest.mark.parametrize("version", ["v1", "llava_v1", "llama_2", "llava_llama_2", "mistral_instruct", "mpt", "plain"])
def test_segments_concatenate_to_the_prompt(version, samples):
    template = conv_templates[version]
    turns = samples["plain_caption" if version == "plain" else "text_multi"]["conversations"]
    if version == "plain":
        turns = [{"from": "human", "value": "<image>"}, turns[1]]
        assert [segment.text for segment in plain_segments(turns, template)] == ["<image>", "A boat on the river.\n"]
        return
    prompt = template.copy()
    for turn in turns:
        prompt.append_message(prompt.roles[turn["from"] == "gpt"], turn["value"])
    segments = chat_segments(turns, template)
    assert "".join(segment.text for segment in segments) == prompt.get_prompt()
    assert sum(segment.trained for segment in segments) == 2


def test_nonlegacy_tokenizer_keeps_the_same_labels(tokenizer):
    turns = [
        {"from": "human", "value": "<image>\nWhat is it?"},
        {"from": "gpt", "value": "A boat."},
        {"from": "human", "value": "And this?"},
        {"from": "gpt", "value": "A bus."},
    ]
    lengths, trained = {}, {}
    for name in ("tokenizer_legacy", "tokenizer_nonlegacy"):
        encoded = preprocess([turns], tokenizer(name), True, conv_templates["v1"])
        row = {key: value[0].tolist() for key, value in encoded.items()}
        lengths[name] = len(row["input_ids"])
        trained[name] = trained_texts(row, tokenizer(name))
    assert trained["tokenizer_legacy"] == trained["tokenizer_nonlegacy"] == ["▁A▁boat.</s>", "▁A▁bus.</s>"]
    assert lengths["tokenizer_nonlegacy"] < lengths["tokenizer_legacy"]


def test_text_is_cut_to_the_tokenizers_length_and_image_samples_are_not(assets):
    words = load_tokenizer(str(assets / "tokenizer_legacy"), model_max_length=70)
    turns = [{"from": "human", "value": "Where is the dog?"}, {"from": "gpt", "value": "It is under the bridge."}]
    text_only = preprocess([turns], words, False, conv_templates["v1"])
    with_image = preprocess([turns], words, True, conv_templates["v1"])
    assert text_only["input_ids"].shape == text_only["labels"].shape == (1, 70)
    assert with_image["input_ids"].shape[1] > 70
    assert text_only["input_ids"][0].tolist() == with_image["input_ids"][0, :70].tolist()


def test_several_sources_are_padded_to_one_tensor(tokenizer, samples):
    words = tokenizer("tokenizer_legacy")
    sources = [samples[name]["conversations"] for name in ("text_single", "text_multi")]
    encoded = preprocess_v1(sources, words, template=conv_templates["v1"])
    short = preprocess_v1(sources[:1], words, template=conv_templates["v1"])["input_ids"]
    assert encoded["input_ids"].shape == encoded["labels"].shape
    assert torch.equal(encoded["input_ids"][0, : short.shape[1]], short[0])
    assert (encoded["input_ids"][0, short.shape[1] :] == words.pad_token_id).all()
    assert (encoded["labels"][0, short.shape[1] :] == IGNORE_INDEX).all()


def test_default_template_is_read_at_the_call(tokenizer, samples, monkeypatch):
    words = tokenizer("tokenizer_legacy")
    sources = [samples["text_single"]["conversations"]]
    for version, function in (("v1", preprocess_v1), ("llama_2", preprocess_llama_2), ("mpt", preprocess_mpt)):
        monkeypatch.setattr(conversation_lib, "default_conversation", conv_templates[version])
        expected = preprocess(sources, words, template=conv_templates[version])["input_ids"]
        assert torch.equal(function(sources, words)["input_ids"], expected)
        assert torch.equal(preprocess(sources, words)["input_ids"], expected)
    monkeypatch.setattr(conversation_lib, "default_conversation", conv_templates["plain"])
    caption = [[{"from": "human", "value": "Say\n<image>"}, {"from": "gpt", "value": "a cup"}]]
    assert preprocess_plain(caption, words)["input_ids"][0][:2].tolist() == [words.bos_token_id, -200]


def test_preprocess_multimodal_equals_upstream(goldens):
    for case in json.loads((goldens / "preprocess/preprocess_multimodal.json").read_text()):
        data_args = SimpleNamespace(
            is_multimodal=case["is_multimodal"], mm_use_im_start_end=case["mm_use_im_start_end"]
        )
        sources = [[{"from": "human", "value": text}, {"from": "gpt", "value": "ans <image> x"}] for text in case["in"]]
        placed = preprocess_multimodal(sources, data_args, conv_templates[case["conv"]])
        assert [turns[0]["value"] for turns in placed] == case["out"]
        assert {turns[1]["value"] for turns in placed} == {case["gpt_out"]}
        assert sources[0][0]["value"] == case["in"][0], "the samples themselves stay as they are"


def test_several_pictures_stay_where_the_text_has_them():
    data_args = SimpleNamespace(is_multimodal=True, mm_use_im_start_end=True)
    turns = [{"from": "human", "value": "Compare <image> with <image>."}]
    [[turn]] = preprocess_multimodal([turns], data_args, conv_templates["v1"], keep_places=True)
    assert turn["value"] == "Compare <im_start><image><im_end> with <im_start><image><im_end>."


def turn(speaker: str, value: str = "x") -> dict:
    return {"from": speaker, "value": value}


@pytest.mark.parametrize(
    ("version", "turns", "message"),
    [
        ("v1", [], "its conversations must be a list of at least one turn"),
        ("v1", None, "its conversations must be a list of at least one turn"),
        ("v1", ["hello"], "turn 0 must be an object with the texts 'from' and 'value'"),
        ("v1", [turn("human"), {"from": "gpt", "value": None}], "turn 1 must be an object with the texts"),
        ("v1", [turn("system"), turn("human")], "turn 0 is from 'system'; a turn must be from 'human' or 'gpt'"),
        ("v1", [turn("user"), turn("assistant")], "turn 0 is from 'user'; a turn must be from 'human' or 'gpt'"),
        ("mpt", [turn("human"), turn("human")], "turn 1 is from 'human' like the one before; human and gpt must alt"),
        ("v1", [turn("gpt"), turn("gpt")], "turn 1 is from 'gpt' like the one before"),
        ("v1", [turn("gpt")], "it has no human turn; a conversation needs a question"),
        ("llama_2", [turn("human", ""), turn("gpt")], "its first question is empty; the llama_2 templates need its"),
        ("plain", [turn("human", "<image>")], "it has 1 turns; the plain template takes two, human and gpt"),
        ("plain", [turn("human"), turn("gpt")], "its first turn has no <image>; the plain template trains captions"),
    ],
)
def test_broken_rules_are_named(version, turns, message, tokenizer):
    with pytest.raises(UserError) as error:
        preprocess([turns], tokenizer("tokenizer_legacy"), False, conv_templates[version])
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_errors_are_where_upstream_has_exceptions(run):
    for case in ("v1", "llama_2", "mpt", "plain"):
        recorded, encode, _ = run(case)
        refused = {name for name, expected in recorded.items() if "exception" in expected}
        assert refused
        for name in refused:
            with pytest.raises(UserError):
                encode(name)
