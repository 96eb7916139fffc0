"""The photo set: cut-outs on photographs with questions, in the formats that LLaVA trains on and GQA evaluates in.

::

    playground/data/photos/
      images/<id>.jpg                                   training pictures
      pretrain.json                                     stage 1: one caption for each
      descriptions.json                                 stage 1, more of it: what is where, listed, several for each
      finetune.json                                     stage 2: single questions with short answers
      guessing.json                                     what guesses without the picture score, by tier and kind
      gqa/llava_gqa_{val,test_cutouts,test_combinations}_balanced.jsonl   what the answering driver reads
      gqa/data/{train,val,...}_balanced_questions.json  what the evaluator reads
      gqa/data/images/<id>.jpg                          pictures of val and of both tests
      gqa/data/blank_images/<id>.jpg                    white ones, for what a model answers without looking
      gqa/sceneGraphs/{train,val,...}_sceneGraphs.json  GQA's scene graphs: each thing's box, color and relations
      gqa/masks/<id>.png                                0 background, 1 + i where the i-th object of the graph is seen

``val`` is drawn as training is. ``test_cutouts`` shows only pictures of things that training never showed: others of
names that it knows, and some of names that it does not, which questions then call by their category. Every picture of
``test_combinations`` holds two names (or a name and a sign's word) that training never showed nor named together;
every question that names two things names such a pair, and every other one is about one of such a pair, if about any.

``annotations.question`` gives, for a word of the question (by its number), the objects that it asks about: one id, or
several joined by commas ("How many birds ..."). A question about what is not there has none. ``types.detailed`` is the
kind of question, ``groups.local`` the group within which answers are balanced.
"""

import json
import random
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path

from PIL import Image

from playground.cache import cached, recipe_key
from playground.photos import cutouts, fetch, scenery
from playground.photos.balance import Guessing, balanced, guessing
from playground.photos.captions import INSTRUCTIONS, caption, descriptions
from playground.photos.cutouts import Cutout, Shelf, by_name
from playground.photos.questions import DIRECTIONS, Lexicon, Question, ask
from playground.photos.scenes import SIDE, Combinations, Picture, Scene, Thing, picture, side_of

DATA_ROOT = Path("playground/data")
SHORT_ANSWER = "\nAnswer the question using a single word or phrase."
JPEG_QUALITY = 95
# What decides the set's content, beside the recipe and the fetched pictures.
MODULES = ("balance", "captions", "cutouts", "dataset", "ocr", "questions", "scenery", "scenes")


@dataclass(frozen=True)
class Recipe:
    """Numbers of scenes and questions, and the share of pairs of names that training never shows together."""

    seed: int = 0
    train_scenes: int = 4_000
    train_questions: int = 36_000
    val_scenes: int = 300
    val_questions: int = 600
    test_scenes: int = 500
    test_questions: int = 1_000
    combinations_held_out: float = 0.12


RECIPES = {
    "mini": Recipe(),
    "cpu": Recipe(),
    "gpu": Recipe(train_scenes=20_000, train_questions=80_000, val_scenes=1_000, val_questions=2_000),
}


@dataclass(frozen=True)
class Tier:
    """One split: which cut-outs it shows and whether it shows combinations that are held out."""

    name: str
    number: int
    scenes: int
    questions: int
    cutouts: tuple[Cutout, ...]
    new_combinations: bool = False

    @property
    def is_training(self) -> bool:
        return self.name == "train"


@dataclass(frozen=True, eq=False)
class Filled:
    """A tier with its scenes by id and its chosen questions by id."""

    tier: Tier
    scenes: dict[str, Scene]
    questions: dict[str, tuple[str, Question]]  # the scene's id beside each


def tiers(recipe: Recipe, shelf: Shelf) -> tuple[Tier, ...]:
    test = (recipe.test_scenes, recipe.test_questions)
    return (
        Tier("train", 1, recipe.train_scenes, recipe.train_questions, shelf.known),
        Tier("val", 2, recipe.val_scenes, recipe.val_questions, shelf.known),
        Tier("test_cutouts", 3, *test, shelf.held_out),
        Tier("test_combinations", 4, *test, shelf.known, new_combinations=True),
    )


def lexicon(shelf: Shelf, pairs: Combinations, new_combinations: bool) -> Lexicon:
    """What questions of a tier may say: names and colors that training shows, pairs that the tier is about."""
    colors: dict[str, set[str]] = {}
    for cutout in shelf.known:
        if cutout.color:
            for word in (cutout.name, cutout.category):
                colors.setdefault(word, set()).add(cutout.color)
    return Lexicon(
        names={category: tuple(names) for category, names in by_name(shelf.known).items()},
        colors={word: tuple(sorted(known)) for word, known in colors.items()},
        allows=lambda one, other: pairs.hold_out(one, other) == new_combinations,
    )


