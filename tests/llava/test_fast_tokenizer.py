"""tokenizer.json: the sentencepiece tokenizer's ids, without sentencepiece."""

import json
import random
import shutil

import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from llava.fast_tokenizer import save_tokenizer, save_tokenizer_json, tokenizer_json
from llava.tokenization import load_tokenizer

PIECES = [
    "a",
    "USER",
    "  ",
    " ",
    "\n",
    "</s>",
    "<image>",
    "é",
    "漢",
    ".",
    "the ",
    "What is ",
    "\t",
    "<s>",
    "😀",
    "<unk>",
]


@pytest.mark.parametrize("name", ["tokenizer_legacy", "tokenizer_nonlegacy"])
def test_ids_of_wild_strings(name, assets, tmp_path):
    slow = load_tokenizer(str(assets / name))
    slow.add_tokens(["<image>"], special_tokens=True)
    fast = tokenizer_json(slow)
    draw = random.Random(0)
    texts = ["".join(draw.choices(PIECES, k=draw.randint(1, 12))) for _ in range(2000)]
    if not slow.legacy:
        texts = [text for text in texts if not text.startswith(" ")]
    assert len(texts) > 1500
    assert [fast.encode(text).ids for text in texts] == [slow(text).input_ids for text in texts]
    save_tokenizer_json(slow, tmp_path / "tokenizer.json")
    saved = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert [saved.encode(text).ids for text in texts[:200]] == [slow(text).input_ids for text in texts[:200]]
    assert all(
        isinstance(merge, str) for merge in json.loads((tmp_path / "tokenizer.json").read_text())["model"]["merges"]
    )


def test_end_token_and_decoding(assets):
    slow = load_tokenizer(str(assets / "tokenizer_legacy"), add_eos_token=True)
    fast = tokenizer_json(slow)
    encoded = fast.encode("What is  it? 漢")
    assert encoded.ids == slow("What is  it? 漢").input_ids
    assert encoded.ids[-1] == slow.eos_token_id
    assert fast.decode(encoded.ids) == "What is  it? 漢"


@pytest.mark.parametrize(("named", "written"), [(None, "PreTrainedTokenizerFast"), ("GPTNeoXTokenizer",) * 2])
def test_transformers_4_knows_what_is_saved(named, written, assets, tmp_path):
    """MPT's kind. 4.37.2 and 4.57.3 read such a folder and gave these ids; neither is here, so its form is checked."""
    source, saved = tmp_path / "source", tmp_path / "saved"
    shutil.copytree(assets / "tokenizer_bytelevel", source)
    config_file = source / "tokenizer_config.json"
    config = json.loads(config_file.read_text())
    config_file.write_text(json.dumps(config | ({"tokenizer_class": named} if named else {})))
    tokenizer = load_tokenizer(str(source))
    tokenizer.add_tokens(["<im_patch>"], special_tokens=True)
    save_tokenizer(tokenizer, saved)

    config = json.loads((saved / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == written
    assert config["additional_special_tokens"] == ["<|im_start|>", "<|im_end|>"]
    assert "extra_special_tokens" not in config
    content = json.loads((saved / "tokenizer.json").read_text())
    assert all(isinstance(merge, str) for merge in content["model"]["merges"])
    again = load_tokenizer(str(saved))
    text = "What is <im_patch>  12 é漢?<|im_end|>\n"
    assert again(text).input_ids == tokenizer(text).input_ids
    assert again.all_special_tokens == tokenizer.all_special_tokens
    assert again.decode(again(text).input_ids, skip_special_tokens=True) == "What is   12 é漢?\n"


def test_merges_that_hold_spaces_stay_apart(tmp_path):
    model = models.BPE({"a": 0, " ": 1, "a ": 2}, [("a", " ")])
    save_tokenizer(PreTrainedTokenizerFast(tokenizer_object=Tokenizer(model)), tmp_path)
    assert json.loads((tmp_path / "tokenizer.json").read_text())["model"]["merges"] == [["a", " "]]
    assert load_tokenizer(str(tmp_path))("a a").input_ids == [2, 0]


def test_the_llama_tokenizer_keeps_its_own_files(assets, tmp_path):
    save_tokenizer(load_tokenizer(str(assets / "tokenizer_legacy")), tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {"tokenizer.model", "tokenizer_config.json"}
