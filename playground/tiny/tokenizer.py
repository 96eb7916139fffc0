"""A small sentencepiece tokenizer in the layout of Llama's: same special ids, byte fallback, dummy prefix.

Llama's own ``tokenizer.model`` may not be shipped, and its 32,000 rows of embeddings would be most of a tiny model.
"""

import io
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import sentencepiece

from llava.tokenization import LlamaTokenizer
from playground.cache import cached, recipe_key
from playground.tiny import text


@dataclass(frozen=True)
class Recipe:
    """``vocab_size`` counts 3 special pieces and 256 bytes; 512 leaves room for each word of the text."""

    vocab_size: int = 512
    model_max_length: int = 2048


def lines_of(corpus: list[str]) -> Iterator[str]:
    """sentencepiece never sees a newline: as with Llama it is a byte piece."""
    for document in corpus:
        yield from document.split("\n")


def train(folder: Path, corpus: list[str], recipe: Recipe) -> None:
    """Write ``tokenizer.model`` and its configuration into the existing ``folder``."""
    model_file = folder / "tokenizer.model"
    # A writer and not a path: sentencepiece would write the path into the model, and each build would be another.
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=lines_of(corpus),
        model_writer=model,
        vocab_size=recipe.vocab_size,
        # From here on: what Llama's tokenizer.model says about itself.
        model_type="bpe",
        character_coverage=1.0,
        byte_fallback=True,
        split_digits=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=True,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        num_threads=1,  # more threads may count in another order
        minloglevel=2,
    )
    model_file.write_bytes(model.getvalue())
    tokenizer = LlamaTokenizer(
        str(model_file),
        legacy=False,  # as Vicuna-1.5
        pad_token="<unk>",
        padding_side="right",
        model_max_length=recipe.model_max_length,
    )
    tokenizer.save_pretrained(folder)


def build(cache: Path, data: Path, recipe: Recipe = Recipe()) -> Path:
    """Train the tokenizer on the train split once per recipe; return its folder.

    ``data`` is the folder that :func:`playground.tiny.easy_vqa.build` returned.
    """
    key = recipe_key(asdict(recipe), [Path(__file__), *text.sources(data)])
    return cached(cache, "tokenizer", key, lambda folder: train(folder, text.corpus(data), recipe))
