"""The tower: hidden states that nothing outside disturbs, weights in the LLaVA checkpoint, several scales."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import interpolate
from transformers import CLIPVisionModel

from llava.errors import UserError
from llava.model.builder import load_config, load_pretrained_model, read_json
from llava.model.multimodal_encoder.builder import build_vision_tower
from llava.model.multimodal_encoder.clip_encoder import CLIPVisionTowerS2
from llava.train.arguments import ModelArguments, TrainingArguments
from llava.train.model_setup import wrap_with_lora


def tower_of(assets, **settings):
    settings = {"mm_vision_tower": str(assets / "clip_tiny"), "mm_vision_select_layer": -2} | settings
    return build_vision_tower(SimpleNamespace(**settings))


@pytest.fixture(scope="module")
def images():
    return torch.randn(3, 3, 28, 28, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def unfrozen(assets, tmp_path_factory):
    """A checkpoint as LLaVA-1.6's: the tower was trained, so its weights are not those of its own folder."""
    folder = tmp_path_factory.mktemp("llava-unfrozen")
    shutil.copytree(assets / "llava_tiny_mlp2x_gelu", folder, dirs_exist_ok=True)
    config = read_json(str(folder / "config.json"))
    (folder / "config.json").write_text(json.dumps(config | {"unfreeze_mm_vision_tower": True}))
    random = torch.Generator().manual_seed(2)
    weights = load_file(folder / "model.safetensors")
    for name, value in weights.items():
        if "vision_tower" in name:
            value += 0.05 * torch.randn(value.shape, generator=random)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def load(folder):
    config, model_class = load_config(read_json(str(folder / "config.json")), str(folder))
    return model_class.from_pretrained(folder, config=config)


@pytest.mark.parametrize("wish", ["output_hidden_states", "output_attentions"])
@pytest.mark.parametrize("way", ["forward", "generate"])
def test_the_language_models_hidden_states_leave_the_towers_alone(wish, way, assets, images):
    """transformers 5.23 hooks CLIP's layers twice once the language model was asked for its own; we use no hooks."""
    model = load(assets / "llava_tiny_mlp2x_gelu").eval()
    model.set_attn_implementation("eager")
    tower = model.get_vision_tower()
    tower.load_model()
    before, ids = tower(images[:1]), torch.tensor([[1, 5, -200, 7]])
    stack = tower.forward_layers(images[:1], "all")[1]
    if way == "forward":
        model(ids, images=images[:1], **{wish: True})
    else:
        model.generate(ids, images=images[:1], max_new_tokens=2, return_dict_in_generate=True, **{wish: True})
    assert torch.equal(tower(images[:1]), before)
    assert torch.equal(tower.forward_layers(images[:1], "all")[1], stack)


def test_training_mode_and_checkpointing_stop_at_the_tower(assets, images):
    """Both reach every module of a model, and a frozen tower has dropout and recomputation to lose."""
    model = load(assets / "llava_tiny_mlp2x_gelu")
    tower = model.get_vision_tower()
    tower.load_model()
    model.gradient_checkpointing_enable()
    model.train()
    assert model.model.layers[0].training
    assert not any(module.training for module in tower.modules())
    assert not tower(images).requires_grad


def test_layers_are_those_of_transformers(assets, images):
    tower = tower_of(assets)
    clip = CLIPVisionModel.from_pretrained(assets / "clip_tiny").eval()
    with torch.no_grad():
        expected = clip(images, output_hidden_states=True).hidden_states
    assert len(expected) == 6
    selected, stack = tower.forward_layers(images, (0, 3, -1))
    torch.testing.assert_close(stack, torch.stack([expected[i][:, 1:] for i in (0, 3, 5)], dim=1))
    torch.testing.assert_close(selected, expected[-2][:, 1:])
    torch.testing.assert_close(tower.feature_select(SimpleNamespace(hidden_states=expected)), selected)


def test_a_trained_tower_is_read_from_the_checkpoint(unfrozen, images, tmp_path):
    model = load(unfrozen)
    weights = load_file(unfrozen / "model.safetensors")
    for name, value in model.state_dict().items():
        assert torch.equal(value, weights[name]), name
    tower = model.get_vision_tower()
    assert tower.is_loaded
    assert tower.image_processor.crop_size["height"] == 28
    tower.load_model()
    assert not any(parameter.requires_grad for parameter in tower.parameters())

    clip = CLIPVisionModel.from_pretrained(tower.vision_tower_name)
    prefix = "model.vision_tower.vision_tower."
    own = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
    save_file(own, tmp_path / "model.safetensors", metadata={"format": "pt"})
    clip.config.save_pretrained(tmp_path)
    trained = CLIPVisionModel.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        expected = trained(images, output_hidden_states=True).hidden_states[-2][:, 1:]
    torch.testing.assert_close(tower(images), expected)

    model.save_pretrained(tmp_path / "again")
    saved = load_file(tmp_path / "again" / "model.safetensors")
    assert saved.keys() == weights.keys()
    assert all(torch.equal(saved[name], weights[name]) for name in saved)


