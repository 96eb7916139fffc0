import json
import random
from pathlib import Path

import pytest
from transformers import AddedToken, AutoTokenizer, PreTrainedTokenizerBase

from llava import tokenization
from llava.errors import UserError
from llava.tokenization import LlamaTokenizer, encode_with_offsets, load_tokenizer

NAMES = ["tokenizer_legacy", "tokenizer_nonlegacy", "tokenizer_bytelevel"]


@pytest.fixture(scope="module")
def tokenizers(assets: Path) -> dict[str, PreTrainedTokenizerBase]:
    return {name: load_tokenizer(str(assets / name)) for name in NAMES}


@pytest.fixture(scope="module")
def slow(goldens: Path) -> dict:
    """Wild strings through the slow LlamaTokenizer of transformers 4.37.2 with <im_patch> and the like added."""
    return json.loads((goldens / "tokenizer_transformers4_slow.json").read_text(encoding="utf-8"))


def with_image_tokens(path: Path, **kwargs) -> LlamaTokenizer:
    tokenizer = LlamaTokenizer.from_pretrained(path, **kwargs)
    tokenizer.add_tokens(["<im_patch>"], special_tokens=True)
    tokenizer.add_tokens(["<im_start>", "<im_end>"], special_tokens=True)
    return tokenizer


@pytest.mark.parametrize("mode", ["legacy", "nonlegacy"])
class TestAsTransformers4:
    def test_ids(self, mode: str, assets: Path, slow: dict) -> None:
        tokenizer = with_image_tokens(assets / f"tokenizer_{mode}")
        for text, ids in zip(slow["texts"], slow[mode]["ids"], strict=True):
            assert tokenizer(text).input_ids == ids, repr(text)

    def test_decode(self, mode: str, assets: Path, slow: dict) -> None:
        tokenizer = with_image_tokens(assets / f"tokenizer_{mode}")
        golden = slow[mode]
        for ids, decoded, bare in zip(golden["ids"], golden["decoded"], golden["decoded_without_special"], strict=True):
            assert tokenizer.decode(ids) == decoded
            assert tokenizer.decode(ids, skip_special_tokens=True) == bare

    def test_saved_folder_gives_the_same_ids(self, mode: str, assets: Path, slow: dict, tmp_path: Path) -> None:
        with_image_tokens(assets / f"tokenizer_{mode}").save_pretrained(tmp_path)
        assert (tmp_path / "tokenizer.model").read_bytes() == (assets / "tokenizer.model").read_bytes()
        config = json.loads((tmp_path / "tokenizer_config.json").read_text())
        assert config["tokenizer_class"] == "LlamaTokenizer"
        assert config["add_bos_token"] is True
        assert config["legacy"] is (mode == "legacy")
        assert config["additional_special_tokens"] == ["<im_patch>", "<im_start>", "<im_end>"]
        reloaded = load_tokenizer(str(tmp_path))
        assert len(reloaded) == 1503
        for text, ids in zip(slow["texts"], slow[mode]["ids"], strict=True):
            assert reloaded(text).input_ids == ids

    def test_every_character_has_its_ids(self, mode: str, assets: Path, slow: dict) -> None:
        tokenizer = with_image_tokens(assets / f"tokenizer_{mode}")
        for text in slow["texts"]:
            ids, spans = encode_with_offsets(tokenizer, text)
            assert ids == tokenizer(text).input_ids
            assert len(spans) == len(ids)
            assert spans == sorted(spans)
            assert {place for start, end in spans for place in range(start, end)} == set(range(len(text)))
            for token_id, (start, end) in zip(ids[1:], spans[1:], strict=True):
                if token_id in tokenizer.all_special_ids:
                    assert text[start:end] == tokenizer.convert_ids_to_tokens(token_id)


@pytest.mark.parametrize("name", NAMES)
def test_golden_prompts_and_chunks(name: str, tokenizers: dict, goldens: Path) -> None:
    golden = json.loads((goldens / "tokenizer_image_token.json").read_text(encoding="utf-8"))["tokenizers"][name]
    tokenizer = tokenizers[name]
    for key, value in [
        ("bos", tokenizer.bos_token_id),
        ("eos", tokenizer.eos_token_id),
        ("unk", tokenizer.unk_token_id),
        ("pad", tokenizer.pad_token_id),
        ("len", len(tokenizer)),
    ]:
        assert value == golden[key], key
    for row in golden["rows"]:
        texts = [row["prompt"], *row["chunks"]]
        for text, ids in zip(texts, [row["plain_ids_without_image_split"], *row["chunk_ids"]], strict=True):
            assert tokenizer(text).input_ids == ids, repr(text)
            assert encode_with_offsets(tokenizer, text)[0] == ids, repr(text)


@pytest.mark.parametrize(
    ("name", "pieces"),
    [
        ("tokenizer_legacy", [("<s>", ""), ("▁dog", "dog"), ("</s>", "</s>"), ("▁", ""), ("USER", "USER"), (":", ":")]),
        ("tokenizer_nonlegacy", [("<s>", ""), ("▁dog", "dog"), ("</s>", "</s>"), ("USER", "USER"), (":", ":")]),
    ],
)
def test_spans_tell_text_from_dummy_prefix(name: str, pieces: list, tokenizers: dict) -> None:
    text = "dog</s>USER:"
    ids, spans = encode_with_offsets(tokenizers[name], text)
    tokens = tokenizers[name].convert_ids_to_tokens(ids)
    assert [(token, text[start:end]) for token, (start, end) in zip(tokens, spans, strict=True)] == pieces


