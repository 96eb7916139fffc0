"""Which vision tower a name means."""

import os
from typing import Any

from transformers import PreTrainedConfig

from llava.errors import UserError
from llava.model.multimodal_encoder.clip_encoder import CLIPVisionTower, CLIPVisionTowerS2
from llava.model.multimodal_encoder.dinov2_encoder import Dinov2VisionTower
from llava.model.multimodal_encoder.siglip_encoder import SiglipVisionTower
from llava.model.multimodal_encoder.tower import VisionTower

# By the model_type in a folder's config.json.
TOWERS: dict[str, type[VisionTower]] = {
    "clip": CLIPVisionTower,
    "clip_vision_model": CLIPVisionTower,
    "siglip": SiglipVisionTower,
    "siglip_vision_model": SiglipVisionTower,
    "dinov2": Dinov2VisionTower,
}
# By the beginning of a hub name.
HUB_PREFIXES: dict[str, type[VisionTower]] = {
    "openai": CLIPVisionTower,
    "laion": CLIPVisionTower,
    "google/siglip": SiglipVisionTower,
    "facebook/dinov2": Dinov2VisionTower,
}


def build_vision_tower(vision_tower_cfg: Any, **kwargs: Any) -> VisionTower:
    """The tower named by ``mm_vision_tower`` (a checkpoint's key) or ``vision_tower`` (the training flag).

    With ``s2`` a CLIP looks at pictures at several scales. Accepts a local folder with a CLIP, SigLIP or DINOv2, and
    hub names of OpenAI's and LAION's CLIP, of ShareGPT4V, of Google's SigLIP and of Facebook's DINOv2; UserError
    otherwise.
    """
    name = str(getattr(vision_tower_cfg, "mm_vision_tower", None) or getattr(vision_tower_cfg, "vision_tower", None))
    tower_class = _tower_class(name)
    if getattr(vision_tower_cfg, "s2", False):
        if tower_class is not CLIPVisionTower:
            raise UserError(f"s2 is set, and it cuts pictures up for a CLIP; {name} is another tower: drop s2")
        tower_class = CLIPVisionTowerS2
    return tower_class(name, args=vision_tower_cfg, **kwargs)


def _tower_class(name: str) -> type[VisionTower]:
    if os.path.exists(name):
        model_type = PreTrainedConfig.get_config_dict(name)[0].get("model_type", "clip")
        if model_type in TOWERS:
            return TOWERS[model_type]
        raise UserError(f"{name} has model_type {model_type!r}; a vision tower is one of {', '.join(TOWERS)}")
    if "ShareGPT4V" in name:
        return CLIPVisionTower
    for prefix, tower_class in HUB_PREFIXES.items():
        if name.startswith(prefix):
            return tower_class
    raise UserError(
        f"Unknown vision tower: {name}; give an existing folder, or a hub name that starts with "
        f"{' or '.join(HUB_PREFIXES)} or contains ShareGPT4V"
    )
