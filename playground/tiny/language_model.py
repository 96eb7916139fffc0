"""A tiny Llama in the hub's layout, trained on the train split's text so that stage 1 meets a model that can read."""

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from llava.constants import IGNORE_INDEX
from llava.tokenization import load_tokenizer
from playground.tiny import text
from playground.tiny.cache import cached, recipe_key
from playground.tiny.clip import batches


@dataclass(frozen=True)
class Recipe:
    """Sizes and the course of training; ``steps`` counts updates."""

    seed: int = 0
    width: int = 128
    layers: int = 4
    heads: int = 4
    steps: int = 150
    batch_size: int = 16
    learning_rate: float = 2e-3


def llama_config(recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.width,
        intermediate_size=recipe.width * 8 // 3,  # Llama's proportion
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def train(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, corpus: list[str], recipe: Recipe) -> None:
    """Train in place on next-token prediction, one document a row."""
    generator = torch.Generator().manual_seed(recipe.seed)
    encoded = [tokenizer(document).input_ids for document in tqdm(corpus, desc="tokenize", unit="text")]
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.learning_rate, total_steps=recipe.steps, pct_start=0.1
    )
    order = batches(len(encoded), min(recipe.batch_size, len(encoded)), recipe.steps, generator)
    progress = tqdm(order, total=recipe.steps, desc="train language model", unit="step")
    model.train()
    for step, indices in enumerate(progress):
        batch = dict(tokenizer.pad({"input_ids": [encoded[i] for i in indices]}, return_tensors="pt"))
        loss: Tensor = model(
            **batch, labels=batch["input_ids"].masked_fill(batch["attention_mask"] == 0, IGNORE_INDEX)
        ).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 10 == 0:
            progress.set_postfix(loss=f"{loss.item():.3f}")
    model.eval()


def make(folder: Path, data: Path, tokenizer_folder: Path, recipe: Recipe) -> None:
    """Train a language model and write it, with its tokenizer, into the existing ``folder``."""
    tokenizer = load_tokenizer(str(tokenizer_folder))
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        model = LlamaForCausalLM(llama_config(recipe, tokenizer))
    train(model, tokenizer, text.corpus(data), recipe)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def build(cache: Path, data: Path, tokenizer_folder: Path, recipe: Recipe = Recipe()) -> Path:
    """Train the language model once per recipe; return its folder."""
    sources = [Path(__file__), tokenizer_folder / "tokenizer.model", *text.sources(data)]
    key = recipe_key(asdict(recipe), sources)
    return cached(cache, "language_model", key, lambda folder: make(folder, data, tokenizer_folder, recipe))
