"""A sample in colours: every template tells question, answer, picture and the rest apart."""

import json

import pytest

from llava.conversation import conv_templates
from llava.data.show import KINDS, as_text, kinds_of, main
from llava.tokenization import load_tokenizer

SAMPLE = {
    "id": "kitchen",
    "image": "kitchen.jpg",
    "conversations": [
        {"from": "human", "value": "What is on the table?\n<image>"},
        {"from": "gpt", "value": "A red cup."},
        {"from": "human", "value": "And the plate?"},
        {"from": "gpt", "value": "White."},
    ],
}


def parts(kinds, tokenizer, kind):
    ids = [token for token, own in kinds if own == kind]
    return tokenizer.convert_tokens_to_string(tokenizer.convert_ids_to_tokens(ids)).replace(" ", "").replace("\n", "")


@pytest.mark.parametrize(
    ("template", "folder"),
    [
        *((name, "tokenizer_legacy") for name in ("v1", "llava_llama_2", "llava_v0", "mistral_instruct")),
        *((name, "tokenizer_bytelevel") for name in ("mpt", "chatml_direct")),
    ],
)
def test_every_template_tells_them_apart(template, folder, assets):
    tokenizer = load_tokenizer(str(assets / folder))
    tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    kinds = kinds_of(SAMPLE, tokenizer, conv_templates[template], "human")
    assert sum(kind == "image" for _, kind in kinds) == 1
    assert parts(kinds, tokenizer, "query") == "Whatisonthetable?Andtheplate?"
    trained = parts(kinds, tokenizer, "trained")
    assert trained.startswith("Aredcup.")
    assert "White." in trained
    assert "table" not in trained


def test_without_colours_the_kinds_are_marked(assets):
    tokenizer = load_tokenizer(str(assets / "tokenizer_legacy"))
    tokenizer.pad_token = tokenizer.unk_token
    kinds = kinds_of(SAMPLE, tokenizer, conv_templates["v1"], "human")
    text = as_text(kinds, tokenizer, colour=False)
    assert "<image>" in text
    assert "[ A red cup.</s>]" in text
    assert "{What is on the table?}" in text.replace("{ ", "{")
    coloured = as_text(kinds, tokenizer, colour=True)
    assert KINDS["trained"][0] + " A red cup." in coloured


def test_the_command(tmp_path, assets, capsys):
    path = tmp_path / "data.json"
    path.write_text(json.dumps([{"id": "other", "conversations": []}, SAMPLE]))
    main([str(path), "--tokenizer", str(assets / "tokenizer_legacy"), "--index", "-1"])
    out = capsys.readouterr().out
    assert "id 'kitchen', pictures ['kitchen.jpg']" in out
    assert "1 image" in out
    with pytest.raises(SystemExit) as stop:
        main([str(path), "--tokenizer", str(assets / "tokenizer_legacy"), "--index", "7"])
    assert stop.value.code == 2
    assert "--index is 7;" in capsys.readouterr().err