def suits(question: Question, scene: Scene, pairs: Combinations) -> bool:
    """Whether a question belongs to the test of combinations: it is about one of a new pair, or about nothing."""
    asked = [thing for thing in scene.things if thing.id in question.things]
    return not asked or any(pairs.hold_out(one.identity, other.identity) for one in asked for other in scene.things)


def fill(tier: Tier, recipe: Recipe, shelf: Shelf, backgrounds: tuple[Image.Image, ...], folder: Path) -> Filled:
    """Make a tier's pictures, write them, and choose its questions."""
    pairs = Combinations(recipe.seed, recipe.combinations_held_out)
    words = lexicon(shelf, pairs, tier.new_combinations)
    scenes: dict[str, Scene] = {}
    candidates: list[tuple[str, Question]] = []
    for number in range(tier.scenes):
        scene_id = str(100_000 * tier.number + number)
        draw = random.Random(f"{recipe.seed} {scene_id}")
        made = picture(
            scene_id, tier.cutouts, backgrounds, lambda chosen: pairs.held_out_in(chosen) == tier.new_combinations, draw
        )
        write_picture(made, tier, folder)
        scenes[scene_id] = made.scene
        asked = {question.text: question for question in ask(made.scene, words, draw)}
        candidates += (
            (scene_id, question)
            for question in asked.values()
            if not tier.new_combinations or suits(question, made.scene, pairs)
        )
    chosen = balanced(candidates, tier.questions, random.Random(f"{recipe.seed} {tier.name}"))
    numbered = {f"{10_000_000 * tier.number + number}": question for number, question in enumerate(chosen)}
    return Filled(tier, scenes, numbered)


def write_picture(made: Picture, tier: Tier, folder: Path) -> None:
    name = f"{made.scene.id}.jpg"
    made.mask.save(folder / "gqa" / "masks" / f"{made.scene.id}.png")
    if tier.is_training:
        made.image.save(folder / "images" / name, quality=JPEG_QUALITY)
    else:
        made.image.save(folder / "gqa" / "data" / "images" / name, quality=JPEG_QUALITY)
        Image.new("RGB", made.image.size, "white").save(folder / "gqa" / "data" / "blank_images" / name)


def scene_graph(scene: Scene) -> dict[str, object]:
    """GQA's entry for a picture. ``category``, ``cutout`` and ``pixels`` are ours: GQA's reader ignores them."""
    return {"width": SIDE, "height": SIDE, "objects": {thing.id: graph_object(thing, scene) for thing in scene.things}}


def graph_object(thing: Thing, scene: Scene) -> dict[str, object]:
    others = [
        (other, axis, side_of(thing, other, axis)) for other in scene.things if other is not thing for axis in (0, 1)
    ]
    return {
        "name": thing.name,
        "x": thing.x,
        "y": thing.y,
        "w": thing.width,
        "h": thing.height,
        "attributes": [thing.color] if thing.color else [],
        "relations": [{"name": DIRECTIONS[axis, side][1], "object": other.id} for other, axis, side in others if side],
        "category": thing.category,
        "cutout": thing.source,
        "pixels": thing.pixels,
    }


def gqa_questions(filled: Filled) -> dict[str, dict[str, object]]:
    """GQA's question file of a tier."""
    asked: dict[str, dict[str, Question]] = {}
    for question_id, (scene_id, question) in filled.questions.items():
        asked.setdefault(scene_id, {})[question_id] = question
    return {
        question_id: gqa_question(question_id, scene_id, question, asked[scene_id])
        for question_id, (scene_id, question) in filled.questions.items()
    }


def gqa_question(question_id: str, scene_id: str, question: Question, asked: dict[str, Question]) -> dict[str, object]:
    """One entry; ``asked`` are all questions about the same picture, among which are those that it entails."""
    entailed = [other for other in asked if asked[other].rests_on <= question.states]
    return {
        "imageId": scene_id,
        "question": question.text,
        "answer": question.answer,
        "fullAnswer": question.sentence,
        "isBalanced": True,
        "groups": {"global": question.kind, "local": question.group},
        "entailed": [other for other in entailed if other != question_id],
        "equivalent": [other for other in entailed if question.rests_on <= asked[other].states],
        "types": {"structural": question.structural, "semantic": question.semantic, "detailed": question.kind},
        "annotations": {"question": question.annotations, "answer": {}, "fullAnswer": {}},
        "semantic": [
            {"operation": operation, "argument": argument, "dependencies": list(dependencies)}
            for operation, argument, dependencies in question.steps
        ],
        "semanticStr": "->".join(
            f"{operation}: {argument} {list(dependencies) if dependencies else ''}".rstrip()
            for operation, argument, dependencies in question.steps
        ),
    }


