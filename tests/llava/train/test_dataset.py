import json
import logging
import pickle
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from llava import conversation as conversation_lib
from llava.constants import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from llava.conversation import conv_templates
from llava.errors import UserError
from llava.mm_utils import load_image_processor, process_images
from llava.tokenization import load_tokenizer
from llava.train.dataset import (
    DataCollatorForSupervisedDataset,
    LazySupervisedDataset,
    load_picture,
    make_supervised_data_module,
)

PICTURES = {"wide.png": ((64, 48), "red"), "tall.png": ((30, 70), "blue"), "square.png": ((28, 28), "green")}


def sample(*values: str, **fields) -> dict:
    turns = [{"from": ("human", "gpt")[number % 2], "value": value} for number, value in enumerate(values)]
    return {"conversations": turns, **fields}


WIDE = sample("<image>\nWhat is it?", "A cup.", id="wide", image="wide.png")
TALL = sample("<image>\nAnd this?", "A tower.", id="tall", image="tall.png")
TEXT = sample("Hello?", "Hi.", id="text")
PAIR = sample("Is <image> like <image>?", "No.", id="pair", image=["wide.png", "tall.png"])
MISSING = sample("<image>\nWhat?", "A cup.", id="gone", image="gone.png")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("images")
    for name, (size, color) in PICTURES.items():
        Image.new("RGB", size, color).save(root / name)
    Image.new("RGBA", (9, 9), (255, 0, 0, 0)).save(root / "clear.png")
    (root / "text.png").write_text("no picture")
    (root / "cut.png").write_bytes((root / "wide.png").read_bytes()[:60])
    return root


@pytest.fixture(scope="module")
def tokenizer(assets: Path):
    return load_tokenizer(str(assets / "tokenizer_legacy"), model_max_length=96)


@pytest.fixture(scope="module")
def processor(assets: Path):
    return load_image_processor(str(assets / "clip_tiny"))


@pytest.fixture
def build(tmp_path, folder, tokenizer, processor) -> Callable[..., LazySupervisedDataset]:
    """A data set of samples, in multimodal training unless told otherwise."""

    def make(samples, **changes) -> LazySupervisedDataset:
        path = tmp_path / "data.json"
        path.write_text(json.dumps(samples))
        settings = {
            "data_path": str(path),
            "image_folder": str(folder),
            "image_aspect_ratio": "pad",
            "is_multimodal": True,
            "image_processor": processor,
            "mm_use_im_start_end": False,
        }
        data_args = SimpleNamespace(**settings | changes)
        return make_supervised_data_module(tokenizer, data_args)["train_dataset"]

    return make


def test_collator_equals_upstream(goldens, build, tokenizer, folder):
    recorded = json.loads((goldens / "preprocess/collator_v1_legacy_96.json").read_text())
    samples = {entry["id"]: entry for entry in json.loads((goldens / "data/preprocess_samples.json").read_text())}
    chosen = [
        samples[name] | ({"image": "wide.png"} if "image" in samples[name] else {}) for name in recorded["instances"]
    ]
    dataset = build(chosen)
    items = [dataset[index] for index in range(4)]
    assert [len(item["input_ids"]) for item in items] == [76, 89, 2869, 73]
    batch = DataCollatorForSupervisedDataset(tokenizer)(items)
    assert list(batch) == recorded["batch_keys"]
    assert {key: str(value.dtype) for key, value in batch.items()} == recorded["dtypes"]
    assert {key: list(value.shape) for key, value in batch.items()} == recorded["shapes"]
    assert batch["input_ids"].tolist() == recorded["input_ids"]
    assert batch["attention_mask"].tolist() == recorded["attention_mask"]
    # the last sample is one that upstream masks: its answer says <unk>
    assert batch["labels"].tolist()[:3] == recorded["labels"][:3]
    assert set(recorded["labels"][3]) == {IGNORE_INDEX}
    assert (batch["labels"][3] != IGNORE_INDEX).sum() == 9


def test_lengths_equal_upstream(goldens, build, monkeypatch):
    recorded = json.loads((goldens / "sampler.json").read_text())["dataset_preprocess_samples.json"]
    samples = json.loads((goldens / "data/preprocess_samples.json").read_text())
    # the template that takes every one of these samples
    monkeypatch.setattr(conversation_lib, "default_conversation", conv_templates["llava_v0"])
    dataset = build(samples, bad_image_policy="skip")
    assert len(dataset) == recorded["len"]
    assert dataset.lengths == recorded["lengths"]
    assert dataset.modality_lengths == recorded["modality_lengths"]
    assert dataset.lengths is dataset.lengths


