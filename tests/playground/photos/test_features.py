"""The features of a photo set: training pictures as training asks for them, the others as evaluation does."""

from types import SimpleNamespace

import torch
from PIL import Image

from llava.mm_utils import process_images
from llava.model.multimodal_encoder.builder import build_vision_tower
from llava.model.multimodal_encoder.feature_cache import VARIABLE
from playground.photos import features


def no_compute(images, wanted):
    raise AssertionError("computed")


def test_every_picture_is_found(photo_set, tower_folder, tmp_path, monkeypatch):
    folder = features.build(tmp_path, photo_set, tower_folder)
    assert features.build(tmp_path, photo_set, tower_folder) == folder
    monkeypatch.setenv(VARIABLE, str(folder))
    settings = SimpleNamespace(vision_tower=str(tower_folder), mm_vision_select_layer=-2, image_aspect_ratio="pad")
    places = ((torch.bfloat16, "images"), (torch.float32, "gqa/data/images"), (torch.float32, "gqa/data/blank_images"))
    for dtype, place in places:
        tower = build_vision_tower(settings).to(dtype)
        pictures = [Image.open(path) for path in sorted((photo_set / place).iterdir())]
        images = process_images(pictures, tower.image_processor, settings)
        expected = tower.compute_hidden_states(images.to(dtype), {1})[1][:, 1:].to(images.dtype)
        monkeypatch.setattr(tower, "compute_hidden_states", no_compute)
        assert torch.equal(tower(images), expected)
