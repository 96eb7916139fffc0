"""The frozen tower's features of all pictures, computed once for every run of the demo and the study."""

from pathlib import Path
from types import SimpleNamespace

import torch
import transformers

from llava.model.multimodal_encoder.builder import build_vision_tower
from llava.model.multimodal_encoder.fill_feature_cache import fill
from playground.cache import cached, recipe_key


def make(folder: Path, data: Path, vision_tower: Path) -> None:
    """Fill the existing ``folder``: training runs in bfloat16, evaluation in float32, as the scripts do on a CPU."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    gqa = data / "gqa" / "data"
    for dtype, pictures in (
        (torch.bfloat16, [data / "images"]),
        (torch.float32, [gqa / "images", gqa / "blank_images"]),
    ):
        tower = build_vision_tower(SimpleNamespace(vision_tower=str(vision_tower), mm_vision_select_layer=-2))
        fill(tower.to(device=device, dtype=dtype), pictures, folder, "pad")


def build(cache: Path, data: Path, vision_tower: Path) -> Path:
    """Fill a feature cache once; return what ``LLAVA_FEATURE_CACHE`` should name."""
    decisive = {
        "data": data.name,
        "vision_tower": vision_tower.name,
        "versions": [torch.__version__, transformers.__version__],
    }
    key = recipe_key(decisive, [Path(__file__)])
    return cached(cache, "features", key, lambda folder: make(folder, data, vision_tower))