def test_the_loader_keeps_a_trained_tower(unfrozen, tmp_path):
    _, model, processor, _ = load_pretrained_model(str(unfrozen), None, "llava-unfrozen", device="cpu")
    weights = load_file(unfrozen / "model.safetensors")
    name = "model.vision_tower.vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight"
    assert torch.equal(model.state_dict()[name], weights[name])
    assert processor is model.get_vision_tower().image_processor
    shutil.copytree(unfrozen, tmp_path, dirs_exist_ok=True)
    save_file({n: v for n, v in weights.items() if n != name}, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"lacks 1 of the model's weights, first '.*layers\.0\.mlp\.fc1\.weight'"):
        load_pretrained_model(str(tmp_path), None, "llava-unfrozen", device="cpu")


def test_lora_stays_out_of_a_tower_that_came_along(unfrozen, assets, tmp_path):
    """Upstream's targets are leaf names, and CLIP has a q_proj too (defect T7)."""
    model = wrap_with_lora(load(unfrozen), TrainingArguments(output_dir=str(tmp_path), lora_enable=True))
    wrapped = {name for name, _ in model.named_parameters() if "lora_" in name}
    assert wrapped
    assert not [name for name in wrapped if "vision_tower" in name or "mm_projector" in name]
    arguments = ModelArguments(
        vision_tower=str(assets / "clip_tiny"), mm_vision_select_layer=-2, mm_projector_type="mlp2x_gelu"
    )
    model.get_model().initialize_vision_modules(arguments)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == wrapped | {name for name, _ in model.named_parameters() if "mm_projector" in name}


def brute_force(tower, images, scale, index):
    """One scale by its definition, window by window and patch by patch."""
    k = scale // 28
    large = interpolate(images, size=(scale, scale), mode="bicubic")
    grid = torch.zeros(len(images), 4 * k, 4 * k, 32)
    class_token = torch.zeros(len(images), 1, 32)
    for row in range(k):
        for column in range(k):
            window = large[:, :, row * 28 : row * 28 + 28, column * 28 : column * 28 + 28]
            hidden = tower._hidden_states(window, {index})[index]
            class_token += hidden[:, :1] / k**2
            for patch in range(16):
                grid[:, row * 4 + patch // 4, column * 4 + patch % 4] = hidden[:, 1 + patch]
    pooled = torch.stack(
        [
            grid[:, y * k : y * k + k, x * k : x * k + k].mean(dim=(1, 2))
            for y in range(4)
            for x in range(4)
        ],
        dim=1,
    )  # fmt: skip
    return torch.cat([class_token, pooled], dim=1)


def test_s2_is_its_definition(assets):
    tower = tower_of(assets, s2=True, s2_scales="84,28,56")
    assert isinstance(tower, CLIPVisionTowerS2)
    assert (tower.s2_scales, tower.s2_split_size, tower.s2_image_size) == ([28, 56, 84], 28, 84)
    assert (tower.hidden_size, tower.num_patches) == (96, 16)
    assert tower.image_processor.crop_size["height"] == tower.image_processor.size["shortest_edge"] == 84
    images = torch.randn(2, 3, 84, 84, generator=torch.Generator().manual_seed(3))
    plain = tower_of(assets)
    with torch.no_grad():
        expected = torch.cat([brute_force(plain, images, scale, 4) for scale in (28, 56, 84)], dim=-1)
    torch.testing.assert_close(tower(images), expected[:, 1:])
    listed = tower(list(images))
    torch.testing.assert_close(torch.cat(listed), expected[:, 1:])
    selected, stack = tower.forward_layers(images, (2, -2))
    assert stack.shape == (2, 2, 16, 96)
    torch.testing.assert_close(stack[:, 1], selected)
    tower.select_feature = "cls_patch"
    torch.testing.assert_close(tower(images), expected)
    small = interpolate(images, size=(28, 28), mode="bicubic")
    tower.select_feature = "patch"
    torch.testing.assert_close(tower.forward_feature(small), expected[:, 1:, :32])


def test_s2_scales_that_do_not_divide(assets):
    with pytest.raises(UserError, match="s2_scales has 50; it must be a multiple of the smallest, 28"):
        tower_of(assets, s2=True, s2_scales="28,50")


def test_an_s2_checkpoint_comes_back(assets, tmp_path):
    """``s2`` and its scales live in config.json; the projector's input is as wide as all scales."""
    model = load(assets / "vicuna_tiny")
    arguments = ModelArguments(
        vision_tower=str(assets / "clip_tiny"), mm_vision_select_layer=-2, mm_projector_type="mlp2x_gelu",
        s2=True, s2_scales="28,56", mm_use_im_patch_token=False,
    )  # fmt: skip
    model.get_model().initialize_vision_modules(arguments)
    model.config.mm_use_im_patch_token = False
    model.save_pretrained(tmp_path)
    for name in ("tokenizer.model", "tokenizer_config.json"):
        shutil.copy(assets / "vicuna_tiny" / name, tmp_path)
    _, again, processor, _ = load_pretrained_model(str(tmp_path), None, "llava-s2", device="cpu")
    assert processor.crop_size["height"] == 56
    assert again.config.mm_hidden_size == 64
    images = torch.randn(1, 3, 56, 56)
    ids = torch.tensor([[1, -200, 9]])
    with torch.no_grad():
        torch.testing.assert_close(again(ids, images=images).logits, model.eval()(ids, images=images).logits)
