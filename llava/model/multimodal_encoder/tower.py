"""A frozen vision transformer as LLaVA's eye: one layer for upstream's callers, any layers for those who ask."""

import logging
import os
from abc import abstractmethod
from collections.abc import Iterable, Set
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from llava.errors import UserError
from llava.mm_utils import load_image_processor
from llava.model.multimodal_encoder.feature_cache import VARIABLE, FeatureCache, cache_folder
from llava.model.multimodal_projector.registry import Layers

logger = logging.getLogger(__name__)


def transformer_of(model: PreTrainedModel) -> Any:
    """The vision transformer: ``model.vision_model``, or since transformers 5.20 the model itself."""
    return getattr(model, "vision_model", model)


class _NamedAsUpstream(nn.Module):
    """Holds a vision transformer under ``vision_model``, the name it has in every LLaVA checkpoint.

    transformers 5.20 dropped that level from ``CLIPVisionModel``; with it put back, state-dict keys are upstream's
    whatever the library version.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.vision_model = transformer_of(model)
        self.config = model.config


class VisionTower(nn.Module):
    """A frozen vision tower; a subclass per family says how to read it and how to run it.

    Args:
        vision_tower: folder or hub name.
        args: bag with ``mm_vision_select_layer`` (index into the hidden states, negative from the end), and
            optionally ``mm_vision_select_feature`` (``patch`` drops the class token, ``cls_patch`` keeps it) and
            ``unfreeze_mm_vision_tower`` (the tower's weights live in the LLaVA checkpoint).
        delay_load: only read the tower's config now; ``load_model`` brings the weights. A tower whose weights live in
            the LLaVA checkpoint is built at once, empty, for ``from_pretrained`` to fill.

    Letters: B images, L layers, N patches, d vision width, C class tokens (0 or 1).
    """

    config_class: ClassVar[type[PreTrainedConfig]]
    model_class: ClassVar[type[PreTrainedModel]]
    class_tokens: ClassVar[int] = 1

    def __init__(self, vision_tower: str, args: Any, delay_load: bool = False) -> None:
        super().__init__()
        self.is_loaded = False
        self._opened_cache: tuple[Any, FeatureCache | None] | None = None
        self.vision_tower_name = vision_tower
        self.select_layer: int = args.mm_vision_select_layer
        self.select_feature: str = getattr(args, "mm_vision_select_feature", "patch")
        if not delay_load:
            self.load_model()
        elif getattr(args, "unfreeze_mm_vision_tower", False):
            # Not load_model: inside from_pretrained everything is built on the meta device, where nothing can be read.
            self._hold(self.model_class(self.config_class.from_pretrained(vision_tower)))
        else:
            self.cfg_only = self.config_class.from_pretrained(vision_tower)

    @abstractmethod
    def _embed(self, images: Tensor) -> Tensor:
        """Pixels ``[B, 3, H, W]`` in the tower's dtype -> hidden state 0, ``[B, C + N, d]``."""

    @abstractmethod
    def _blocks(self) -> Iterable[nn.Module]:
        """The transformer's blocks, from the first to the last."""

    def _run_block(self, block: nn.Module, hidden: Tensor) -> Tensor:
        return block(hidden, attention_mask=None)

    def load_model(self, device_map: Any = None) -> None:
        """Load weights and image processor, unless they are there, and freeze the weights."""
        if self.is_loaded:
            logger.info("%s is already loaded", self.vision_tower_name)
        else:
            self._hold(self.model_class.from_pretrained(self.vision_tower_name, device_map=device_map))
        # Also those that a LLaVA checkpoint filled: from_pretrained leaves everything trainable.
        self.requires_grad_(False)

    def _hold(self, model: PreTrainedModel) -> None:
        self.image_processor = load_image_processor(self.vision_tower_name)
        self.vision_tower = _NamedAsUpstream(model)
        self.vision_tower.eval()
        self.is_loaded = True

    def train(self, mode: bool = True) -> "VisionTower":
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
        """``{index: [B, C + N, d]}`` of pixels ``[B, 3, H, W]``, from the feature cache if there is one."""
        images = images.to(device=self.device, dtype=self.dtype)
        cache = self._feature_cache()
        # Autocast gives a float32 tower other bits than those that were kept; half precision it leaves alone.
        recast = self.dtype == torch.float32 and torch.is_autocast_enabled(self.device.type)
        if cache is None or recast:
            return self.compute_hidden_states(images, wanted)
        return cache.read(images, wanted, self.compute_hidden_states)

    def _feature_cache(self) -> FeatureCache | None:
        """The cache for the tower as it is now: it may have moved, or changed its dtype, since it was loaded."""
        kind = (os.environ.get(VARIABLE), self.device, self.dtype)
        if self._opened_cache is None or self._opened_cache[0] != kind:
            folder = cache_folder(self.vision_tower.vision_model)
            cache = None if folder is None else FeatureCache(folder)
            if cache is not None:
                level = logging.INFO if len(cache) else logging.WARNING
                logger.log(level, "%s: features of %d pictures are in %s", self.vision_tower_name, len(cache), folder)
            self._opened_cache = kind, cache
        return self._opened_cache[1]

    def compute_hidden_states(self, images: Tensor, wanted: Set[int]) -> dict[int, Tensor]:
        """Run the transformer up to the deepest wanted index; ``{index: [B, C + N, d]}``.

        Block by block and not by ``output_hidden_states``: the hooks behind that flag double their output once the
        language model has used the same flag (transformers 5.23), and nothing past the deepest index is computed.
        """
        hidden = self._embed(images)
        states = {0: hidden} if 0 in wanted else {}
        for index, block in enumerate(self._blocks(), start=1):
            if index > max(wanted):
                break
            hidden = self._run_block(block, hidden)
            if index in wanted:
                states[index] = hidden
        return states

    def _select_tokens(self, hidden: Tensor) -> Tensor:
        if self.select_feature == "patch":
            return hidden[:, self.class_tokens :]
        if self.select_feature == "cls_patch":
            self._require_class_token("mm_vision_select_feature cls_patch")
            return hidden
        raise UserError(f"Unexpected select feature: {self.select_feature}; choose patch or cls_patch")

    def _require_class_token(self, reader: str) -> None:
        if not self.class_tokens:
            raise UserError(
                f"{reader} needs a class token, and {self.vision_tower_name} ({self.config.model_type}) has none; "
                "choose one that reads patches alone, or another tower"
            )

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
        layer out of range or named twice, and for the class token of a tower that has none.
        """
        if class_token:
            self._require_class_token("this projector")
        (selected,) = self.hidden_state_indices((self.select_layer,))
        indices = self.hidden_state_indices(layers)
        states = self._hidden_states(images, {selected, *indices})
        first = 0 if class_token else self.class_tokens
        stack = torch.stack([states[index][:, first:] for index in indices], dim=1)
        return self._select_tokens(states[selected]).to(images.dtype), stack.to(images.dtype)

    @property
    def dummy_feature(self) -> Tensor:
        return torch.zeros(1, self.hidden_size, device=self.device, dtype=self.dtype)

    @property
    def dtype(self) -> torch.dtype:
        return next(self.vision_tower.parameters()).dtype

    @property
    def device(self) -> torch.device:
        return next(self.vision_tower.parameters()).device

    @property
    def config(self) -> Any:
        return self.vision_tower.config if self.is_loaded else self.cfg_only

    @property
    def hidden_size(self) -> int:
        return self.config.hidden_size

    @property
    def image_size(self) -> int:
        """Pixels per side of the pictures that the tower is given."""
        return self.config.image_size

    @property
    def num_patches_per_side(self) -> int:
        return self.image_size // self.config.patch_size

    @property
    def num_patches(self) -> int:
        return self.num_patches_per_side**2
