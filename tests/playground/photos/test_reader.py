"""What a reader starts with: a vocabulary that cuts the set's texts as the whole one, and heads that match and copy."""

import dataclasses

import pytest
import torch
from sentencepiece.sentencepiece_model_pb2 import ModelProto
from transformers import LlamaConfig, LlamaForCausalLM

from llava.tokenization import load_tokenizer
from playground.photos import reader
from playground.photos.reader import Recipe

WORDS = {"Is there a black cow left of the sign?", "What does the sign say?\nAnswer in a word.", "stop"}
TINY = Recipe(matching=2, layers=2, width=64, heads=2)


@pytest.fixture(scope="module")
def llama(assets, tmp_path_factory):
    """A Llama with its tokenizer, as ``stories.build`` leaves them."""
    folder = tmp_path_factory.mktemp("llama")
    tokenizer = load_tokenizer(str(assets / "tokenizer_nonlegacy"))
    tokenizer.save_pretrained(folder)
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
            num_attention_heads=4, tie_word_embeddings=True,
        )
    ).save_pretrained(folder)  # fmt: skip
    return folder


@pytest.fixture
def make(llama, tmp_path, monkeypatch):
    monkeypatch.setattr(reader, "texts_of", lambda data: WORDS)

    def made(recipe):
        reader.make(tmp_path, tmp_path, llama, recipe)
        return LlamaForCausalLM.from_pretrained(tmp_path), load_tokenizer(str(tmp_path))

    return made


def test_the_set_is_cut_into_the_same_pieces(make, llama):
    model, tokenizer = make(TINY)
    whole = load_tokenizer(str(llama))
    assert len(tokenizer) == model.config.vocab_size < len(whole)
    for words in WORDS:
        assert tokenizer.tokenize(words) == whole.tokenize(words)
    assert (tokenizer.unk_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1, 2)


def test_another_word_is_spelled(make):
    _, tokenizer = make(TINY)
    assert tokenizer.decode(tokenizer("zebra \u00e9", add_special_tokens=False).input_ids) == "zebra \u00e9"


def test_a_pretrained_model_keeps_its_words(make, llama):
    model, tokenizer = make(Recipe(matching=2))
    before, whole = LlamaForCausalLM.from_pretrained(llama), load_tokenizer(str(llama))
    for piece in tokenizer.tokenize("the black sign"):
        old, new = whole.convert_tokens_to_ids(piece), tokenizer.convert_tokens_to_ids(piece)
        assert torch.equal(model.get_input_embeddings().weight[new], before.get_input_embeddings().weight[old])
    assert model.lm_head.weight.data_ptr() == model.get_input_embeddings().weight.data_ptr()


def test_only_the_first_heads_are_set(make, llama):
    model, _ = make(Recipe(matching=2))
    before = LlamaForCausalLM.from_pretrained(llama)
    for layer, old in zip(model.model.layers, before.model.layers, strict=True):
        heads, own = layer.self_attn, old.self_attn
        assert torch.equal(heads.q_proj.weight[:16], heads.k_proj.weight[:16])
        assert torch.equal(heads.v_proj.weight[:16], heads.o_proj.weight[:, :16].T)
        assert not torch.equal(heads.q_proj.weight[:16], own.q_proj.weight[:16])
        for name in ("q_proj", "k_proj", "v_proj"):
            assert torch.equal(getattr(heads, name).weight[16:], getattr(own, name).weight[16:])
        assert torch.equal(heads.o_proj.weight[:, 16:], own.o_proj.weight[:, 16:])


def test_a_token_attends_to_its_like(make):
    """Of two words earlier in the text, the attention of the first layer goes to the one that stands here again."""
    recipe = dataclasses.replace(TINY, match=6.0)
    model, tokenizer = make(recipe)
    model.set_attn_implementation("eager")
    black, sign = (tokenizer.convert_tokens_to_ids(piece) for piece in tokenizer.tokenize("black sign")[:2])
    for first, second in ((black, sign), (sign, black)):
        ids = torch.tensor([[first, second, black]])
        attention = model(ids, output_attentions=True).attentions[0][0].mean(dim=0)[2]
        same = 0 if first == black else 1
        assert attention[same] > 2 * attention[1 - same]


def test_the_pieces_of_a_word_stay(llama):
    """A BPE vocabulary merges step by step, so each step has to be in it."""
    whole = ModelProto.FromString((llama / "tokenizer.model").read_bytes())
    texts = [piece.piece for piece in whole.pieces]
    longest = max(range(3 + 256, len(texts)), key=lambda index: len(texts[index]))
    kept = {texts[index] for index in reader.needed(whole, {longest})}
    word = texts[longest]
    assert {text for text in texts if text in word} <= kept
    assert not kept & {text for text in texts[3 + 256 :] if text not in word}
