"""Easy-VQA (PyPI ``easy-vqa``, Victor Zhou, MIT) in the formats that LLaVA trains on and GQA evaluates in.

::

    playground/data/easy_vqa/
      images/{train,test}/<n>.png
      pretrain.json                                 stage 1: one caption for each train picture
      finetune.json                                 stage 2: one dialogue for each train picture
      gqa/llava_gqa_testdev_{balanced,all}.jsonl    what the answering driver reads
      gqa/data/testdev_{balanced,all}_questions.json  what the evaluator reads
      gqa/data/images/<n>.png
      gqa/data/blank_images/<n>.png                 white ones, for what a model answers without looking

``all`` is the whole official test split, ``balanced`` a fixed sample of it. Nothing of the test split is in the
training files.
"""

import argparse
import json
import random
import re
import shutil
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import easy_vqa as package
from PIL import Image

from playground.cache import cached, recipe_key

DATA_ROOT = Path("playground/data")
COLORS = ("black", "blue", "brown", "gray", "green", "red", "teal", "yellow")
SHAPES = ("circle", "rectangle", "triangle")
ANSWERS = (*COLORS, *SHAPES, "yes", "no")
# The phrase by which LLaVA-1.5 asks for a short answer, once in a dialogue.
SHORT_ANSWER = "\nAnswer the question using a single word or phrase."
INSTRUCTIONS = (
    "Describe this picture in a few words.",
    "What does the picture show?",
    "Name what you see.",
    "Give a short caption for the image.",
)


@dataclass(frozen=True)
class Recipe:
    """What the conversion may choose: the order of turns and which test questions are sampled, both by ``seed``."""

    seed: int = 0
    sampled_questions: int = 2_000


@dataclass(frozen=True)
class Question:
    """One line of the package: ``picture`` is its number within the split."""

    text: str
    answer: str
    picture: int

    @property
    def asks_yes_or_no(self) -> bool:
        return self.answer in ("yes", "no")

    @property
    def is_negated(self) -> bool:
        return re.search(r"\b(no|not)\b", self.text) is not None

    @property
    def is_affirmed(self) -> bool:
        """A yes-or-no question whose answer says that the thing is there: "is there not a red shape?" - "no"."""
        return self.asks_yes_or_no and (self.answer == "yes") != self.is_negated

    @property
    def is_about_color(self) -> bool:
        return "color" in self.text if not self.asks_yes_or_no else bool(words_of(self.text, COLORS))


@dataclass(frozen=True)
class Facts:
    """What the questions of one picture say is in it; None where they leave it open."""

    color: str | None = None
    shape: str | None = None

    @property
    def caption(self) -> str:
        return " ".join(("a", *filter(None, (self.color, self.shape or "shape"))))


def read_questions(split: str) -> list[Question]:
    texts, answers, pictures = {"train": package.get_train_questions, "test": package.get_test_questions}[split]()
    return [Question(*line) for line in zip(texts, answers, pictures, strict=True)]


def read_picture_paths(split: str) -> dict[int, Path]:
    paths = {"train": package.get_train_image_paths, "test": package.get_test_image_paths}[split]()
    return {number: Path(paths[number]) for number in sorted(paths)}


def words_of(text: str, vocabulary: Iterable[str]) -> set[str]:
    return set(re.findall(r"\w+", text)) & set(vocabulary)


def facts_of(questions: Iterable[Question]) -> Facts:
    """Collect what the answers assert: "is there not a red shape?" - "no" says red, "what shape ..." says the answer.

    Denials ("is there a red shape?" - "no") say nothing: a caption tells what there is. Raises ValueError if two
    questions contradict each other.
    """
    stated: set[str] = set()
    for question in questions:
        if not question.asks_yes_or_no:
            stated |= words_of(f"{question.text} {question.answer}", COLORS + SHAPES)
        elif question.is_affirmed:
            stated |= words_of(question.text, COLORS + SHAPES)
    colors, shapes = sorted(stated & set(COLORS)), sorted(stated & set(SHAPES))
    if len(colors) > 1 or len(shapes) > 1:
        raise ValueError(
            f"facts {colors + shapes} of one picture contradict each other; the package holds one shape each"
        )
    return Facts(next(iter(colors), None), next(iter(shapes), None))


def by_picture(questions: Iterable[Question]) -> dict[int, list[Question]]:
    groups: dict[int, list[Question]] = defaultdict(list)
    for question in questions:
        groups[question.picture].append(question)
    return dict(sorted(groups.items()))


def turns(human: str, gpt: str) -> list[dict[str, str]]:
    return [{"from": "human", "value": human}, {"from": "gpt", "value": gpt}]


def pretrain_sample(picture: int, facts: Facts, instruction: str) -> dict[str, object]:
    """One caption in the format of LLaVA's stage 1."""
    return {
        "id": f"easy_vqa_train_{picture}",
        "image": f"train/{picture}.png",
        "conversations": turns(f"<image>\n{instruction}", facts.caption),
    }


