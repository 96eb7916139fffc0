"""CLIP's vision transformer as LLaVA's eye, at one scale or at several."""

from collections.abc import Iterable, Set
from typing import Any

import torch
from einops import rearrange, reduce
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPVisionConfig, CLIPVisionModel, PreTrainedModel

from llava.errors import UserError
from llava.model.multimodal_encoder.tower import VisionTower, transformer_of

__all__ = ["CLIPVisionTower", "CLIPVisionTowerS2", "transformer_of"]


class CLIPVisionTower(VisionTower):
    """A frozen CLIP vision tower; arguments as for the base class."""

    config_class = CLIPVisionConfig
    model_class = CLIPVisionModel

    def _embed(self, images: Tensor) -> Tensor:
        clip = self.vision_tower.vision_model
        return clip.pre_layrnorm(clip.embeddings(images))

    def _blocks(self) -> Iterable[nn.Module]:
        return self.vision_tower.vision_model.encoder.layers


class CLIPVisionTowerS2(CLIPVisionTower):
    """CLIP on a picture at several scales, features side by side: "S2" of Shi et al. 2024, section 3.1.

    A scale of k times the smallest is cut into k x k windows of the smallest, each seen by the frozen tower. Their
    patches, put together again, are averaged down to the grid of one window; class tokens are averaged over windows.
    The widths of all scales add up: d = scales * (CLIP's width). Pictures come in the largest scale.

    Args:
        args: beside the base class's, ``s2_scales``: pixels per side, default "336,672,1008".

    Raises UserError when a scale is not a multiple of the smallest.
    """

    def __init__(self, vision_tower: str, args: Any, delay_load: bool = False) -> None:
        self.s2_scales = sorted(int(scale) for scale in getattr(args, "s2_scales", "336,672,1008").split(","))
        self.s2_split_size, self.s2_image_size = self.s2_scales[0], self.s2_scales[-1]
        for scale in self.s2_scales:
            if scale % self.s2_split_size:
                raise UserError(f"s2_scales has {scale}; it must be a multiple of the smallest, {self.s2_split_size}")
        super().__init__(vision_tower, args, delay_load)

    def _hold(self, model: PreTrainedModel) -> None:
        super()._hold(model)
        side = self.s2_image_size
        self.image_processor.size = {"shortest_edge": side}
        self.image_processor.crop_size = {"height": side, "width": side}

    def _hidden_states(self, images: Tensor, wanted: Set[int]) -> dict[int, Tensor]:
        scales = [self._at_scale(images, scale, wanted) for scale in self.s2_scales]
        return {index: torch.cat([states[index] for states in scales], dim=-1) for index in wanted}

    def _at_scale(self, images: Tensor, scale: int, wanted: Set[int]) -> dict[int, Tensor]:
        """Hidden states ``[B, 1 + N, d]`` of one scale, its windows merged."""
        k, side = scale // self.s2_split_size, self.num_patches_per_side
        resized = functional.interpolate(images.float(), size=(scale, scale), mode="bicubic").to(images.dtype)
        windows = rearrange(resized, "b c (r h) (s w) -> (b r s) c h w", r=k, s=k)
        states = super()._hidden_states(windows, wanted)
        merged = {}
        for index, hidden in states.items():
            class_token = reduce(hidden[:, :1], "(b r s) one d -> b one d", "mean", r=k, s=k)
            grid = rearrange(hidden[:, 1:], "(b r s) (h w) d -> b d (r h) (s w)", r=k, s=k, h=side, w=side)
            # k x k patches, whatever windows they came from, become one.
            patches = reduce(grid.float(), "b d (h i) (w j) -> b (h w) d", "mean", i=k, j=k).to(hidden.dtype)
            merged[index] = torch.cat([class_token, patches], dim=1)
        return merged

    @torch.no_grad()
    def forward_feature(self, images: Tensor) -> Tensor:
        """The selected layer of one window's size: pixels ``[B, 3, s, s]`` -> ``[B, N, CLIP's width]``."""
        (index,) = self.hidden_state_indices((self.select_layer,))
        states = super()._hidden_states(images, {index})
        return self._select_tokens(states[index]).to(images.dtype)

    @property
    def hidden_size(self) -> int:
        return self.config.hidden_size * len(self.s2_scales)
