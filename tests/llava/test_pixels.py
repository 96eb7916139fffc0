"""Pixels are the processor's, to the last bit, whatever the picture's size and however it is padded."""

import sys

import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessorPil, SiglipImageProcessorPil

from llava import pixels
from llava.mm_utils import load_image_processor, process_images
from llava.pixels import centred_on_square, padded_pixels_of, pixels_of

PAD = (122, 116, 104)


@pytest.fixture(autouse=True, params=["numba", "Pillow"])
def resizer(request, monkeypatch):
    """Every test with both ways to resize."""
    if request.param == "Pillow":
        monkeypatch.setattr(pixels, "_vectorised", lambda: None)
    else:
        pytest.importorskip("numba")
        assert pixels._vectorised() is not None


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    values = torch.randint(0, 256, (height, width, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    return Image.fromarray(values.numpy())


def reference(images, processor):
    return processor.preprocess(images, return_tensors="pt")["pixel_values"]


@pytest.fixture(scope="module", params=["clip_tiny", "processor_336"])
def processor(request, assets):
    return load_image_processor(str(assets / request.param))


def random_sizes(count: int) -> list[tuple[int, int]]:
    sides = torch.randint(1, 700, (count, 2), generator=torch.Generator().manual_seed(1))
    return [tuple(pair) for pair in sides.tolist()]


@pytest.mark.parametrize(
    "size", [(336, 336), (28, 28), (640, 480), (480, 640), (337, 336), (1, 90), (90, 1), (700, 3), *random_sizes(16)]
)
def test_random_sizes(size, processor):
    picture = noise(*size, seed=sum(size))
    if max(size) / min(size) < 40:  # a longer strip comes to several hundred thousand pixels before it is cropped
        assert torch.equal(pixels_of([picture], processor), reference([picture], processor))
    padded = padded_pixels_of([picture], PAD, processor)
    assert torch.equal(padded, reference([centred_on_square(picture, PAD)], processor))
    assert padded.dtype == torch.float32
    assert padded.is_contiguous()


def test_the_goldens_pictures(goldens, processor):
    pictures = [Image.open(path).convert("RGB") for path in sorted((goldens / "images").iterdir())]
    assert len(pictures) == 20
    assert torch.equal(pixels_of(pictures, processor), reference(pictures, processor))
    squares = [centred_on_square(picture, PAD) for picture in pictures]
    assert torch.equal(padded_pixels_of(pictures, PAD, processor), reference(squares, processor))


@pytest.mark.parametrize(
    "settings",
    [
        {"size": {"shortest_edge": 20}, "crop_size": {"height": 31, "width": 26}},  # smaller than the crop
        {"size": {"shortest_edge": 40}, "crop_size": {"height": 21, "width": 33}},
        {"rescale_factor": 1 / 127, "image_mean": [0.1, 0.2, 0.3], "image_std": [1.0, 2.0, 3.0]},
        {"resample": 2},
        # what the table is not made for goes to the processor itself
        {"do_normalize": False},
        {"do_rescale": False},
        {"do_center_crop": False},
        {"do_resize": False},
        {"size": {"height": 30, "width": 50}, "crop_size": {"height": 30, "width": 50}},
    ],
)
def test_other_settings(settings):
    processor = CLIPImageProcessorPil(**settings)
    pictures = [noise(60, 44), noise(60, 44, seed=1)]
    assert torch.equal(pixels_of(pictures, processor), reference(pictures, processor))
    squares = [centred_on_square(picture, PAD) for picture in pictures]
    assert torch.equal(padded_pixels_of(pictures, PAD, processor), reference(squares, processor))


def test_another_kind_of_processor():
    processor = SiglipImageProcessorPil()
    pictures = [noise(60, 44)]
    assert torch.equal(pixels_of(pictures, processor), reference(pictures, processor))


def test_process_images_comes_here(processor):
    class Config:
        image_aspect_ratio = "pad"

    picture = noise(64, 48)
    assert torch.equal(process_images([picture], processor, Config), padded_pixels_of([picture], PAD, processor))


def test_a_uniform_picture_stays_uniform():
    processor = CLIPImageProcessorPil(size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336})
    for level in (0, 1, 77, 128, 254, 255):
        color = (level, 255 - level, level // 2)
        prepared = padded_pixels_of([Image.new("RGB", (517, 123), color)], color, processor)
        assert all(len(channel.unique()) == 1 for channel in prepared[0])


def test_without_numba_it_says_what_would_help(monkeypatch, caplog):
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "llava.resampling", None)
    pixels._vectorised.cache_clear()
    with caplog.at_level("INFO"):
        assert pixels._vectorised() is None
    assert "pictures are resized by Pillow alone" in caplog.text
    pixels._vectorised.cache_clear()
