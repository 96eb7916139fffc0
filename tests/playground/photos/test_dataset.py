import json
import re
from collections import Counter, defaultdict
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from llava.eval import eval_gqa
from playground.photos import cutouts, dataset
from playground.photos.questions import KINDS
from playground.photos.scenes import CLEAR, Combinations
from tests.playground.photos.conftest import RECIPE

TIERS = ("train", "val", "test_cutouts", "test_combinations")
Objects = dict[str, dict[str, Any]]


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def questions(photo_set: Path, tier: str) -> dict[str, dict[str, Any]]:
    return read(photo_set / "gqa" / "data" / f"{tier}_balanced_questions.json")


def graphs(photo_set: Path, tier: str) -> dict[str, dict[str, Any]]:
    return read(photo_set / "gqa" / "sceneGraphs" / f"{tier}_sceneGraphs.json")


def centre(seen: dict[str, Any], axis: int) -> float:
    return seen["xy"[axis]] + seen["wh"[axis]] / 2


PLACES = {"left of": (0, -1), "right of": (0, 1), "above": (1, -1), "below": (1, 1)}
ENDS = {
    "on the far left": (0, -1),
    "on the far right": (0, 1),
    "at the very top": (1, -1),
    "at the very bottom": (1, 1),
}


def answer_from_graph(text: str, objects: Objects) -> str:
    """The answer by reading the text and looking into the scene graph, sharing nothing with the generator."""
    seen = list(objects.values())

    def called(word: str) -> list[dict[str, Any]]:
        found = [one for one in seen if word in (one["name"], one["category"])]
        return found

    def the(word: str) -> dict[str, Any]:
        (one,) = called(word)
        return one

    def there(word: str) -> bool:
        return bool(called(word))

    def tell(condition: bool) -> str:
        return "yes" if condition else "no"

    def end(words: str) -> dict[str, Any]:
        axis, sign = ENDS[words]
        return max(seen, key=lambda one: sign * centre(one, axis))

    def beside(place: str, word: str) -> dict[str, Any]:
        axis, sign = PLACES[place]
        (one,) = [o for o in seen if sign * (centre(o, axis) - centre(the(word), axis)) >= CLEAR]
        return one

    places, ends, one = "|".join(PLACES), "|".join(ENDS), r"(?:an?|) ?(\w+)"
    if match := re.fullmatch(rf"Is there {one} in the picture\?", text):
        return tell(there(match[1]))
    if match := re.fullmatch(r"Which word is on the sign\?|What does the sign say\?", text):
        return the("sign")["cutout"].split("/")[1]
    if match := re.fullmatch(r"Does the sign say (\w+)\?", text):
        return tell(the("sign")["cutout"] == f"sign/{match[1]}")
    if match := re.fullmatch(r"Which (\w+) is in the picture\?", text):
        return the(match[1])["name"]
    if match := re.fullmatch(rf"What (kind of thing )?is ({ends})\?", text):
        return end(match[2])["category" if match[1] else "name"]
    if match := re.fullmatch(rf"What (kind of thing )?is ({places}) the (\w+)\?", text):
        return beside(match[2], match[3])["category" if match[1] else "name"]
    if match := re.fullmatch(rf"What color is the thing ({ends})\?", text):
        return end(match[1])["attributes"][0]
    if match := re.fullmatch(r"What color is the (\w+)\?", text):
        return the(match[1])["attributes"][0]
    if match := re.fullmatch(r"How many (\w+?)s? are there\?", text):
        return str(len(seen) if match[1] == "thing" else len(called(match[1])))
    if match := re.fullmatch(r"Which is larger, the (\w+) or the (\w+)\?", text):
        return max((the(match[1]), the(match[2])), key=lambda o: o["w"] * o["h"])["name"]
    if match := re.fullmatch(r"Is the (\w+) larger than the (\w+)\?", text):
        sizes = [the(word)["w"] * the(word)["h"] for word in match.groups()]
        return tell(sizes[0] > sizes[1])
    if match := re.fullmatch(r"Is the (\w+) on the left or on the right\?", text):
        return "left" if centre(the(match[1]), 0) < 112 else "right"
    if match := re.fullmatch(rf"Is the (\w+) ({places}) the (\w+)\?", text):
        axis, sign = PLACES[match[2]]
        return tell(sign * (centre(the(match[1]), axis) - centre(the(match[3]), axis)) > 0)
    if match := re.fullmatch(rf"Which is in the picture, {one} or {one}\?", text):
        (name,) = [word for word in match.groups() if there(word)]
        return name
    if match := re.fullmatch(rf"Are there both {one} and {one}\?", text):
        return tell(there(match[1]) and there(match[2]))
    if match := re.fullmatch(rf"Is there either {one} or {one}\?", text):
        return tell(there(match[1]) or there(match[2]))
    if match := re.fullmatch(r"Is the (\w+) (\w+) or (\w+)\?", text):
        assert the(match[1])["attributes"][0] in match.groups()[1:]
        return the(match[1])["attributes"][0]
    match = re.fullmatch(r"Is the (\w+) (\w+)\?", text)
    assert match, text
    return tell(the(match[1])["attributes"] == [match[2]])


