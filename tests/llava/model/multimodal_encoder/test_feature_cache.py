"""Features from disk: bit for bit the tower's, missed by every other tower, dtype and picture."""

import logging
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from llava.errors import UserError
from llava.mm_utils import process_images
from llava.model.multimodal_encoder import fill_feature_cache
from llava.model.multimodal_encoder.builder import build_vision_tower
from llava.model.multimodal_encoder.feature_cache import VARIABLE, FeatureCache, folder_name, picture_keys
from llava.model.multimodal_encoder.fill_feature_cache import fill


def tower_of(assets, dtype=torch.float32, **settings):
    settings = {"mm_vision_tower": str(assets / "clip_tiny"), "mm_vision_select_layer": -2} | settings
    return build_vision_tower(SimpleNamespace(**settings)).to(dtype)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Five pictures, the last a copy of the first."""
    folder = tmp_path_factory.mktemp("pictures")
    noise = torch.randint(256, (5, 40, 30, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    noise[4] = noise[0]
    for number, values in enumerate(noise):
        Image.fromarray(values.numpy()).save(folder / f"{number}.png")
    return folder


def pixels_of(pictures, tower, count=5):
    opened = [Image.open(pictures / f"{number}.png") for number in range(count)]
    return process_images(opened, tower.image_processor, SimpleNamespace(image_aspect_ratio="pad"))


def no_compute(images, wanted):
    raise AssertionError("computed")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bits_are_the_towers(dtype, assets, pictures, tmp_path, monkeypatch):
    tower = tower_of(assets, dtype)
    images = pixels_of(pictures, tower)
    expected = tower(images), *tower.forward_layers(images, (0, 2, -1), class_token=True)
    fill(tower, [pictures], tmp_path, "pad", batch_size=5)
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    monkeypatch.setattr(tower, "compute_hidden_states", no_compute)
    cached = tower(images), *tower.forward_layers(images, (0, 2, -1), class_token=True)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(cached, expected, strict=True))
    assert len(FeatureCache(tmp_path / folder_name(tower.vision_tower.vision_model))) == 4


def test_a_miss_is_computed(assets, pictures, tmp_path, monkeypatch, caplog):
    tower = tower_of(assets)
    images = pixels_of(pictures, tower)
    expected = tower(images)
    FeatureCache(tmp_path / folder_name(tower.vision_tower.vision_model)).write(
        images[1:2], torch.full((1, 6, 17, 32), 7.0)
    )
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    with caplog.at_level(logging.INFO):
        found = tower(images)
    assert f"features of 1 pictures are in {tmp_path}" in caplog.text
    assert torch.equal(found[1], torch.full((16, 32), 7.0))
    torch.testing.assert_close(found[[0, 2, 3, 4]], expected[[0, 2, 3, 4]])
    torch.testing.assert_close(tower(images[2:]), expected[2:])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bits_are_the_towers_under_autocast_too(dtype, assets, pictures, tmp_path, monkeypatch):
    tower = tower_of(assets, dtype)
    images = pixels_of(pictures, tower)
    with torch.autocast("cpu", torch.bfloat16):
        expected = tower(images)
    fill(tower, [pictures], tmp_path, "pad")
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(tower(images), expected)


def test_another_tower_or_dtype_is_another_folder(assets, tmp_path, monkeypatch, caplog):
    tower = tower_of(assets)
    name = folder_name(tower.vision_tower.vision_model)
    assert name.startswith("clip_vision_model-float32-")
    assert folder_name(tower_of(assets).vision_tower.vision_model) == name
    assert folder_name(tower_of(assets, torch.bfloat16).vision_tower.vision_model) != name
    with torch.no_grad():
        tower.vision_tower.vision_model.encoder.layers[3].mlp.fc1.bias[0] += 1
    assert folder_name(tower.vision_tower.vision_model) != name

    tower = tower_of(assets)
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    images = torch.randn(2, 3, 28, 28)
    tower(images)
    assert "features of 0 pictures" in caplog.text
    assert tower.to(torch.bfloat16)(images.bfloat16()).dtype == torch.bfloat16  # opens the other folder


def test_a_pictures_key():
    image = torch.randn(1, 3, 4, 6)
    (key,) = picture_keys(image)
    assert picture_keys(image.clone()) == [key]
    others = [image + 1e-6, image.to(torch.bfloat16), image.view(1, 3, 6, 4)]
    assert len({key, *(picture_keys(other)[0] for other in others)}) == 4


def test_several_scales_are_read_too(assets, pictures, tmp_path, monkeypatch):
    """S2 looks at windows: each is a picture to the cache."""
    tower = tower_of(assets, s2=True, s2_scales="28,56")
    images = torch.randn(1, 3, 56, 56)
    expected = tower(images)
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    torch.testing.assert_close(tower(images), expected)


def test_filling_goes_on_where_it_stopped(assets, pictures, tmp_path, monkeypatch):
    tower = tower_of(assets)
    monkeypatch.setattr(fill_feature_cache, "SHARD_BYTES", 1)
    folder = fill(tower, [pictures], tmp_path, "pad", batch_size=2)
    shards = sorted(folder.iterdir())
    assert len(shards) == 2  # the third batch is a copy of what is there
    shards[0].unlink()
    times = shards[1].stat().st_mtime_ns
    assert fill(tower, [pictures], tmp_path, "pad", batch_size=2) == folder
    assert sorted(folder.iterdir()) == shards
    assert shards[1].stat().st_mtime_ns == times


def test_messages(assets, pictures, tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"LLAVA_FEATURE_CACHE is .*nowhere, which is not a folder; fill it first"):
        tower_of(assets)(torch.randn(1, 3, 28, 28))
    with pytest.raises(UserError, match="holds no pictures"):
        fill(tower_of(assets), [tmp_path], tmp_path, "pad")


def test_the_command(assets, pictures, tmp_path):
    command = [sys.executable, "-m", "llava.model.multimodal_encoder.fill_feature_cache", "--dtype", "float32"]
    command += ["--vision-tower", str(assets / "clip_tiny"), "--image-folder", str(pictures)]
    done = subprocess.run(command, env=os.environ | {VARIABLE: str(tmp_path)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / folder_name(tower_of(assets).vision_tower.vision_model)
    assert done.stdout.split() == [str(folder)]
    assert len(FeatureCache(folder)) == 4