def test_bytes_of_one_character_share_its_span(tokenizers: dict) -> None:
    _, spans = encode_with_offsets(tokenizers["tokenizer_legacy"], "a😀b")
    assert spans == [(0, 0), (0, 1), (1, 2), (1, 2), (1, 2), (1, 2), (2, 3)]


def test_bos_and_legacy_do_not_depend_on_the_config(assets: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes((assets / "tokenizer.model").read_bytes())
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "LlamaTokenizer"}')
    tokenizer = load_tokenizer(str(tmp_path))
    assert tokenizer.legacy is True
    assert tokenizer("dog").input_ids == [1, 750]


def test_added_eos_and_pairs(assets: Path) -> None:
    tokenizer = LlamaTokenizer.from_pretrained(assets / "tokenizer_legacy", add_eos_token=True)
    assert tokenizer("dog").input_ids == [1, 750, 2]
    assert tokenizer("dog", "cat").input_ids == [1, 750, 2, 1, 879, 2]
    assert tokenizer("dog", return_special_tokens_mask=True)["special_tokens_mask"] == [1, 0, 1]
    assert encode_with_offsets(tokenizer, "dog") == ([1, 750, 2], [(0, 0), (0, 3), (3, 3)])


def test_padding_and_truncation(tokenizers: dict) -> None:
    batch = tokenizers["tokenizer_legacy"](["dog", "the dog"], padding="longest", truncation=True, max_length=3)
    assert batch.input_ids == [[1, 750, 0], [1, 261, 750]]
    assert batch.attention_mask == [[1, 1, 0], [1, 1, 1]]


def test_an_added_token_takes_the_space_it_asks_for(assets: Path) -> None:
    tokenizer = LlamaTokenizer.from_pretrained(assets / "tokenizer_legacy")
    tokenizer.add_tokens([AddedToken("<tag>", lstrip=True, rstrip=True, normalized=False)])
    ids, spans = encode_with_offsets(tokenizer, "dog  <tag>  dog")
    assert ids == [1, 750, 1500, 750]
    assert spans == [(0, 0), (0, 3), (5, 10), (12, 15)]


def test_single_word_tokens_are_refused(assets: Path) -> None:
    tokenizer = LlamaTokenizer.from_pretrained(assets / "tokenizer_legacy")
    tokenizer.add_tokens([AddedToken("<tag>", single_word=True)])
    with pytest.raises(ValueError, match="'<tag>' is single_word"):
        tokenizer("a <tag> b")


def test_load_tokenizer_takes_the_fast_one_without_a_sentencepiece_model(tokenizers: dict) -> None:
    assert isinstance(tokenizers["tokenizer_legacy"], LlamaTokenizer)
    assert tokenizers["tokenizer_bytelevel"].is_fast


def test_load_tokenizer_hands_options_on(assets: Path) -> None:
    tokenizer = load_tokenizer(str(assets / "tokenizer_legacy"), model_max_length=77, padding_side="left", legacy=False)
    assert (tokenizer.model_max_length, tokenizer.padding_side, tokenizer.legacy) == (77, "left", False)


@pytest.mark.parametrize("name", ["empty", "no/such-hub-repository"])
def test_a_missing_tokenizer_is_named(name: str, tmp_path: Path) -> None:
    path = str(tmp_path) if name == "empty" else name
    with pytest.raises(UserError, match=r"no tokenizer in '.*'; give a folder with tokenizer\.model") as caught:
        load_tokenizer(path)
    assert path in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_llama_tokenizer_without_its_model_is_not_taken_in_silence(
    assets: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    AutoTokenizer.from_pretrained(assets / "tokenizer_legacy").save_pretrained(tmp_path)
    assert not (tmp_path / "tokenizer.model").exists()
    load_tokenizer(str(tmp_path))
    assert "has a Llama tokenizer but no tokenizer.model" in caplog.text


def test_spans_by_length_are_those_of_sentencepiece(assets: Path) -> None:
    """Where the pieces are the text itself their lengths say where they stand; else sentencepiece is asked."""
    model = load_tokenizer(str(assets / "tokenizer_legacy")).sp_model
    draw = random.Random(0)
    parts = ["the ", "What is ", " ", "  ", "\n", "\t", "é", "漢", "😀", "▁", "<0x0A>", "x", "<unk>", "."]
    for _ in range(1000):
        text = "".join(draw.choices(parts, k=draw.randint(1, 8)))
        assert tokenization._split(model, text) == tokenization._split_by_protocol(model, text), text


def test_added_tokens_are_cut_out_as_transformers_does(assets: Path) -> None:
    tokenizer = load_tokenizer(str(assets / "tokenizer_legacy"))
    tokenizer.add_tokens(["<image>", "<im", "age>x", "</s", "|"], special_tokens=True)
    draw = random.Random(0)
    for _ in range(500):
        text = "".join(draw.choices(["<image>", "<im", "age>", "x", "</s>", "</", "s>", "|", " a"], k=7))
        cut = [text[start:end] for start, end, _ in tokenizer._cut_at_added_tokens(text)]
        assert cut == tokenizer.tokens_trie.split(text), text