@pytest.mark.parametrize("tier", TIERS)
def test_answers_agree_with_the_scene_graph(photo_set: Path, tier: str) -> None:
    known = graphs(photo_set, tier)
    for question in questions(photo_set, tier).values():
        objects = known[question["imageId"]]["objects"]
        assert answer_from_graph(question["question"], objects) == question["answer"], question


@pytest.mark.parametrize("tier", TIERS)
def test_questions_have_gqas_fields_and_name_what_they_ask_about(photo_set: Path, tier: str) -> None:
    known, asked = graphs(photo_set, tier), questions(photo_set, tier)
    for question_id, question in asked.items():
        assert {"fullAnswer", "isBalanced", "groups", "semantic", "semanticStr", "types"} < set(question)
        assert question["types"]["detailed"] in KINDS
        objects = known[question["imageId"]]["objects"]
        words = question["question"].rstrip("?").replace(",", "").split()
        about = question["annotations"]["question"]
        for word, ids in about.items():
            for one in ids.split(","):
                called = words[int(word)]
                singular = called.removesuffix("s")
                assert called in ("What", "thing", "things") or {called, singular} & {
                    objects[one]["name"],
                    objects[one]["category"],
                }
        there = question["answer"] not in ("no", "0") or question["types"]["detailed"] not in (
            "presence",
            "count",
            "logical",
        )
        assert bool(about) == there or question["types"]["detailed"] == "logical"
        for other in question["entailed"] + question["equivalent"]:
            assert asked[other]["imageId"] == question["imageId"]
        assert question_id in question["equivalent"]
        assert len(question["question"].split()) <= 14


def test_kinds_are_equally_many_and_yes_is_half(photo_set: Path) -> None:
    asked = questions(photo_set, "train").values()
    kinds = Counter(question["types"]["detailed"] for question in asked)
    assert kinds == dict.fromkeys(KINDS, 30)
    groups: dict[str, Counter[str]] = defaultdict(Counter)
    for question in asked:
        if question["answer"] in ("yes", "no"):
            groups[question["groups"]["local"]][question["answer"]] += 1
    assert all(abs(answers["yes"] - answers["no"]) <= 1 for answers in groups.values())


def test_guesses_without_the_picture_are_near_chance(photo_set: Path) -> None:
    for table in read(photo_set / "guessing.json").values():
        for kind in ("comparison", "logical"):
            assert abs(table[kind]["blind"] - table[kind]["chance"]) <= 0.2
    assert "test_cutouts" in dataset.guessing_table(photo_set).splitlines()[0]


def test_cutouts_of_their_test_were_never_trained_on(photo_set: Path) -> None:
    shown = {
        tier: {one["cutout"] for graph in graphs(photo_set, tier).values() for one in graph["objects"].values()}
        for tier in TIERS
    }
    trained = shown["train"] | shown["val"] | shown["test_combinations"]
    assert {cutout for cutout in trained & shown["test_cutouts"] if not cutout.startswith("sign/")} == set()
    assert "mammal/yak.png" in shown["test_cutouts"]
    assert not any("yak" in question["question"] for question in questions(photo_set, "test_cutouts").values())