def test_empty_sample_has_a_length_with_a_sign(build):
    dataset = build([sample("", "", id=0), sample("", "", id=1, image="wide.png")])
    assert dataset.modality_lengths == [-1, 1]
    assert dataset.lengths == [0, 128]


@pytest.mark.parametrize("aspect_ratio", ["pad", "square"])
def test_pixels_are_those_of_inference(aspect_ratio, build, folder, processor):
    item = build([WIDE], image_aspect_ratio=aspect_ratio)[0]
    assert list(item) == ["input_ids", "labels", "image", "index"]
    config = SimpleNamespace(image_aspect_ratio=aspect_ratio)
    assert torch.equal(item["image"], process_images([Image.open(folder / "wide.png")], processor, config)[0])
    assert item["image"].shape == (3, 28, 28)


def test_pad_and_square_differ(build):
    assert not torch.equal(build([WIDE])[0]["image"], build([WIDE], image_aspect_ratio="square")[0]["image"])


def test_anyres_gives_tiles_and_sizes(build, tokenizer):
    dataset = build([WIDE, TALL, TEXT], image_aspect_ratio="anyres", image_grid_pinpoints=[[56, 28], [28, 84]])
    items = [dataset[index] for index in range(3)]
    assert [tuple(item["image"].shape) for item in items] == [(3, 3, 28, 28), (4, 3, 28, 28), (1, 3, 28, 28)]
    collator = DataCollatorForSupervisedDataset(tokenizer)
    batch = collator(items)
    assert [len(image) for image in batch["images"]] == [3, 4, 1]
    assert collator(items[2:])["images"].ndim == 5  # alone in a batch too, a text goes the way of tiles
    assert batch["image_sizes"] == [(64, 48), (30, 70), (28, 28)]


def test_text_only_samples_have_a_blank_picture_in_multimodal_training_only(build):
    item = build([TEXT])[0]
    assert item["image"].shape == (3, 28, 28)
    assert not item["image"].any()
    assert "image" not in build([TEXT], is_multimodal=False, image_processor=None, image_folder=None)[0]


def test_text_only_training_has_no_images_in_its_batches(build, tokenizer):
    dataset = build([TEXT, TEXT], is_multimodal=False)
    batch = DataCollatorForSupervisedDataset(tokenizer)([dataset[0], dataset[1]])
    assert list(batch) == ["input_ids", "labels", "attention_mask"]


def test_several_pictures_come_in_the_order_of_the_text(build, tokenizer):
    dataset = build([PAIR, TEXT, WIDE])
    pair, text, wide = (dataset[index] for index in range(3))
    assert [int(token) for token in pair["input_ids"] if token == IMAGE_TOKEN_INDEX] == [IMAGE_TOKEN_INDEX] * 2
    assert torch.equal(pair["image"][0], wide["image"])
    batch = DataCollatorForSupervisedDataset(tokenizer)([wide, pair, text])
    assert batch["images"].shape == (4, 3, 28, 28)
    assert torch.equal(batch["images"][0], batch["images"][1])
    assert torch.equal(batch["images"][2], pair["image"][1])
    assert not batch["images"][3].any()


def test_a_picture_whose_token_is_cut_off_goes_too(build, tokenizer):
    far = sample(f"<image> {'word ' * 80}<image>", "Yes.", id="far", image=["wide.png", "tall.png"])
    dataset = build([far, WIDE])
    batch = DataCollatorForSupervisedDataset(tokenizer)([dataset[0], dataset[1]])
    assert (batch["input_ids"] == IMAGE_TOKEN_INDEX).sum(dim=1).tolist() == [1, 1]
    assert batch["images"].shape[0] == 2


def test_start_end_tokens_surround_the_picture(build, tokenizer):
    item = build([WIDE], mm_use_im_start_end=True)[0]
    assert tokenizer.decode([token for token in item["input_ids"] if token >= 0]).count("<im_start>") == 1


def test_template_is_the_one_at_construction(build, monkeypatch):
    monkeypatch.setattr(conversation_lib, "default_conversation", conv_templates["plain"])
    dataset = build([WIDE])
    sent = pickle.loads(pickle.dumps(dataset))
    monkeypatch.setattr(conversation_lib, "default_conversation", conv_templates["v1"])
    assert dataset[0]["input_ids"].tolist() == sent[0]["input_ids"].tolist()
    assert len(dataset[0]["input_ids"]) < 8, "a caption, not a chat"


