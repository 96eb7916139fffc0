"""The training scenes in words, for a language model that has no eyes yet.

A scene is told as a picture will be: one place per patch of the tower's grid. What stands there in words (name,
category, color, what a sign says) is one vector, the sum of those words' embeddings; a patch that shows two things, or
a thing in part, has each in proportion to its pixels. A picture then has to be mapped into words, patch by patch.
"""

import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from PIL import Image
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from llava.constants import IMAGE_TOKEN_INDEX
from llava.conversation import conv_templates
from llava.train.preprocess import Segment, chat_segments, encode_segments, plain_segments
from playground.photos.balance import balanced
from playground.photos.captions import caption, descriptions
from playground.photos.cutouts import Cutout, Shelf
from playground.photos.dataset import SHORT_ANSWER, Recipe, lexicon, turns
from playground.photos.questions import ask
from playground.photos.scenes import Combinations, Scene, Thing, choice

TEMPLATE = "mistral_instruct"  # the one that recipe.sh trains and asks with
BACKGROUND = "nothing"


@dataclass(frozen=True, eq=False)
class Grid:
    """A scene in words: their ids for the background and for each of K things, and what share of a patch shows them.

    ``shares`` is ``[N, 1 + K]``; its rows sum to 1.
    """

    words: tuple[Tensor, ...]
    shares: Tensor


@dataclass(frozen=True, eq=False)
class Sample:
    """A grid between ``prefix`` and several continuations, each of which is to see grid and prefix but no other.

    ``continuations`` and ``labels`` hold ids ``[S]``.
    """

    grid: Grid
    prefix: Tensor
    continuations: tuple[Tensor, ...]
    labels: tuple[Tensor, ...]


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def read_scenes(data: Path, tier: str) -> dict[str, Scene]:
    graphs = read_json(data / "gqa" / "sceneGraphs" / f"{tier}_sceneGraphs.json")
    return {
        key: Scene(key, tuple(read_thing(identity, seen) for identity, seen in graph["objects"].items()))
        for key, graph in graphs.items()
    }


def read_thing(identity: str, seen: dict[str, Any]) -> Thing:
    color = seen["attributes"][0] if seen["attributes"] else None
    box = (seen["x"], seen["y"], seen["w"], seen["h"])
    return Thing(identity, seen["name"], seen["category"], seen["cutout"], color, *box, seen["pixels"])


def words_of(thing: Thing) -> list[str]:
    words = [thing.name, thing.category, thing.color, thing.word if thing.category == "sign" else None]
    return [word for word in dict.fromkeys(words) if word]


def grid_of(scene: Scene, data: Path, side: int, tokenizer: PreTrainedTokenizerBase) -> Grid:
    """``side`` is patches per side; the scene's mask says what each of them shows."""
    with Image.open(data / "gqa" / "masks" / f"{scene.id}.png") as mask:
        patches = rearrange(np.asarray(mask), "(r h) (c w) -> (r c) (h w)", r=side, c=side)
    shares = np.stack([(patches == value).mean(axis=1) for value in range(1 + len(scene.things))], axis=1)
    return Grid(spoken(scene, tokenizer), torch.from_numpy(shares).float())


def spoken(scene: Scene, tokenizer: PreTrainedTokenizerBase) -> tuple[Tensor, ...]:
    """A grid's words: of the background, then of each thing."""
    words = [[BACKGROUND], *map(words_of, scene.things)]
    return tuple(torch.tensor(tokenizer(" ".join(said), add_special_tokens=False).input_ids) for said in words)


def retold(scene: Scene, number: int, known: Sequence[Cutout], pairs: Combinations) -> Scene:
    """The same shapes in the same places as other things, such as training may show together; ``number`` tells apart.

    In words a scene costs nothing, and a model that reads the same few thousand again and again learns them by heart.
    """
    draw = random.Random(f"retold {scene.id} {number}")
    while pairs.held_out_in(chosen := choice(known, len(scene.things), draw)):
        pass
    things = (
        replace(thing, name=other.name, category=other.category, source=other.source, color=other.color)
        for thing, other in zip(scene.things, chosen, strict=True)
    )
    return Scene(f"{scene.id}-{number}", tuple(things))


def more_questions(
    scenes: Iterable[Scene], shelf: Shelf, recipe: Recipe, count: int
) -> dict[str, list[tuple[str, str]]]:
    """``count`` questions and answers about scenes of the training tier, by scene; chosen as the training questions."""
    words = lexicon(shelf, Combinations(recipe.seed, recipe.combinations_held_out), new_combinations=False)
    candidates = [
        (scene.id, question) for scene in scenes for question in ask(scene, words, random.Random(f"text {scene.id}"))
    ]
    asked: dict[str, list[tuple[str, str]]] = {}
    for scene_id, question in balanced(candidates, count, random.Random("text")):
        asked.setdefault(scene_id, []).append((question.text, question.answer))
    return asked


def description_sample(grid: Grid, scene: Scene, names: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> Sample:
    """All descriptions of a scene, in the prompt of stage 2."""
    template = conv_templates[TEMPLATE]
    return sample(grid, [chat_segments(turns(q, a), template) for q, a in descriptions(scene, names)], tokenizer)


def chat_sample(grid: Grid, asked: Iterable[tuple[str, str]], tokenizer: PreTrainedTokenizerBase) -> Sample:
    """Questions with their answers, each as stage 2 asks it."""
    template = conv_templates[TEMPLATE]
    return sample(grid, [chat_segments(turns(q + SHORT_ANSWER, a), template) for q, a in asked], tokenizer)


def caption_sample(grid: Grid, scene: Scene, count: int, tokenizer: PreTrainedTokenizerBase) -> Sample:
    """Up to ``count`` captions, each as stage 1 has it."""
    draw = random.Random(f"captions {scene.id}")
    captions = dict.fromkeys(caption(scene, draw) for _ in range(count))
    return sample(grid, [plain_segments(turns("", told), conv_templates["plain"]) for told in captions], tokenizer)


def sample(grid: Grid, texts: Sequence[Sequence[Segment]], tokenizer: PreTrainedTokenizerBase) -> Sample:
    """Texts with the same beginning up to the picture."""
    encoded = [encode_segments(segments, tokenizer, has_image=True) for segments in texts]
    place = encoded[0][0].index(IMAGE_TOKEN_INDEX)
    return Sample(
        grid,
        prefix=torch.tensor(encoded[0][0][:place]),
        continuations=tuple(torch.tensor(ids[place + 1 :]) for ids, _ in encoded),
        labels=tuple(torch.tensor(labels[place + 1 :]) for _, labels in encoded),
    )
