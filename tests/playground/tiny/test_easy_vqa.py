import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import easy_vqa as package
import pytest
from PIL import Image

from playground.tiny import easy_vqa
from playground.tiny.easy_vqa import SHORT_ANSWER, Facts, Question, facts_of, finetune_sample, gqa_types


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return easy_vqa.build(tmp_path_factory.mktemp("data"))


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def read_lines(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def pixels_of(folder: Path) -> set[str]:
    return {hashlib.sha256(Image.open(path).tobytes()).hexdigest() for path in folder.glob("*.png")}


def test_counts_are_those_the_package_states(data: Path) -> None:
    assert len(list((data / "images/train").glob("*.png"))) == 4_000
    assert len(list((data / "images/test").glob("*.png"))) == 1_000
    assert len(read(data / "pretrain.json")) == len(read(data / "finetune.json")) == 4_000
    assert sum(len(sample["conversations"]) for sample in read(data / "finetune.json")) == 2 * 38_575
    assert len(read(data / "gqa/data/testdev_all_questions.json")) == 9_673
    answers = {entry["answer"] for entry in read(data / "gqa/data/testdev_all_questions.json").values()}
    assert answers == set(easy_vqa.ANSWERS) == set(package.get_answers())
    assert len(answers) == 13


def test_test_split_is_not_in_the_training_files(data: Path) -> None:
    samples = read(data / "pretrain.json") + read(data / "finetune.json")
    trained = {sample["image"] for sample in samples}
    assert {Path(name).parent.name for name in trained} == {"train"}
    assert all((data / "images" / name).is_file() for name in trained)
    assert pixels_of(data / "images/train").isdisjoint(pixels_of(data / "images/test"))
    assert pixels_of(data / "gqa/data/images") == pixels_of(data / "images/test")


def test_finetune_keeps_every_question_of_its_picture(data: Path) -> None:
    texts, answers, pictures = package.get_train_questions()
    expected = Counter(zip(pictures, texts, answers, strict=True))
    found: Counter[tuple[int, str, str]] = Counter()
    for sample in read(data / "finetune.json"):
        first, *_ = sample["conversations"]
        assert first["value"].startswith("<image>\n")
        assert first["value"].endswith(SHORT_ANSWER)
        humans, gpts = sample["conversations"][::2], sample["conversations"][1::2]
        assert {turn["from"] for turn in humans} == {"human"}
        assert {turn["from"] for turn in gpts} == {"gpt"}
        assert sum(turn["value"].count("<image>") for turn in humans) == 1
        assert sum(turn["value"].count(SHORT_ANSWER) for turn in humans) == 1
        for human, gpt in zip(humans, gpts, strict=True):
            question = human["value"].removeprefix("<image>\n").removesuffix(SHORT_ANSWER)
            found[int(Path(sample["image"]).stem), question, gpt["value"]] += 1
    assert found == expected


def test_turns_are_shuffled_by_the_seed_alone(data: Path, tmp_path: Path) -> None:
    questions = easy_vqa.by_picture(easy_vqa.read_questions("train"))[0]
    sample = read(data / "finetune.json")[0]
    assert sample != finetune_sample(0, questions)
    easy_vqa.write_training_files(tmp_path, easy_vqa.Recipe())
    assert (tmp_path / "finetune.json").read_bytes() == (data / "finetune.json").read_bytes()
    easy_vqa.write_training_files(tmp_path, easy_vqa.Recipe(seed=1))
    assert (tmp_path / "finetune.json").read_bytes() != (data / "finetune.json").read_bytes()


def test_pretrain_is_a_caption_for_each_picture(data: Path) -> None:
    for sample in read(data / "pretrain.json"):
        human, gpt = sample["conversations"]
        assert human["value"].startswith("<image>\n")
        assert gpt["value"].split()[0] == "a"
    assert read(data / "pretrain.json")[0]["conversations"][1] == {"from": "gpt", "value": "a blue rectangle"}


@pytest.mark.parametrize(
    ("lines", "caption"),
    [
        ([("what is the blue shape?", "rectangle")], "a blue rectangle"),
        ([("what color is the circle?", "teal")], "a teal circle"),
        ([("what color is the shape?", "teal")], "a teal shape"),
        ([("is there not a red shape?", "no"), ("is no circle present?", "yes")], "a red shape"),
        ([("does the image contain a triangle?", "yes")], "a triangle"),
        ([("does the image not contain a triangle?", "yes"), ("is there a red shape?", "no")], "a shape"),
    ],
)
def test_caption_says_what_the_questions_assert_and_no_more(lines: list[tuple[str, str]], caption: str) -> None:
    assert facts_of(Question(text, answer, 0) for text, answer in lines).caption == caption


def test_contradicting_questions_are_an_error() -> None:
    lines = [Question("is there a red shape?", "yes", 0), Question("what color is the shape?", "blue", 0)]
    with pytest.raises(ValueError, match=r"\['blue', 'red'\] of one picture contradict each other"):
        facts_of(lines)


def test_sampled_questions_are_fixed(data: Path) -> None:
    ids = [line["question_id"] for line in read_lines(data / "gqa/llava_gqa_testdev_balanced.jsonl")]
    assert len(ids) == len(set(ids)) == 2_000
    digest = hashlib.sha256(" ".join(ids).encode()).hexdigest()
    assert digest.startswith("23add988c028cb17"), (
        "the report's default questions changed; numbers are no longer comparable"
    )


@pytest.mark.parametrize("tier", ["balanced", "all"])
def test_gqa_files_agree_and_have_the_official_fields(data: Path, tier: str) -> None:
    lines = read_lines(data / f"gqa/llava_gqa_testdev_{tier}.jsonl")
    entries = read(data / f"gqa/data/testdev_{tier}_questions.json")
    texts, answers, pictures = package.get_test_questions()
    assert [line["question_id"] for line in lines] == list(entries)
    for line in lines:
        entry = entries[line["question_id"]]
        number = int(line["question_id"])
        assert (entry["question"], entry["answer"]) == (texts[number], answers[number])
        assert line["text"] == entry["question"] + SHORT_ANSWER
        assert line["image"] == f"{entry['imageId']}.png" == f"{pictures[number]}.png"
    assert set(line) == {"question_id", "image", "text", "category"}
    assert set(entry) == {
        "imageId", "question", "answer", "fullAnswer", "isBalanced", "groups", "entailed", "equivalent", "types",
        "annotations", "semantic", "semanticStr",
    }  # fmt: skip
    assert all(entry["isBalanced"] for entry in entries.values())


@pytest.mark.parametrize(
    ("text", "answer", "types"),
    [
        ("is there a circle?", "yes", ("verify", "obj", "exist")),
        ("is no circle present?", "yes", ("verify", "obj", "existNot")),
        ("is a red shape present?", "no", ("verify", "attr", "existAttr")),
        ("does the image not contain a red shape?", "no", ("verify", "attr", "existAttrNot")),
        ("what color is the circle?", "red", ("query", "attr", "queryAttr")),
        ("what is the red shape?", "circle", ("query", "obj", "queryObj")),
    ],
)
def test_question_types(text: str, answer: str, types: tuple[str, str, str]) -> None:
    assert tuple(gqa_types(Question(text, answer, 0)).values()) == types


def test_every_official_question_form_has_a_type() -> None:
    kinds = Counter(gqa_types(question)["structural"] for question in easy_vqa.read_questions("test"))
    assert kinds == {"verify": 7_136, "query": 2_537}


def test_blank_pictures_share_names_and_sizes(data: Path) -> None:
    blank, shown = data / "gqa/data/blank_images", data / "gqa/data/images"
    assert sorted(path.name for path in blank.iterdir()) == sorted(path.name for path in shown.iterdir())
    with Image.open(blank / "0.png") as picture:
        assert picture.size == (64, 64)
        assert picture.getcolors() == [(64 * 64, (255, 255, 255))]


def test_facts_without_anything_stated() -> None:
    assert Facts().caption == "a shape"
