"""``load_pretrained_model`` on folders that upstream wrote, and on what is no checkpoint."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from llava.errors import UserError
from llava.mm_utils import process_images, tokenizer_image_token
from llava.model.builder import load_pretrained_model

CASES = {
    "asset_mlp": ("llava_tiny_mlp2x_gelu", False),
    "asset_bin": ("llava_tiny_mlp2x_gelu_bin", False),
    "pretrain_plus_base": ("llava-tiny-pretrain", True),
    "lora_plus_base": ("llava-tiny-lora", True),
}


@pytest.fixture(scope="module")
def checkpoints(assets, goldens, tmp_path_factory):
    """Upstream's output folders with paths that exist here."""
    root = tmp_path_factory.mktemp("checkpoints")
    for folder in (goldens / "load").iterdir():
        if not folder.is_dir():
            continue
        shutil.copytree(folder, root / folder.name)
        for file in (root / folder.name).glob("*.json"):
            file.write_text(file.read_text().replace("@GOLDENS@/assets", str(assets)))
    for folder, needs_base in CASES.values():
        if not needs_base:
            (root / folder).symlink_to(assets / folder)
    return root


def load(path, base=None, **kwargs):
    return load_pretrained_model(str(path), base and str(base), path.name, device="cpu", **kwargs)


@pytest.mark.parametrize("name", CASES)
def test_upstreams_checkpoints(name, checkpoints, assets, goldens):
    case = json.loads((goldens / "load" / "cases.json").read_text())[name]
    folder, needs_base = CASES[name]
    tokenizer, model, processor, context = load(
        checkpoints / folder, assets / "vicuna_tiny" if needs_base else None, torch_dtype=torch.float16
    )
    assert (type(model).__name__, len(tokenizer), context) == (case["cls"], case["tokenizer_len"], case["context_len"])
    assert not model.training
    assert {str(p.dtype) for p in model.parameters()} == set(case["dtypes"])
    assert processor.crop_size["height"] == 28

    ids = tokenizer_image_token(case["prompt"], tokenizer, return_tensors="pt").unsqueeze(0)
    assert ids.tolist() == [case["ids"]]
    image = process_images([Image.open(goldens / "images" / "img_01_64x48.png")], processor, model.config)
    model.float()
    with torch.no_grad():
        logits = model(ids, images=image).logits[..., :64]
    np.testing.assert_allclose(logits, np.load(goldens / "load" / "logits.npz")[name], atol=1e-3)
    generated = model.generate(ids, images=image, max_new_tokens=8, do_sample=False)
    assert generated.tolist() == [row[1:] for row in case["generated"]]


def test_dtype_on_a_cpu_is_float32_unless_asked(checkpoints):
    _, model, _, _ = load(checkpoints / "llava_tiny_mlp2x_gelu")
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    _, model, _, _ = load(checkpoints / "llava_tiny_mlp2x_gelu", dtype=torch.bfloat16)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


def test_config_decides_not_the_name(checkpoints, tmp_path, caplog):
    """Upstream takes the class from the folder's name (defect M11)."""
    misnamed = tmp_path / "my-mpt-lora-model"
    misnamed.symlink_to(checkpoints / "llava_tiny_mlp2x_gelu")
    _, model, _, _ = load(misnamed)
    assert type(model).__name__ == "LlavaLlamaForCausalLM"
    assert "is called a LoRA, but has no adapter_config.json" in caplog.text


def test_a_text_model_has_no_eyes(assets, goldens):
    case = json.loads((goldens / "load" / "cases.json").read_text())["plain_llm"]
    tokenizer, model, processor, _ = load(assets / "vicuna_tiny")
    assert (type(model).__name__, len(tokenizer), processor) == (case["cls"], case["tokenizer_len"], None)


def test_a_lora_finds_its_base_by_itself(checkpoints, caplog):
    _, model, _, _ = load(checkpoints / "llava-tiny-lora")
    assert type(model).__name__ == "LlavaLlamaForCausalLM"
    assert "is a LoRA adapter on" in caplog.text


def test_what_is_no_checkpoint(tmp_path, checkpoints, assets):
    with pytest.raises(UserError, match=r"does not exist; give an existing folder or a hub name"):
        load(tmp_path / "nowhere" / "at" / "all")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UserError, match=r"empty has no config\.json"):
        load(empty)
    half = tmp_path / "half"
    shutil.copytree(assets / "vicuna_tiny", half)
    shutil.copy(assets / "llava_tiny_mlp2x_gelu" / "config.json", half)
    with pytest.raises(UserError, match=r"lacks .* of the model's weights, first 'model\.mm_projector"):
        load(half)
    with pytest.raises(UserError, match=r"without one of them --model-base makes no sense"):
        load(checkpoints / "llava_tiny_mlp2x_gelu", assets / "vicuna_tiny")
    strange = tmp_path / "strange"
    shutil.copytree(assets / "llava_tiny_mlp2x_gelu", strange)
    config = json.loads((strange / "config.json").read_text())
    (strange / "config.json").write_text(json.dumps(config | {"model_type": "llava_gpt9"}))
    with pytest.raises(UserError, match=r"model_type 'llava_gpt9' is not supported; known are llama, llava"):
        load(strange)


def test_unknown_arguments_are_type_errors(checkpoints):
    """lmms-eval tries ``multimodal=True`` and relies on it."""
    with pytest.raises(TypeError, match="multimodal"):
        load(checkpoints / "llava_tiny_mlp2x_gelu", multimodal=True)