def finetune_sample(picture: int, questions: list[Question]) -> dict[str, object]:
    """One dialogue in the format of LLaVA-1.5's mix: picture and answer format stand in the first turn only."""
    opening, *others = questions
    conversations = turns(f"<image>\n{opening.text}{SHORT_ANSWER}", opening.answer)
    for question in others:
        conversations += turns(question.text, question.answer)
    return {"id": f"easy_vqa_train_{picture}", "image": f"train/{picture}.png", "conversations": conversations}


def gqa_types(question: Question) -> dict[str, str]:
    """GQA's three ways to sort questions, as far as they apply to pictures of one shape."""
    if question.asks_yes_or_no:
        detailed = "exist" + ("Attr" if question.is_about_color else "") + ("Not" if question.is_negated else "")
        structural = "verify"
    else:
        detailed = "queryAttr" if question.is_about_color else "queryObj"
        structural = "query"
    return {"structural": structural, "semantic": "attr" if question.is_about_color else "obj", "detailed": detailed}


def full_answer(question: Question) -> str:
    if question.asks_yes_or_no:
        return question.answer.capitalize() + "."
    return f"The shape is {question.answer}." if question.is_about_color else f"The shape is a {question.answer}."


def gqa_question(question: Question) -> dict[str, object]:
    """One entry of GQA's question files; the package has no scene graphs, so the functional programs are empty.

    GQA scores balanced questions only. Here each file is scored whole, so every entry says it is one.
    """
    return {
        "imageId": str(question.picture),
        "question": question.text,
        "answer": question.answer,
        "fullAnswer": full_answer(question),
        "isBalanced": True,
        "groups": {"global": None, "local": None},
        "entailed": [],
        "equivalent": [],
        "types": gqa_types(question),
        "annotations": {"question": {}, "answer": {}, "fullAnswer": {}},
        "semantic": [],
        "semanticStr": "",
    }


def llava_question(question_id: str, question: Question) -> dict[str, str]:
    """One line of the file that LLaVA's answering driver reads."""
    return {
        "question_id": question_id,
        "image": f"{question.picture}.png",
        "text": question.text + SHORT_ANSWER,
        "category": "default",
    }


def write_json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def write_jsonl(path: Path, lines: Iterable[object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def write_training_files(folder: Path, recipe: Recipe) -> None:
    draw = random.Random(recipe.seed)
    captions, dialogues = [], []
    for picture, questions in by_picture(read_questions("train")).items():
        captions.append(pretrain_sample(picture, facts_of(questions), draw.choice(INSTRUCTIONS)))
        dialogues.append(finetune_sample(picture, draw.sample(questions, len(questions))))
    write_json(folder / "pretrain.json", captions)
    write_json(folder / "finetune.json", dialogues)


def write_evaluation_files(folder: Path, recipe: Recipe) -> None:
    questions = {str(number): question for number, question in enumerate(read_questions("test"))}
    sampled = set(random.Random(recipe.seed).sample(sorted(questions), recipe.sampled_questions))
    for tier, ids in {"balanced": [i for i in questions if i in sampled], "all": list(questions)}.items():
        write_jsonl(folder / f"llava_gqa_testdev_{tier}.jsonl", (llava_question(i, questions[i]) for i in ids))
        entries = {i: gqa_question(questions[i]) for i in ids}
        write_json(folder / "data" / f"testdev_{tier}_questions.json", entries)


def copy_pictures(split: str, folder: Path) -> None:
    folder.mkdir(parents=True)
    for number, source in read_picture_paths(split).items():
        shutil.copyfile(source, folder / f"{number}.png")


def write_blank_pictures(folder: Path, like: Path) -> None:
    """White pictures with the names and sizes of those in ``like``."""
    folder.mkdir(parents=True)
    for picture in sorted(like.glob("*.png")):
        with Image.open(picture) as original:
            Image.new("RGB", original.size, "white").save(folder / picture.name)


def convert(folder: Path, recipe: Recipe) -> None:
    """Write the tree of the module's docstring into the empty ``folder``."""
    copy_pictures("train", folder / "images" / "train")
    copy_pictures("test", folder / "images" / "test")
    copy_pictures("test", folder / "gqa" / "data" / "images")
    write_blank_pictures(folder / "gqa" / "data" / "blank_images", like=folder / "images" / "test")
    write_training_files(folder, recipe)
    write_evaluation_files(folder / "gqa", recipe)


def build(root: Path = DATA_ROOT, recipe: Recipe = Recipe()) -> Path:
    """Convert the installed package once per recipe; return the folder, ``root/easy_vqa-<key>``."""
    sources = [Path(__file__)]
    for split in ("train", "test"):
        sources += [Path(package.__file__).parent / "data" / split / "questions.json"]
        sources += read_picture_paths(split).values()
    return cached(root, "easy_vqa", recipe_key(asdict(recipe), sources), lambda folder: convert(folder, recipe))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, default=DATA_ROOT, help="folder to put easy_vqa/ into")
    print(build(parser.parse_args().root))


if __name__ == "__main__":
    main()
