"""tokenizer.json: the sentencepiece tokenizer's ids, without sentencepiece."""

import json
import random

import pytest
from tokenizers import Tokenizer

from llava.fast_tokenizer import save_tokenizer_json, tokenizer_json
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
