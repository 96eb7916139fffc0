"""CLIP's vision transformer as LLaVA's eye: one layer for upstream's callers, any layers for those who ask."""

import logging
from collections.abc import Set
from typing import Any

import torch
from einops import rearrange, reduce
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPVisionConfig, CLIPVisionModel

from llava.errors import UserError
from llava.mm_utils import load_image_processor
from llava.model.multimodal_projector.registry import Layers

logger = logging.getLogger(__name__)


def transformer_of(clip: CLIPVisionModel) -> Any:
    """The vision transformer: ``clip.vision_model``, or since transformers 5.20 the model itself."""
    return getattr(clip, "vision_model", clip)


class _NamedAsUpstream(nn.Module):
    """Holds a CLIP vision transformer under ``vision_model``, the name it has in every LLaVA checkpoint.

    transformers 5.20 dropped that level from ``CLIPVisionModel``; with it put back, state-dict keys are upstream's
    whatever the library version.
    """

    def __init__(self, clip: CLIPVisionModel) -> None:
        super().__init__()
        self.vision_model = transformer_of(clip)
        self.config = clip.config


class CLIPVisionTower(nn.Module):
    """A frozen CLIP vision tower.

    Args:
        vision_tower: folder or hub name.
        args: bag with ``mm_vision_select_layer`` (index into the hidden states, negative from the end), and
            optionally ``mm_vision_select_feature`` (``patch`` drops the class token, ``cls_patch`` keeps it) and
            ``unfreeze_mm_vision_tower`` (the tower's weights live in the LLaVA checkpoint).
        delay_load: only read the tower's config now; ``load_model`` brings the weights. A tower whose weights live in
            the LLaVA checkpoint is built at once, empty, for ``from_pretrained`` to fill.

    Letters: B images, L layers, N patches, d vision width.
    """

    def __init__(self, vision_tower: str, args: Any, delay_load: bool = False) -> None:
        super().__init__()
        self.is_loaded = False
        self.vision_tower_name = vision_tower
        self.select_layer: int = args.mm_vision_select_layer
        self.select_feature: str = getattr(args, "mm_vision_select_feature", "patch")
        if not delay_load:
            self.load_model()
        elif getattr(args, "unfreeze_mm_vision_tower", False):
            # Not load_model: inside from_pretrained everything is built on the meta device, where nothing can be read.
            self._hold(CLIPVisionModel(CLIPVisionConfig.from_pretrained(vision_tower)))
        else:
            self.cfg_only = CLIPVisionConfig.from_pretrained(vision_tower)

    def load_model(self, device_map: Any = None) -> None:
        """Load weights and image processor, unless they are there, and freeze the weights."""
        if self.is_loaded:
            logger.info("%s is already loaded", self.vision_tower_name)
        else:
            self._hold(CLIPVisionModel.from_pretrained(self.vision_tower_name, device_map=device_map))
        # Also those that a LLaVA checkpoint filled: from_pretrained leaves everything trainable.
        self.requires_grad_(False)

    def _hold(self, clip: CLIPVisionModel) -> None:
        self.image_processor = load_image_processor(self.vision_tower_name)
        self.vision_tower = _NamedAsUpstream(clip)
        self.vision_tower.eval()
        self.is_loaded = True

    def train(self, mode: bool = True) -> "CLIPVisionTower":
        """The tower is frozen: ``model.train()`` leaves it in evaluation mode."""
        return super().train(False)

    def hidden_state_indices(self, layers: Layers) -> tuple[int, ...]:
        """Resolve a layer choice to distinct indices in 0..depth (0 = embeddings, i = output of block i)."""
        depth = self.config.num_hidden_layers
        if layers == "all":
            return tuple(range(1, depth + 1))
        resolved = tuple(index + depth + 1 if index < 0 else index for index in layers)
        for given, index in zip(layers, resolved, strict=True):
            if not 0 <= index <= depth:
                raise UserError(
                    f"vision layer {given} does not exist: {self.vision_tower_name} has hidden states 0 to {depth}"
                )
        if len(set(resolved)) < len(resolved):
            raise UserError(f"vision layers {list(layers)} name a layer twice; each layer may be given once")
        return resolved

    def _hidden_states(self, images: Tensor, wanted: Set[int]) -> dict[int, Tensor]:
        """Run the transformer up to the deepest wanted index; ``{index: [B, 1 + N, d]}``.

        Block by block and not by ``output_hidden_states``: the hooks behind that flag double their output once the
        language model has used the same flag (transformers 5.23), and nothing past the deepest index is computed.
        """
        clip = self.vision_tower.vision_model
        hidden = clip.pre_layrnorm(clip.embeddings(images.to(device=self.device, dtype=self.dtype)))
        states = {0: hidden} if 0 in wanted else {}
        for index, block in enumerate(clip.encoder.layers[: max(wanted)], start=1):
            hidden = block(hidden, attention_mask=None)
            if index in wanted:
                states[index] = hidden
        return states

    def _select_tokens(self, hidden: Tensor) -> Tensor:
        if self.select_feature == "patch":
            return hidden[:, 1:]
        if self.select_feature == "cls_patch":
            return hidden
        raise UserError(f"Unexpected select feature: {self.select_feature}; choose patch or cls_patch")

    def feature_select(self, image_forward_outs: Any) -> Tensor:
        """Upstream's selector on an HF output with all ``hidden_states``."""
        return self._select_tokens(image_forward_outs.hidden_states[self.select_layer])

    @torch.no_grad()
    def forward(self, images: Tensor | list[Tensor]) -> Tensor | list[Tensor]:
        """Pixels ``[B, 3, H, W]`` -> the selected layer ``[B, N, d]`` in the pixels' dtype; a list gives a list."""
        if not isinstance(images, list):
            return self._selected_layer(images)
        if len({image.shape for image in images}) == 1:
            return list(self._selected_layer(torch.stack(images)).unsqueeze(1).unbind(0))
        return [self._selected_layer(image.unsqueeze(0)) for image in images]

    def _selected_layer(self, images: Tensor) -> Tensor:
        (index,) = self.hidden_state_indices((self.select_layer,))
        return self._select_tokens(self._hidden_states(images, {index})[index]).to(images.dtype)

    @torch.no_grad()
    def forward_layers(self, images: Tensor, layers: Layers, class_token: bool = False) -> tuple[Tensor, Tensor]:
        """Pixels ``[B, 3, H, W]`` -> (selected layer ``[B, N, d]``, chosen layers' patches ``[B, L, N, d]``).

        With ``class_token`` each layer's class token comes before its patches, ``[B, L, 1 + N, d]``. UserError for a
        layer out of range or named twice.
        """
        (selected,) = self.hidden_state_indices((self.select_layer,))
        indices = self.hidden_state_indices(layers)
        states = self._hidden_states(images, {selected, *indices})
        stack = torch.stack([states[index] if class_token else states[index][:, 1:] for index in indices], dim=1)
        return self._select_tokens(states[selected]).to(images.dtype), stack.to(images.dtype)

    @property
    def dummy_feature(self) -> Tensor:
        return torch.zeros(1, self.hidden_size, device=self.device, dtype=self.dtype)

    @property
    def dtype(self) -> torch.dtype:
        return self.vision_tower.vision_model.embeddings.class_embedding.dtype

    @property
    def device(self) -> torch.device:
        return self.vision_tower.vision_model.embeddings.class_embedding.device

    @property
    def config(self) -> CLIPVisionConfig:
        return self.vision_tower.config if self.is_loaded else self.cfg_only

    @property
    def hidden_size(self) -> int:
        return self.config.hidden_size

    @property
    def num_patches_per_side(self) -> int:
        return self.config.image_size // self.config.patch_size

    @property
    def num_patches(self) -> int:
        return self.num_patches_per_side**2


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

    def _hold(self, clip: CLIPVisionModel) -> None:
        super()._hold(clip)
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
