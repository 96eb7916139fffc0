"""A small Llama, taught to read scenes: it answers the training scenes' questions from words on the tower's grid.

A model that knows children's stories, or nothing, and no questions would have to learn in stage 2 to answer and to see
at once, which takes far longer than a study on a CPU has. After this, a picture has to become what words are to it
already.
"""

import random
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import chain, islice
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

from llava.constants import IGNORE_INDEX
from llava.tokenization import load_tokenizer
from playground.cache import cached, recipe_key
from playground.photos import cutouts, dataset, fetch, text
from playground.photos.scenes import Combinations, Scene
from playground.photos.text import Grid, Sample

WATCHES, WATCHED = 8, 200  # times, questions


@dataclass(frozen=True)
class Recipe:
    """First ``described`` steps of descriptions, then ``asked`` steps of everything: ``questions``, captions, them too.

    A description has an answer of many words, each of which must be read off the grid: what it takes to find something
    there is learned from far fewer texts than from questions alone. Each scene is told as it is and ``retold`` so many
    times with other things in it. ``at_once`` questions about a scene share the reading of its grid. ``noise`` is in
    standard deviations of a grid.
    """

    seed: int = 0
    side: int = 7
    described: int = 250
    asked: int = 550
    retold: int = 1
    questions: int = 48_000
    at_once: int = 6
    noise: float = 0.2
    batch_size: int = 8
    learning_rate: float = 1e-3


RECIPES = {
    "mini": Recipe(described=1_000, asked=9_000, retold=3, questions=144_000, batch_size=4, learning_rate=2e-3),
    "cpu": Recipe(described=400, asked=1_800, retold=2, questions=96_000),
}


@dataclass(frozen=True, eq=False)
class Batch:
    """``embeds [B, S, D]``, ``sees [B, 1, S, S]`` (added to attention's logits), ``positions``, ``labels [B, S]``."""

    embeds: Tensor
    sees: Tensor
    positions: Tensor
    labels: Tensor


def embed_grids(grids: Sequence[Grid], table: Tensor) -> Tensor:
    """Each patch as the sum of its words' embeddings: ``[B, N, D]`` of a table ``[V, D]``."""
    words = [ids for grid in grids for ids in grid.words]
    starts = torch.tensor([0, *(len(ids) for ids in words[:-1])]).cumsum(0)
    vectors = F.embedding_bag(torch.cat(words), table, starts, mode="sum").split([len(grid.words) for grid in grids])
    shares = pad_sequence([grid.shares.T for grid in grids], batch_first=True)
    return shares.transpose(1, 2) @ pad_sequence(list(vectors), batch_first=True)


def collate(samples: Sequence[Sample], table: Tensor, noise: float = 0.0) -> Batch:
    """Lay prefix, grid and continuations side by side; each continuation is numbered on from the grid."""
    grids = embed_grids([sample.grid for sample in samples], table)
    grids = grids + noise * grids.detach().std() * torch.randn_like(grids)
    ids = [torch.cat([sample.prefix, *sample.continuations]) for sample in samples]
    # One lookup: each has a gradient as large as the table.
    texts = F.embedding(torch.cat(ids), table).split([len(sample_ids) for sample_ids in ids])
    embeds, parts, positions, labels = [], [], [], []
    for sample, grid, text_embeds in zip(samples, grids, texts, strict=True):
        lengths = [len(ids) for ids in sample.continuations]
        place = len(sample.prefix)
        start = place + len(grid)
        embeds.append(torch.cat([text_embeds[:place], grid, text_embeds[place:]]))
        # 0 is what all see; a continuation sees itself besides.
        parts.append(torch.repeat_interleave(torch.tensor([start, *lengths])))
        positions.append(torch.cat([torch.arange(start), *(torch.arange(start, start + n) for n in lengths)]))
        labels.append(torch.cat([torch.full((start,), IGNORE_INDEX), *sample.labels]))
    part = pad_sequence(parts, batch_first=True, padding_value=-1)
    seen = (part.unsqueeze(1) == 0) | (part.unsqueeze(1) == part.unsqueeze(2))
    return Batch(
        embeds=pad_sequence(embeds, batch_first=True),
        sees=torch.where(seen.tril(), 0.0, torch.finfo(torch.float32).min).unsqueeze(1),
        positions=pad_sequence(positions, batch_first=True),
        labels=pad_sequence(labels, batch_first=True, padding_value=IGNORE_INDEX),
    )


