"""A photo set of cut-outs that are drawn here: no picture of the real ones is kept in git."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageDraw
from transformers import CLIPImageProcessorPil, Dinov2Config, Dinov2Model

from playground.photos import cutouts, dataset, scenery

CATALOG: dict[str, dict[str, tuple[str, ...]]] = {
    "mammal": {"cow": ("cow-1", "cow-2"), "fox": ("fox",), "pig": ("pig-1", "pig-2"), "lion": ("lion",)},
    "fruit": {"apple": ("apple-1", "apple-2", "apple-3"), "lemon": ("lemon",), "kiwi": ("kiwi-1", "kiwi-2")},
    "ball": {"ball": ("ball-1", "ball-2", "ball-3", "ball-4")},
    "vehicle": {"car": ("car-1", "car-2"), "bus": ("bus",)},
}
FILLS = ("red", "green", "blue", "yellow", "saddlebrown", "black", "white")
RECIPE = dataset.Recipe(
    train_scenes=100,
    train_questions=300,
    val_scenes=40,
    val_questions=60,
    test_scenes=50,
    test_questions=100,
    combinations_held_out=0.2,
)


def draw_cutout(path: Path, number: int) -> None:
    """An ellipse in one color with a see-through rim, wider or higher depending on ``number``."""
    picture = Image.new("RGBA", (90 + 13 * (number % 4), 120 - 11 * (number % 5)))
    canvas = ImageDraw.Draw(picture)
    canvas.ellipse((4, 4, picture.width - 5, picture.height - 5), fill=FILLS[number % len(FILLS)])
    canvas.ellipse((2, 2, picture.width - 3, picture.height - 3), outline=(90, 90, 90, 60), width=2)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """Folders of stamps and of templates; the catalog is that of this file meanwhile."""
    stamps, templates = tmp_path_factory.mktemp("stamps"), tmp_path_factory.mktemp("templates")
    unnamed = {"mammal": ("yak",)}
    sources = [
        f"{category}/{source}.png"
        for category, names in CATALOG.items()
        for source in (*(source for group in names.values() for source in group), *unnamed.get(category, ()))
    ]
    for number, source in enumerate(sources):
        draw_cutout(stamps / source, number)
    for number, name in enumerate(("bark", "water")):
        Image.linear_gradient("L").convert("RGB").rotate(90 * number).save(templates / f"{name}.jpg")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cutouts, "CATALOG", CATALOG)
        patch.setattr(cutouts, "FOLDERS", {category: category for category in CATALOG})
        patch.setattr(cutouts, "UNNAMED", unnamed)
        patch.setattr(scenery, "PHOTOS", ("bark", "water"))
        yield stamps, templates


@pytest.fixture(scope="session")
def photo_set(pictures: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    dataset.make(folder, RECIPE, *pictures)
    return folder


@pytest.fixture(scope="session")
def tower_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DINOv2 of two small blocks, with its processor."""
    folder = tmp_path_factory.mktemp("tower")
    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, mlp_ratio=2, patch_size=14, image_size=28
    )
    Dinov2Model(config).save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}).save_pretrained(folder)
    return folder
