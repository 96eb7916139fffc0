"""llama2.c's two formats: tiny files made here become the model and the tokenizer that they were made from."""

import struct

import pytest
import sentencepiece
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from llava.errors import UserError
from llava.tokenization import load_tokenizer
from playground.photos import stories

SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4}
TEXT = "A cow  and 12 ducks\nstand left of a  caf\u00e9 \U0001f642."


def neighbours_first(weight, heads):
    """The rows of a query or key matrix in llama2.c's order; the inverse of what is tested."""
    half = weight.shape[0] // heads // 2
    rows = [head * 2 * half + pair + part * half for head in range(heads) for pair in range(half) for part in (0, 1)]
    return weight[rows]


def model_file(model):
    config, layers = model.config, model.model.layers
    header = (16, 24, 2, 4, config.num_key_value_heads, config.vocab_size, 32)
    weights = [model.model.embed_tokens.weight]
    weights += [layer.input_layernorm.weight for layer in layers]
    weights += [neighbours_first(layer.self_attn.q_proj.weight, 4) for layer in layers]
    weights += [neighbours_first(layer.self_attn.k_proj.weight, config.num_key_value_heads) for layer in layers]
    for name in ("self_attn.v_proj", "self_attn.o_proj", "post_attention_layernorm"):
        weights += [layer.get_submodule(name).weight for layer in layers]
    for name in ("mlp.gate_proj", "mlp.down_proj", "mlp.up_proj"):
        weights += [layer.get_submodule(name).weight for layer in layers]
    weights += [model.model.norm.weight, torch.zeros(2 * 32 * 2)]
    return struct.pack("<7i", *header) + b"".join(weight.detach().numpy().tobytes() for weight in weights)


def tokenizer_file(path):
    """As llama2.c's exporter writes it: spaces for U+2581, the bytes' own values, newlines around the special ones."""
    processor = sentencepiece.SentencePieceProcessor(model_file=str(path))
    written = struct.pack("<i", 0)
    for number in range(processor.vocab_size()):
        piece = processor.id_to_piece(number)
        content = f"\n{piece}\n" if piece in ("<s>", "</s>") else piece.replace("\u2581", " ")
        content = chr(number - 3) if processor.is_byte(number) else content
        written += struct.pack("<fi", processor.get_score(number), len(content.encode())) + content.encode()
    return written


@pytest.fixture
def model():
    torch.manual_seed(0)
    config = LlamaConfig(
        **SIZES, num_key_value_heads=2, vocab_size=1500, max_position_embeddings=32, tie_word_embeddings=True,
        rms_norm_eps=1e-5,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def test_model_and_tokenizer_are_those_that_were_packed(model, assets, tmp_path):
    source = load_tokenizer(str(assets / "tokenizer_nonlegacy"))
    files = {
        "model.bin": model_file(model),
        "tokenizer.bin": tokenizer_file(assets / "tokenizer_nonlegacy" / "tokenizer.model"),
    }
    (tmp_path / "llama2.data").write_bytes(b"".join(files.values()))
    split, end = len(files["model.bin"]), sum(map(len, files.values()))
    spans = [("model.bin", 0, split), ("tokenizer.bin", split, end)]
    listed = ",".join(f'{{"filename":"/{name}","start":{start},"end":{stop}}}' for name, start, stop in spans)
    (tmp_path / "llama2.js").write_text(f"loadPackage({{files:[{listed}]}})")
    folder = tmp_path / "out"
    folder.mkdir()
    stories.make(folder, stories.packed_files(tmp_path))

    tokenizer = load_tokenizer(str(folder))
    ids = tokenizer(TEXT).input_ids
    assert ids == source(TEXT).input_ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == TEXT
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 0)
    converted = AutoModelForCausalLM.from_pretrained(folder)
    inputs = torch.tensor([ids])
    with torch.no_grad():
        torch.testing.assert_close(converted(inputs).logits, model(inputs).logits)


def test_messages(model):
    whole = model_file(model)
    with pytest.raises(UserError, match=r"model\.bin has \d+ numbers; its header asks for \d+"):
        stories.llama(whole[:-4])
    with pytest.raises(UserError, match="vocabulary -1500: an output matrix of its own"):
        stories.llama(struct.pack("<7i", 16, 24, 2, 4, 2, -1500, 32) + whole[28:])
