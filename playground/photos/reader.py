"""What a language model starts with that is to learn to read scenes on a CPU: few words, and heads that match and copy.

The vocabulary is cut to those of Llama's pieces that the set's texts are made of. Some heads of every layer, or all,
are set to do the two things that reading a picture's patches takes (as in the "mimetic initialization" of Trockman and
Kolter 2023):

- keys are what queries are, so a token attends to its like: a word of the question to the patch that shows it;
- the output matrix is the value matrix transposed, so what is attended to is passed on as it is, and, since input and
  output embeddings are one, can be said.

``cpu`` is stories15M with half of its heads set so; ``mini`` is a Llama from scratch, three times as fast in training.
From true words on the grid ``mini`` answers after 1,500 steps what one of independent matrices does after 6,000.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from sentencepiece.sentencepiece_model_pb2 import ModelProto
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from llava.conversation import conv_templates
from llava.tokenization import LlamaTokenizer, load_tokenizer
from llava.train.preprocess import chat_segments, encode_segments
from playground.cache import cached, recipe_key
from playground.photos import text

Piece = ModelProto.SentencePiece


@dataclass(frozen=True)
class Recipe:
    """The heads that match and copy, in each layer: how many, and how large their keys and values are.

    ``layers``, ``width`` and ``heads`` are a model's from scratch; without layers, stories15M goes on.
    """

    matching: int
    layers: int = 0
    width: int = 192
    heads: int = 6
    match: float = 1.0
    copy: float = 0.7
    seed: int = 0


RECIPES = {"mini": Recipe(matching=6, layers=3), "cpu": Recipe(matching=3)}


def texts_of(data: Path) -> set[str]:
    """All that training texts say, with the words of test questions and of the things in all scenes."""
    spoken = {
        turn["value"]
        for name in ("pretrain", "descriptions", "finetune")
        for sample in text.read_json(data / f"{name}.json")
        for turn in sample["conversations"]
    }
    for path in sorted((data / "gqa" / "data").glob("*_questions.json")):
        spoken |= {entry["question"] for entry in text.read_json(path).values()}
    for path in sorted((data / "gqa" / "sceneGraphs").glob("*_sceneGraphs.json")):
        tier = path.name.removesuffix("_sceneGraphs.json")
        spoken |= {word for s in text.read_scenes(data, tier).values() for t in s.things for word in text.words_of(t)}
    return spoken | {text.BACKGROUND}


def pieces_of(spoken: set[str], tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """The ids of all pieces that the texts become, by themselves and in the prompt of stage 2."""
    template = conv_templates[text.TEMPLATE]
    ids: set[int] = set()
    for words in spoken:
        ids.update(tokenizer(words, add_special_tokens=False).input_ids)
        turns = [{"from": "human", "value": words}, {"from": "gpt", "value": words}]
        ids.update(encode_segments(chat_segments(turns, template), tokenizer, has_image=True)[0])
    return {index for index in ids if index >= 0}


def needed(vocabulary: ModelProto, used: set[int]) -> list[int]:
    """The pieces that are used, what they are merged from, bytes and special pieces, in the vocabulary's order.

    Whatever they were found in, they cut as the whole vocabulary does; other words fall into shorter pieces.
    """
    texts = [vocabulary.pieces[index].piece for index in used]
    parts = {word[a:b] for word in texts for a in range(len(word)) for b in range(a + 1, len(word) + 1)}
    return [
        index for index, piece in enumerate(vocabulary.pieces) if piece.type != Piece.NORMAL or piece.piece in parts
    ]


def cut(vocabulary: ModelProto, kept: list[int]) -> ModelProto:
    """A sentencepiece model of the kept pieces alone."""
    smaller = ModelProto()
    smaller.CopyFrom(vocabulary)
    del smaller.pieces[:]
    smaller.pieces.extend(vocabulary.pieces[index] for index in kept)
    smaller.trainer_spec.vocab_size = len(kept)
    return smaller


def from_scratch(recipe: Recipe, vocabulary_size: int) -> LlamaForCausalLM:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary_size,
            hidden_size=recipe.width,
            intermediate_size=8 * recipe.width // 3 // 32 * 32,
            num_hidden_layers=recipe.layers,
            num_attention_heads=recipe.heads,
            num_key_value_heads=recipe.heads,
            max_position_embeddings=2048,
            tie_word_embeddings=True,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=0,
        )
    )


def with_words(llama: Path, kept: list[int]) -> LlamaForCausalLM:
    """The model in ``llama`` with the rows of the kept pieces; input and output embeddings are one."""
    model = LlamaForCausalLM.from_pretrained(llama)
    rows = model.get_input_embeddings().weight[kept].detach().clone()
    model.resize_token_embeddings(len(kept))
    model.get_input_embeddings().weight.data.copy_(rows)
    return model


@torch.no_grad()
def set_heads(model: LlamaForCausalLM, recipe: Recipe) -> None:
    """Let the first heads of every layer match and copy."""
    width = model.config.hidden_size
    rows = recipe.matching * width // model.config.num_attention_heads
    for layer in model.model.layers:
        heads = layer.self_attn
        matching, copying = (size * torch.randn(rows, width) / width**0.5 for size in (recipe.match, recipe.copy))
        heads.q_proj.weight[:rows] = matching
        heads.k_proj.weight[:rows] = matching
        heads.v_proj.weight[:rows] = copying
        heads.o_proj.weight[:, :rows] = copying.T


def make(folder: Path, data: Path, llama: Path, recipe: Recipe) -> None:
    """Write model and tokenizer into the existing ``folder``; the vocabulary is that of the model in ``llama``."""
    whole = ModelProto.FromString((llama / "tokenizer.model").read_bytes())
    kept = needed(whole, pieces_of(texts_of(data), load_tokenizer(str(llama))))
    vocabulary = folder / "tokenizer.model"
    vocabulary.write_bytes(cut(whole, kept).SerializeToString())
    torch.manual_seed(recipe.seed)
    model = from_scratch(recipe, len(kept)) if recipe.layers else with_words(llama, kept)
    set_heads(model, recipe)
    model.save_pretrained(folder)
    LlamaTokenizer(
        str(vocabulary),
        legacy=False,
        pad_token="<unk>",
        padding_side="right",
        model_max_length=model.config.max_position_embeddings,
    ).save_pretrained(folder)


def build(cache: Path, data: Path, llama: Path, recipe: Recipe) -> Path:
    """Make the model for a set once; return its folder."""
    key = recipe_key(asdict(recipe) | {"data": data.name, "llama": llama.name}, [Path(__file__), Path(text.__file__)])
    return cached(cache, "reader", key, lambda folder: make(folder, data, llama, recipe))