def test_transparency_is_dropped(folder):
    assert load_picture(folder / "clear.png").getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gone.png", "does not exist; check --image_folder and the path in the sample"),
        ("text.png", "cannot be read (cannot identify image file"),
        ("cut.png", "cannot be read ("),
    ],
)
def test_bad_picture_names_file_sample_and_rule(name, message, build, folder):
    dataset = build([WIDE, {**MISSING, "image": name}])
    dataset[0]
    with pytest.raises(UserError) as error:
        dataset[1]
    assert str(error.value).startswith(
        f"{dataset.data_path}, sample 1 (id 'gone'): its image {folder / name} {message}"
    )
    assert "\n" not in str(error.value)


def test_first_broken_sample_is_named_and_the_others_counted(build):
    samples = [TEXT, sample("a", "b", id="x") | {"conversations": []}, TEXT, "hello", sample("<image>", "a", id="y")]
    with pytest.raises(UserError) as error:
        build(samples)
    message = str(error.value)
    assert "data.json, sample 1 (id 'x'): its conversations must be a list of at least one turn" in message
    assert message.endswith("(2 more of 5 samples break a rule)")
    with pytest.raises(UserError, match=r"sample 1 \(id 'y'\): its text has <image> but it has no 'image'; add [^(]*$"):
        build([TEXT, sample("<image>", "a", id="y")])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_aspect_ratio": "padd"}, "image_aspect_ratio is 'padd'; it must be one of square, pad, anyres"),
        ({"bad_image_policy": "drop"}, "bad_image_policy is 'drop'; it must be one of fail, skip"),
        ({"image_processor": None}, r"data\.json has samples with images; give --vision_tower"),
        ({"image_folder": None}, r"data\.json has samples with images; give the folder they are in: --image_folder"),
        ({"image_aspect_ratio": "anyres"}, "image_aspect_ratio is anyres; it needs --image_grid_pinpoints"),
    ],
)
def test_settings_that_cannot_work(changes, message, build):
    with pytest.raises(UserError, match=message):
        build([WIDE], **changes)


def test_skip_leaves_bad_samples_out_counts_and_reports_them(build, tokenizer, caplog):
    no_image = sample("<image>\nWhat?", "A cup.", id="none")
    dataset = build([WIDE, MISSING, TALL, no_image], bad_image_policy="skip")
    collator = DataCollatorForSupervisedDataset(tokenizer)
    with caplog.at_level(logging.WARNING, logger="llava.train.dataset"):
        batch = collator([dataset[index] for index in range(4)])
    assert torch.equal(batch["input_ids"], collator([dataset[0], dataset[2]])["input_ids"])
    assert batch["images"].shape[0] == 2
    assert "skipped" not in batch
    assert collator.skipped == 2
    first, second = caplog.messages
    assert first.startswith(f"left out {dataset.data_path}, sample 1 (id 'gone'): its image ")
    assert first.endswith("(1 left out so far)")
    assert "sample 3 (id 'none'): its text has <image> but it has no 'image'" in second


def test_batch_of_skipped_samples_keeps_one_that_trains_nothing(build, tokenizer):
    dataset = build([MISSING, MISSING], bad_image_policy="skip")
    batch = DataCollatorForSupervisedDataset(tokenizer)([dataset[0], dataset[1]])
    assert batch["input_ids"].shape[0] == 1
    assert batch["attention_mask"].all()
    assert set(batch["labels"].flatten().tolist()) == {IGNORE_INDEX}
    assert batch["images"].shape == (1, 3, 28, 28)
    assert IMAGE_TOKEN_INDEX not in batch["input_ids"]


def test_workers_count_together(build, tokenizer):
    dataset = build([WIDE, MISSING] * 4, bad_image_policy="skip")
    collator = DataCollatorForSupervisedDataset(tokenizer)
    batches = list(DataLoader(dataset, batch_size=2, num_workers=2, collate_fn=collator))
    assert [len(batch["input_ids"]) for batch in batches] == [1] * 4
    assert collator.skipped == 4


def test_skip_does_not_hide_other_mistakes(build):
    with pytest.raises(UserError, match="its conversations must be a list"):
        build([{"id": 1, "conversations": []}], bad_image_policy="skip")


def test_data_module_is_what_the_trainer_takes(build, tokenizer):
    dataset = build([TEXT])
    module = make_supervised_data_module(tokenizer, dataset.data_args)
    assert set(module) == {"train_dataset", "eval_dataset", "data_collator"}
    assert module["eval_dataset"] is None
    assert isinstance(module["train_dataset"], LazySupervisedDataset)
