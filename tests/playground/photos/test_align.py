"""The projector that stage 1 starts from says what its patches show, and is an adapter as any other."""

from types import SimpleNamespace

import torch
from PIL import Image

from ccra_patch.projector import CCRAProjector
from llava.mm_utils import process_images
from llava.model.multimodal_encoder.builder import build_vision_tower
from playground.photos import align, features
from playground.photos.align import Recipe


def test_a_fitted_projector_says_what_patches_show():
    """Patches of any size and place, words of any size: what is left over is little beside the words' own spread."""
    torch.manual_seed(0)
    words = 0.05 * torch.randn(9, 16)
    shown = torch.randint(9, (4000,))
    looks = torch.randn(9, 12)
    patches = 30 + 4 * (looks[shown] + 0.05 * torch.randn(4000, 12))
    state = align.fit(patches, words[shown], Recipe(steps=400, batch_size=128, learning_rate=5e-3))
    hidden = torch.nn.functional.gelu(patches @ state["0.weight"].T + state["0.bias"])
    said = hidden @ state["2.weight"].T + state["2.bias"]
    assert (said - words[shown]).square().mean() < 0.05 * words.var()


def test_it_reads_what_training_sees(photo_set, tower_folder, tmp_path):
    kept = features.build(tmp_path, photo_set, tower_folder)
    pictures = sorted((photo_set / "images").iterdir())
    settings = SimpleNamespace(vision_tower=str(tower_folder), mm_vision_select_layer=-2, image_aspect_ratio="pad")
    tower = build_vision_tower(settings).to(torch.bfloat16)
    images = process_images([Image.open(path) for path in pictures], tower.image_processor, settings)
    assert torch.equal(align.read_patches(pictures, tower_folder, kept, Recipe()), tower(images).float())


def test_its_state_is_an_adapter():
    """The keys of ``mlp2x_gelu``, so that stage 1, and a CCRA on top, take it."""
    state = align.fit(torch.randn(64, 12), torch.randn(64, 16), Recipe(steps=10, batch_size=8))
    projector = CCRAProjector(12, 16, hidden_dim=4)
    projector.load_plain_adapter(state)
    assert torch.equal(projector.selected.weight, state["0.weight"])
    assert torch.equal(projector.output.weight, state["2.weight"])
