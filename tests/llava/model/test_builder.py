"""``load_pretrained_model`` on folders that upstream wrote, and on what is no checkpoint."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers.quantizers.quantizers_utils import should_convert_module

from llava.errors import UserError
from llava.mm_utils import process_images, tokenizer_image_token
from llava.model import builder
from llava.model.builder import load_pretrained_model

CASES = {
    "asset_mlp": ("llava_tiny_mlp2x_gelu", False),
    "asset_bin": ("llava_tiny_mlp2x_gelu_bin", False),
    "pretrain_plus_base": ("llava-tiny-pretrain", True),
    "lora_plus_base": ("llava-tiny-lora", True),
    "imstartend": ("llava-tiny-imstartend", False),
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
        if not needs_base and not (root / folder).exists():
            (root / folder).symlink_to(assets / folder)
    shutil.copy(assets / "tokenizer.model", root / "llava-tiny-imstartend")
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


def test_a_lora_with_more_tokens_than_its_base(checkpoints, assets, tmp_path):
    """Their rows were not trained, so they are where training began: at the mean of the base's (defect M10)."""
    lora = tmp_path / "llava-lora-grown"
    shutil.copytree(checkpoints / "llava-tiny-lora", lora)
    config = json.loads((lora / "config.json").read_text())
    (lora / "config.json").write_text(json.dumps(config | {"vocab_size": 1502, "mm_use_im_start_end": True}))
    tokenizer, model, _, _ = load(lora, assets / "vicuna_tiny")
    assert len(tokenizer) == 1502
    before = load_file(assets / "vicuna_tiny" / "model.safetensors")
    for weight, name in (
        (model.get_input_embeddings().weight, "model.embed_tokens.weight"),
        (model.get_output_embeddings().weight, "lm_head.weight"),
    ):
        torch.testing.assert_close(weight[:1500].detach(), before[name])
        torch.testing.assert_close(weight[1500:].detach(), before[name].mean(dim=0).expand(2, -1))


def test_a_lora_without_its_projector_is_refused(checkpoints, assets, tmp_path):
    lora = tmp_path / "llava-lora"
    shutil.copytree(checkpoints / "llava-tiny-lora", lora)
    (lora / "non_lora_trainables.bin").unlink()
    with pytest.raises(UserError, match=r"neither the base model nor .* has 'model\.mm_projector\.0\.bias'"):
        load(lora, assets / "vicuna_tiny")
    # Where the base is a LLaVA itself, nothing is missing.
    _, model, _, _ = load(lora, assets / "llava_tiny_mlp2x_gelu")
    whole = load_file(assets / "llava_tiny_mlp2x_gelu" / "model.safetensors")
    projector = model.get_model().mm_projector[0].weight.detach()
    torch.testing.assert_close(projector, whole["model.mm_projector.0.weight"])
    # Nor does PEFT save a config: the base's is the model's.
    (lora / "config.json").unlink()
    _, again, _, _ = load(lora, assets / "llava_tiny_mlp2x_gelu")
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())


def test_a_config_of_the_old_name(checkpoints, tmp_path):
    """``llava``, before transformers took it for a class of its own."""
    old = tmp_path / "llava-old"
    shutil.copytree(checkpoints / "llava_tiny_mlp2x_gelu", old)
    config = json.loads((old / "config.json").read_text())
    legacy = {"mm_resampler_type": None, "tune_mm_vision_resampler": False, "unfreeze_mm_vision_tower": False}
    (old / "config.json").write_text(json.dumps(config | legacy | {"model_type": "llava", "max_length": 4096}))
    _, model, _, _ = load(old)
    assert type(model).__name__ == "LlavaLlamaForCausalLM"
    assert model.config.mm_resampler_type is None


@pytest.mark.parametrize("folder", ["llava-tiny-lora", "llava-tiny-pretrain"])
def test_training_on_packed_weights_does_not_ask_for_them(folder, checkpoints, assets, tmp_path):
    """Upstream leaves in config.json how QLoRA packed the base; the base on the disk is whole."""
    trained = tmp_path / folder
    shutil.copytree(checkpoints / folder, trained)
    config = json.loads((trained / "config.json").read_text())
    packed = {"load_in_4bit": True, "quant_method": "bitsandbytes"}
    (trained / "config.json").write_text(json.dumps(config | {"quantization_config": packed}))
    models = [load(path, assets / "vicuna_tiny")[1] for path in (checkpoints / folder, trained)]
    expected, got = (model.state_dict() for model in models)
    assert all(torch.equal(got[name], weight) for name, weight in expected.items())


@pytest.mark.parametrize("bits", [{"load_8bit": True}, {"load_4bit": True}])
def test_quantisation_says_what_it_needs(bits, checkpoints, monkeypatch):
    monkeypatch.setattr(builder, "is_bitsandbytes_available", lambda: False)
    with pytest.raises(UserError, match="need bitsandbytes; install it with: pip install bitsandbytes"):
        load(checkpoints / "llava_tiny_mlp2x_gelu", **bits)


@pytest.mark.parametrize("options", [{"load_8bit": True}, {"load_4bit": True}])
def test_projector_and_tower_stay_whole(options, checkpoints, monkeypatch):
    """Their modules do not start with these names: a plain name in the skip list would not find them."""
    monkeypatch.setattr(builder, "is_bitsandbytes_available", lambda: True)
    seen = []
    monkeypatch.setattr(builder, "load_whole", lambda checkpoint, load_args: seen.append(load_args) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        load(checkpoints / "llava_tiny_mlp2x_gelu", **options)
    skipped = seen[0]["quantization_config"].llm_int8_skip_modules
    names = ["model.mm_projector.0", "transformer.mm_projector", "model.vision_tower.vision_tower.vision_model.encoder"]
    assert not [name for name in [*names, "lm_head"] if should_convert_module(name, skipped)]
    assert should_convert_module("model.layers.0.mlp.up_proj", skipped)


@pytest.mark.parametrize(("options", "tolerance"), [({"load_8bit": True}, 0.3), ({"load_4bit": True}, 2.0)])
def test_quantised_models_answer(options, tolerance, checkpoints):
    pytest.importorskip("bitsandbytes")
    ids, image = torch.tensor([[1, 9, 30, -200, 41, 7]]), torch.zeros(1, 3, 28, 28)
    with torch.no_grad():
        expected, got = (
            load(checkpoints / "llava_tiny_mlp2x_gelu", **settings)[1](ids, images=image).logits
            for settings in ({}, options)
        )
    assert (got - expected).abs().max() < tolerance


def test_shards(checkpoints, tmp_path):
    """What transformers writes for large models: shards and an index, under upstream's names."""
    tokenizer, model, _, _ = load(checkpoints / "llava_tiny_mlp2x_gelu")
    model.save_pretrained(tmp_path, max_shard_size="200KB")
    tokenizer.save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())["weight_map"]
    assert len(set(index.values())) > 3
    assert set(index) == set(load_file(checkpoints / "llava_tiny_mlp2x_gelu" / "model.safetensors"))
    _, again, _, _ = load(tmp_path)
    for name, value in again.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name
