"""Prompts measured without a model, against what the model makes of them."""

import json
import shutil
import threading

import pytest
import torch
from PIL import Image

from llava.errors import UserError
from llava.serve.engine import Ask
from llava.serve.prompts import PromptMeter, framed, require_marks

from .conftest import QUESTION, prompt_of

ANYRES = {"image_aspect_ratio": "anyres", "image_grid_pinpoints": [[28, 56], [56, 28], [56, 56]]}


@pytest.fixture
def folder(assets, tmp_path):
    """Config and tokenizer of upstream's tiny LLaVA, without its weights."""
    for file in (assets / "llava_tiny_mlp2x_gelu").glob("*"):
        if "safetensors" not in file.name and not file.name.endswith(".bin"):
            shutil.copy(file, tmp_path)
    return tmp_path


def change(folder, **settings) -> None:
    config = folder / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | settings))


@pytest.mark.parametrize(
    "settings",
    [
        {"image_aspect_ratio": "pad"},
        ANYRES | {"mm_patch_merge_type": "flat"},
        ANYRES | {"mm_patch_merge_type": "spatial"},
        ANYRES | {"mm_patch_merge_type": "spatial_unpad"},
    ],
    ids=lambda settings: settings.get("mm_patch_merge_type", "pad"),
)
@pytest.mark.parametrize("size", [(40, 20), (20, 60), (50, 50)])
def test_the_length_is_what_the_model_reads(size, settings, folder, plain_backend, monkeypatch):
    engine, model = plain_backend.engine, plain_backend.engine.model
    for name, value in settings.items():
        monkeypatch.setattr(model.config, name, value, raising=False)
    monkeypatch.setattr(model.get_model(), "image_newline", torch.zeros(model.config.hidden_size), raising=False)
    ask = Ask(prompt_of(QUESTION), [Image.new("RGB", size)], temperature=0.0, max_new_tokens=1)
    read = engine.answer(ask, lambda _: None, threading.Event())
    change(folder, **settings)
    meter = PromptMeter.read(str(folder), str(folder))
    assert meter.length(ask.prompt, [size]) == read.prompt_tokens
    assert meter.context_length == engine.context_length


def test_pictures_are_framed_where_the_config_says_so(folder):
    assert not PromptMeter.read(str(folder), str(folder)).frames_pictures
    change(folder, mm_use_im_start_end=True)
    assert PromptMeter.read(str(folder), str(folder)).frames_pictures
    assert framed(QUESTION) == "<im_start><image><im_end>\nWhat is on the table?"


def test_a_text_model_reads_no_pictures(assets):
    meter = PromptMeter.read(*[str(assets / "vicuna_tiny")] * 2)
    assert meter.length("What?", []) > 1
    with pytest.raises(UserError, match="this model reads text only"):
        meter.length("<image>What?", [(4, 4)])


def test_marks_and_pictures_must_be_as_many():
    require_marks("<image><image>", 2)
    with pytest.raises(UserError, match="the prompt has 1 <image> for 2 pictures; they must be as many"):
        require_marks("<image>", 2)
