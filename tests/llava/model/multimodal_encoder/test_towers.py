"""DINOv2 and SigLIP beside CLIP: the layers of transformers, the right size of pictures, and who has a class token."""

import json
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from transformers import Dinov2Config, Dinov2Model, SiglipConfig, SiglipModel, SiglipVisionConfig, SiglipVisionModel

from llava.errors import UserError
from llava.mm_utils import process_images
from llava.model.multimodal_encoder.builder import build_vision_tower
from llava.model.multimodal_encoder.clip_encoder import CLIPVisionTower
from llava.model.multimodal_encoder.dinov2_encoder import Dinov2VisionTower
from llava.model.multimodal_encoder.siglip_encoder import SiglipVisionTower

SHAPE = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "image_size": 42, "patch_size": 14}
# As the hub's folders of the two families have them.
PROCESSORS = {
    "dinov2": {
        "image_processor_type": "BitImageProcessor", "do_center_crop": True, "crop_size": {"height": 28, "width": 28},
        "size": {"shortest_edge": 32}, "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225],
        "resample": 3,
    },
    "siglip": {
        "image_processor_type": "SiglipImageProcessor", "size": {"height": 42, "width": 42},
        "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "resample": 3,
    },
}  # fmt: skip


def tiny_model(family):
    torch.manual_seed(0)
    if family == "dinov2":
        model = Dinov2Model(Dinov2Config(**SHAPE, mlp_ratio=2))
    else:
        model = SiglipVisionModel(SiglipVisionConfig(**SHAPE, intermediate_size=64))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)  # some start at zero, so that nothing would depend on them
    return model.eval()


def save(model, family, folder):
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSORS[family]))
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {family: save(tiny_model(family), family, tmp_path_factory.mktemp(family)) for family in PROCESSORS}


def tower_of(folder, delay_load=False, **settings):
    settings = {"mm_vision_tower": str(folder), "mm_vision_select_layer": -2} | settings
    return build_vision_tower(SimpleNamespace(**settings), delay_load=delay_load)


def pixels(side):
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("family", "side", "class_tokens"), [("dinov2", 28, 1), ("dinov2", 42, 1), ("siglip", 42, 0)])
def test_layers_are_those_of_transformers(family, side, class_tokens, folders):
    """DINOv2 at the size it was trained at, and at a smaller one, where positions are interpolated."""
    tower, images = tower_of(folders[family]), pixels(side)
    with torch.no_grad():
        expected = tiny_model(family)(images, output_hidden_states=True).hidden_states
    assert len(expected) == 4
    patches = [state[:, class_tokens:] for state in expected]
    selected, stack = tower.forward_layers(images, (0, 1, -1))
    torch.testing.assert_close(stack, torch.stack([patches[0], patches[1], patches[3]], dim=1))
    torch.testing.assert_close(selected, patches[-2])
    torch.testing.assert_close(tower(images), selected)
    torch.testing.assert_close(torch.cat(tower(list(images))), selected)
    torch.testing.assert_close(tower.feature_select(SimpleNamespace(hidden_states=expected)), selected)
    assert not any(parameter.requires_grad for parameter in tower.parameters())


def test_dinov2_has_a_class_token(folders):
    tower, images = tower_of(folders["dinov2"], mm_vision_select_feature="cls_patch"), pixels(28)
    with torch.no_grad():
        expected = tiny_model("dinov2")(images, output_hidden_states=True).hidden_states
    selected, stack = tower.forward_layers(images, (2,), class_token=True)
    torch.testing.assert_close(selected, expected[2])
    torch.testing.assert_close(stack[:, 0], expected[2])


def test_siglip_has_none(folders):
    with pytest.raises(UserError, match=r"cls_patch needs a class token, and .* \(siglip_vision_model\) has none"):
        tower_of(folders["siglip"], mm_vision_select_feature="cls_patch")
    with pytest.raises(UserError, match=r"this projector needs a class token, and .* has none; choose one that reads"):
        tower_of(folders["siglip"]).forward_layers(pixels(42), "all", class_token=True)


@pytest.mark.parametrize(("family", "side", "patches"), [("dinov2", 28, 4), ("siglip", 42, 9)])
def test_sizes_and_pictures(family, side, patches, folders):
    """DINOv2 is asked at its processor's size, SigLIP at its config's; both also before the weights are there."""
    for tower in (tower_of(folders[family], delay_load=True), tower_of(folders[family])):
        assert (tower.image_size, tower.num_patches, tower.hidden_size) == (side, patches, 32)
    assert tower.dummy_feature.shape == (1, 32)
    picture = Image.new("RGB", (90, 60), (255, 0, 0))
    for aspect_ratio in ("pad", None):
        images = process_images([picture], tower.image_processor, SimpleNamespace(image_aspect_ratio=aspect_ratio))
        assert images.shape == (1, 3, side, side)
        assert tower(images).shape == (1, patches, 32)
    red = (torch.tensor([1.0, 0.0, 0.0]) - torch.tensor(tower.image_processor.image_mean)) / torch.tensor(
        tower.image_processor.image_std
    )
    torch.testing.assert_close(images[0, :, side // 2, side // 2], red)


def test_a_whole_siglip_serves_too(tmp_path):
    """The hub's folders hold text and vision."""
    vision = SHAPE | {"intermediate_size": 64}
    text = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "vocab_size": 8}
    torch.manual_seed(0)
    whole = SiglipModel(SiglipConfig(text_config=text, vision_config=vision)).eval()
    tower = tower_of(save(whole, "siglip", tmp_path))
    assert isinstance(tower, SiglipVisionTower)
    with torch.no_grad():
        expected = whole.vision_model(pixels(42), output_hidden_states=True).hidden_states
    torch.testing.assert_close(tower(pixels(42)), expected[-2])


def test_a_trained_tower_is_built_empty(folders):
    tower = tower_of(folders["dinov2"], delay_load=True, unfreeze_mm_vision_tower=True)
    assert isinstance(tower, Dinov2VisionTower)
    assert tower.is_loaded
    names = set(tower.state_dict())
    assert "vision_tower.vision_model.embeddings.cls_token" in names
    assert names == set(tower_of(folders["dinov2"]).state_dict())


@pytest.mark.parametrize(
    ("name", "tower_class"),
    [
        ("openai/clip-vit-large-patch14-336", CLIPVisionTower),
        ("Lin-Chen/ShareGPT4V-7B_Pretrained_vit-large336-l12", CLIPVisionTower),
        ("google/siglip-so400m-patch14-384", SiglipVisionTower),
        ("facebook/dinov2-large", Dinov2VisionTower),
    ],
)
def test_hub_names(name, tower_class, monkeypatch):
    monkeypatch.setattr(tower_class, "__init__", lambda self, name, args: torch.nn.Module.__init__(self))
    assert type(build_vision_tower(SimpleNamespace(vision_tower=name))) is tower_class


def test_messages(folders, tmp_path):
    with pytest.raises(UserError, match=r"Unknown vision tower: google/vit; give an existing folder, or a hub name"):
        build_vision_tower(SimpleNamespace(mm_vision_tower="google/vit"))
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(UserError, match=r"has model_type 'vit'; a vision tower is one of clip, clip_vision_model, "):
        tower_of(tmp_path)
    with pytest.raises(UserError, match="s2 is set, and it cuts pictures up for a CLIP"):
        tower_of(folders["dinov2"], s2=True)