def names_in(scenes: Iterable[Scene]) -> list[str]:
    """What things are called in any of the scenes; what signs say is read, not named."""
    return sorted({thing.name for scene in scenes for thing in scene.things if thing.category != "sign"})


def turns(human: str, gpt: str) -> list[dict[str, str]]:
    return [{"from": "human", "value": f"<image>\n{human}"}, {"from": "gpt", "value": gpt}]


def write_tier(filled: Filled, folder: Path) -> None:
    name, gqa = filled.tier.name, folder / "gqa"
    write_json(gqa / "sceneGraphs" / f"{name}_sceneGraphs.json", {i: scene_graph(s) for i, s in filled.scenes.items()})
    write_json(gqa / "data" / f"{name}_balanced_questions.json", gqa_questions(filled))
    if not filled.tier.is_training:
        lines = (
            {"question_id": i, "image": f"{scene}.jpg", "text": question.text + SHORT_ANSWER, "category": "default"}
            for i, (scene, question) in filled.questions.items()
        )
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (gqa / f"llava_gqa_{name}_balanced.jsonl").write_text(text, encoding="utf-8")


def write_training(filled: Filled, seed: int, folder: Path) -> None:
    draw = random.Random(f"{seed} captions")
    captions = [
        {"id": i, "image": f"{i}.jpg", "conversations": turns(draw.choice(INSTRUCTIONS), caption(scene, draw))}
        for i, scene in filled.scenes.items()
    ]
    write_json(folder / "pretrain.json", captions)
    names = names_in(filled.scenes.values())
    described = [
        {"id": f"{i}-{number}", "image": f"{i}.jpg", "conversations": turns(instruction, answer)}
        for i, scene in filled.scenes.items()
        for number, (instruction, answer) in enumerate(descriptions(scene, names))
    ]
    write_json(folder / "descriptions.json", described)
    samples = [
        {"id": i, "image": f"{scene}.jpg", "conversations": turns(question.text + SHORT_ANSWER, question.answer)}
        for i, (scene, question) in filled.questions.items()
    ]
    write_json(folder / "finetune.json", samples)


def write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def make(folder: Path, recipe: Recipe, stamps: Path, templates: Path) -> None:
    """Write the tree of the module's docstring into the empty ``folder``."""
    for part in ("images", "gqa/masks", "gqa/sceneGraphs", "gqa/data/images", "gqa/data/blank_images"):
        (folder / part).mkdir(parents=True)
    shelf, backgrounds = cutouts.load(stamps, recipe.seed), scenery.load(templates)
    training, *others = (fill(tier, recipe, shelf, backgrounds, folder) for tier in tiers(recipe, shelf))
    for filled in (training, *others):
        write_tier(filled, folder)
    write_training(training, recipe.seed, folder)
    scores = {filled.tier.name: guessing(questions_of(training), questions_of(filled)) for filled in others}
    write_json(folder / "guessing.json", {t: {k: asdict(g) for k, g in kinds.items()} for t, kinds in scores.items()})


def questions_of(filled: Filled) -> list[Question]:
    return [question for _, question in filled.questions.values()]


def guessing_table(data: Path) -> str:
    """What can be had without looking, as text: a line per kind, and per tier the questions, chance and blind share."""
    tables = json.loads((data / "guessing.json").read_text(encoding="utf-8"))
    kinds = dict.fromkeys(chain.from_iterable(tables.values()))
    lines = ["".join([f"{'percent':12}", *(f"{tier:>18}: n chance blind" for tier in tables)])]
    for kind in kinds:
        cells = (Guessing(**table[kind]) for table in tables.values())
        lines.append(
            "".join([f"{kind:12}", *(f"{c.questions:21}{100 * c.chance:7.1f}{100 * c.blind:6.1f}" for c in cells)])
        )
    return "\n".join(lines)


def build(root: Path, cache: Path, recipe: Recipe) -> Path:
    """Make the set once per recipe, from fetched parts; return the folder, ``root/photos-<key>``."""
    stamps, templates = fetch.stamps(cache), fetch.templates(cache)
    parameters = {**asdict(recipe), "pictures": [stamps.name, templates.name]}
    sources = [Path(__file__).with_name(f"{module}.py") for module in MODULES]
    return cached(
        root, "photos", recipe_key(parameters, sources), lambda folder: make(folder, recipe, stamps, templates)
    )