def test_combinations_of_their_test_were_never_trained_on(photo_set: Path) -> None:
    pairs = Combinations(RECIPE.seed, RECIPE.combinations_held_out)

    def together(tier: str) -> list[set[tuple[str, ...]]]:
        return [
            {
                tuple(sorted(pair))
                for pair in combinations([one["name"] for one in graph["objects"].values()], 2)
                if "sign" not in pair
            }
            for graph in graphs(photo_set, tier).values()
        ]

    trained = set().union(*together("train"), *together("val"))
    assert not any(pairs.hold_out(*pair) for pair in trained)
    new = set().union(*together("test_combinations")) - trained
    assert any(pairs.hold_out(*pair) for pair in new)
    known = graphs(photo_set, "test_combinations")
    for question in questions(photo_set, "test_combinations").values():
        objects = known[question["imageId"]]["objects"]
        identities = {i: one["cutout"] if one["name"] == "sign" else one["name"] for i, one in objects.items()}
        about = [ids.split(",") for ids in question["annotations"]["question"].values()]
        if len(about) == 2:
            assert pairs.hold_out(*(identities[one] for (one, *_) in about)), question
        asked = [identities[one] for ids in about for one in ids]
        assert not asked or any(pairs.hold_out(one, other) for one in asked for other in identities.values()), question


@pytest.mark.parametrize("tier", TIERS)
def test_pictures_masks_and_graphs_belong_together(photo_set: Path, tier: str) -> None:
    images = photo_set / ("images" if tier == "train" else "gqa/data/images")
    for scene, graph in graphs(photo_set, tier).items():
        with Image.open(images / f"{scene}.jpg") as picture:
            assert picture.size == (graph["width"], graph["height"]) == (224, 224)
        with Image.open(photo_set / "gqa" / "masks" / f"{scene}.png") as mask:
            values = np.bincount(np.asarray(mask).ravel())
        assert values[1:].tolist() == [one["pixels"] for one in graph["objects"].values()]
        for one in graph["objects"].values():
            assert all(relation["object"] in graph["objects"] for relation in one["relations"])


def test_training_files_have_llavas_format(photo_set: Path) -> None:
    samples = read(photo_set / "finetune.json")
    asked = questions(photo_set, "train")
    assert [sample["id"] for sample in samples] == list(asked)
    for sample in samples:
        human, gpt = sample["conversations"]
        question = asked[sample["id"]]
        assert human == {"from": "human", "value": f"<image>\n{question['question']}{dataset.SHORT_ANSWER}"}
        assert gpt == {"from": "gpt", "value": question["answer"]}
        assert (photo_set / "images" / sample["image"]).is_file()
    captions = read(photo_set / "pretrain.json")
    assert len(captions) == RECIPE.train_scenes
    assert all(caption["conversations"][0]["value"].startswith("<image>\n") for caption in captions)


def test_evaluation_files_are_what_the_drivers_read(photo_set: Path) -> None:
    for tier in TIERS[1:]:
        path = photo_set / "gqa" / f"llava_gqa_{tier}_balanced.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        asked = questions(photo_set, tier)
        assert [line["question_id"] for line in lines] == list(asked)
        for line in lines:
            assert line["text"] == asked[line["question_id"]]["question"] + dataset.SHORT_ANSWER
            with Image.open(photo_set / "gqa" / "data" / "blank_images" / line["image"]) as blank:
                assert blank.getextrema() == ((255, 255),) * 3
        assert len(eval_gqa.read_questions(photo_set / "gqa" / "data" / f"{tier}_balanced_questions.json")) == len(
            lines
        )


def test_the_same_recipe_makes_the_same_files(
    pictures: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> None:
    small = dataset.Recipe(0, 12, 20, 4, 10, 6, 10, 0.2)
    folders = [tmp_path_factory.mktemp(f"again{number}") for number in range(3)]
    for folder, recipe in zip(folders, (small, small, dataset.Recipe(1, 12, 20, 4, 10, 6, 10, 0.2)), strict=True):
        dataset.make(folder, recipe, *pictures)
    one, again, other = (
        {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
        for folder in folders
    )
    assert one == again
    assert one != other


def test_plural_of_every_category_is_read_back() -> None:
    assert all(not category.endswith("s") for category in cutouts.CATALOG)