def predictions(model: LlamaForCausalLM, batch: Batch) -> tuple[Tensor, Tensor]:
    """Logits ``[n, V]`` and labels ``[n]`` of the labelled places alone: the output matrix is most of the model."""
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model.model(
            inputs_embeds=batch.embeds, attention_mask=batch.sees, position_ids=batch.positions, use_cache=False
        ).last_hidden_state
        following = F.pad(batch.labels[:, 1:], (0, 1), value=IGNORE_INDEX)
        labelled = following != IGNORE_INDEX
        return model.lm_head(hidden[labelled]).float(), following[labelled]


def batches(samples: Sequence[Sample], steps: int, recipe: Recipe) -> Iterator[list[Sample]]:
    """``steps`` batches; every pass over the samples in a new order."""
    draw = random.Random(recipe.seed)
    waiting: list[Sample] = []
    for _ in range(steps):
        if len(waiting) < recipe.batch_size:
            waiting = draw.sample(samples, len(samples))
        yield [waiting.pop() for _ in range(recipe.batch_size)]


def train(
    model: LlamaForCausalLM,
    descriptions: Sequence[Sample],
    everything: Sequence[Sample],
    recipe: Recipe,
    watch: Callable[[int], None],
) -> None:
    """Train in place, in bfloat16 under autocast; ``watch`` is called with the number of steps now and then."""
    torch.manual_seed(recipe.seed)
    table = model.get_input_embeddings().weight
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.learning_rate, weight_decay=0.0, betas=(0.9, 0.98), fused=True
    )
    steps = recipe.described + recipe.asked
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.learning_rate, total_steps=steps, pct_start=0.1)
    order = chain(batches(descriptions, recipe.described, recipe), batches(everything, recipe.asked, recipe))
    progress = tqdm(order, total=steps, desc="adapt language model", unit="step")
    model.train()
    for step, samples in enumerate(progress, start=1):
        loss = F.cross_entropy(*predictions(model, collate(samples, table, recipe.noise)))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 10 == 0:
            progress.set_postfix(loss=f"{loss.item():.3f}")
        if step % max(1, steps // WATCHES) == 0:
            watch(step)
    model.eval()


@torch.inference_mode()
def accuracy(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, data: Path, recipe: Recipe, count: int | None = None
) -> dict[str, float]:
    """Share of validation questions (or the first ``count``) answered from the true grid, by kind and as ``all``."""
    scenes = text.read_scenes(data, "val")
    marks: dict[str, list[bool]] = defaultdict(list)
    questions = text.read_json(data / "gqa" / "data" / "val_balanced_questions.json").values()
    for question in islice(questions, count):
        grid = text.grid_of(scenes[question["imageId"]], data, recipe.side, tokenizer)
        sample = text.chat_sample(grid, [(question["question"], question["answer"])], tokenizer)
        logits, labels = predictions(model, collate([sample], model.get_input_embeddings().weight))
        right = bool((logits.argmax(dim=-1) == labels).all())
        for kind in (question["types"]["detailed"], "all"):
            marks[kind].append(right)
    return {kind: sum(right) / len(right) for kind, right in marks.items()}


def tell(
    data: Path, tokenizer: PreTrainedTokenizerBase, shelf: cutouts.Shelf, recipe: Recipe, data_recipe: dataset.Recipe
) -> tuple[dict[str, Scene], dict[str, Grid]]:
    """The training scenes and their grids, as they are and retold, by id."""
    pairs = Combinations(data_recipe.seed, data_recipe.combinations_held_out)
    scenes, grids = {}, {}
    for scene in text.read_scenes(data, "train").values():
        grid = text.grid_of(scene, data, recipe.side, tokenizer)
        for told in (scene, *(text.retold(scene, number, shelf.known, pairs) for number in range(recipe.retold))):
            scenes[told.id] = told
            grids[told.id] = Grid(text.spoken(told, tokenizer), grid.shares)
    return scenes, grids


def description_samples(
    scenes: dict[str, Scene], grids: dict[str, Grid], tokenizer: PreTrainedTokenizerBase
) -> list[Sample]:
    names = dataset.names_in(scenes.values())
    return [
        text.description_sample(grids[key], scene, names, tokenizer)
        for key, scene in tqdm(scenes.items(), desc="tokenize descriptions", unit="scene")
    ]


def question_samples(
    scenes: dict[str, Scene],
    grids: dict[str, Grid],
    asked: dict[str, list[tuple[str, str]]],
    tokenizer: PreTrainedTokenizerBase,
    recipe: Recipe,
) -> list[Sample]:
    """Questions about every scene, and captions of every third: stage 1 will ask for those."""
    samples = [text.caption_sample(grids[key], scenes[key], 3, tokenizer) for key in list(scenes)[::3]]
    for key, questions in tqdm(asked.items(), desc="tokenize questions", unit="scene"):
        for start in range(0, len(questions), recipe.at_once):
            samples.append(text.chat_sample(grids[key], questions[start : start + recipe.at_once], tokenizer))
    return samples


@torch.no_grad()
def enlarge(model: LlamaForCausalLM) -> None:
    """The same function, with embeddings of standard deviation 1.

    A projector's outputs start at about that size, and pictures would drown words. Whatever a layer adds grows as the
    embeddings do, so each norm sees what it saw but larger; the last one's weight takes the factor back, since output
    and input embeddings are one.
    """
    factor = 1 / model.get_input_embeddings().weight.std()
    model.get_input_embeddings().weight.mul_(factor)
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight.mul_(factor)
        layer.mlp.down_proj.weight.mul_(factor)
    model.model.norm.weight.div_(factor)


def make(folder: Path, cache: Path, data: Path, start: Path, recipe: Recipe, data_recipe: dataset.Recipe) -> None:
    """Adapt the model in ``start``; write it, with its tokenizer, into the existing ``folder``."""
    tokenizer = load_tokenizer(str(start))
    # Over such short sequences in bfloat16, attention's plain formula is the fastest on a CPU.
    model = LlamaForCausalLM.from_pretrained(start, attn_implementation="eager")
    shelf = cutouts.load(fetch.stamps(cache), data_recipe.seed)
    scenes, grids = tell(data, tokenizer, shelf, recipe, data_recipe)
    asked = text.more_questions(scenes.values(), shelf, data_recipe, recipe.questions)

    def say(step: int, count: int | None = WATCHED) -> None:
        shares = accuracy(model, tokenizer, data, recipe, count)
        told = ", ".join(f"{kind} {share:.0%}" for kind, share in sorted(shares.items()))
        tqdm.write(f"after {step} steps, answered from true words on the grid: {told}", file=sys.stderr)

    descriptions = description_samples(scenes, grids, tokenizer)
    questions = question_samples(scenes, grids, asked, tokenizer, recipe)
    train(model, descriptions, descriptions + questions, recipe, say)
    say(recipe.described + recipe.asked, None)
    enlarge(model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def build(cache: Path, data: Path, start: Path, data_recipe: dataset.Recipe, recipe: Recipe) -> Path:
    """Adapt the language model in ``start`` to ``data`` once per recipe; return its folder."""
    key = recipe_key(asdict(recipe) | {"data": data.name, "start": start.name}, [Path(__file__), Path(text.__file__)])
    return cached(cache, "language_model", key, lambda folder: make(folder, cache, data, start, recipe, data_recipe))
