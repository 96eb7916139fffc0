"""Which vision tower a name means."""

import os
from typing import Any

from llava.errors import UserError
from llava.model.multimodal_encoder.clip_encoder import CLIPVisionTower, CLIPVisionTowerS2

HUB_PREFIXES = ("openai", "laion")


def build_vision_tower(vision_tower_cfg: Any, **kwargs: Any) -> CLIPVisionTower:
    """The tower named by ``mm_vision_tower`` (a checkpoint's key) or ``vision_tower`` (the training flag).

    With ``s2`` it looks at pictures at several scales. Accepts a local folder, and hub names of OpenAI's and LAION's
    CLIP and of ShareGPT4V; UserError otherwise.
    """
    name = getattr(vision_tower_cfg, "mm_vision_tower", None) or getattr(vision_tower_cfg, "vision_tower", None)
    if name and (os.path.exists(name) or name.startswith(HUB_PREFIXES) or "ShareGPT4V" in name):
        tower_class = CLIPVisionTowerS2 if getattr(vision_tower_cfg, "s2", False) else CLIPVisionTower
        return tower_class(name, args=vision_tower_cfg, **kwargs)
    raise UserError(
        f"Unknown vision tower: {name}; give an existing folder, or a hub name that starts with "
        f"{' or '.join(HUB_PREFIXES)} or contains ShareGPT4V"
    )
