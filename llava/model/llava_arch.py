"""What makes a language model a LLaVA: pictures through tower and projector into the token sequence.

The way of a sample: pixels -> tower -> layers; token ids -> query embeddings; projector(layers, query) -> image tokens;
merge (AttAnchor may add copies) -> language model. Training, evaluation, chat and workers all come through here.
"""

import logging
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from ccra_patch.query import QueryMarkers, number_turns
from llava.constants import (
    DEFAULT_IM_END_TOKEN,
    DEFAULT_IM_START_TOKEN,
    DEFAULT_IMAGE_PATCH_TOKEN,
    IGNORE_INDEX,
    IMAGE_TOKEN_INDEX,
)
from llava.errors import UserError
from llava.mm_utils import get_anyres_image_grid_shape
from llava.model.adapter import read_adapter, read_newline, rows_of_embeddings, settings_of_adapter
from llava.model.anchoring import Matches, attanchor_settings, find_matches, insert_anchors, think_id_of
from llava.model.anyres import arrange_tiles, unpad_image
from llava.model.merge import ImageSlots, Layout, lay_out, pack
from llava.model.multimodal_encoder.builder import build_vision_tower
from llava.model.multimodal_encoder.tower import VisionTower
from llava.model.multimodal_projector.builder import build_vision_projector
from llava.model.multimodal_projector.registry import find_projector, needs_of, setting_names
from llava.model.sentence_encoder import SentenceEncoder, sentence_width
from llava.model.vocabulary import fit_vocabulary, whole

__all__ = ["LlavaMetaForCausalLM", "LlavaMetaModel", "unpad_image"]

logger = logging.getLogger(__name__)


class LlavaMetaModel:
    """Mix-in of the inner model: holds the vision tower, the projector and, for ``unpad``, the newline embedding."""

    vision_tower: VisionTower | list[VisionTower]
    mm_projector: nn.Module
    image_newline: nn.Parameter
    sentence_encoder: SentenceEncoder | None = None

    def __init__(self, config: Any) -> None:
        super().__init__(config)  # type: ignore[call-arg]  # the decoder's, next in line
        if hasattr(config, "mm_vision_tower"):
            self.vision_tower = build_vision_tower(config, delay_load=True)
            self.mm_projector = build_vision_projector(config)
            if "unpad" in getattr(config, "mm_patch_merge_type", "flat"):
                self.image_newline = nn.Parameter(torch.empty(config.hidden_size, dtype=self.dtype))

    def get_vision_tower(self) -> VisionTower | None:
        """The tower, or None for a text-only model. Under FSDP it is kept in a list, out of the wrapper's sight."""
        tower = getattr(self, "vision_tower", None)
        return tower[0] if isinstance(tower, list) else tower

    def initialize_vision_modules(self, model_args: Any, fsdp: Any = None) -> None:
        """Bring in tower and projector as the training flags say, record them in the config, load an adapter.

        Raises UserError for an unknown projector type or tower, settings that cannot be, an adapter that does not fit.
        """
        config = self.config
        tower = self.get_vision_tower()
        if tower is None:
            tower = build_vision_tower(model_args)
            self.vision_tower = [tower] if fsdp else tower
            if getattr(model_args, "s2", False):
                config.s2, config.s2_scales = True, model_args.s2_scales
        else:
            tower.load_model()

        before = self._projector_settings()
        config.mm_vision_tower = model_args.vision_tower
        config.use_mm_proj = True
        config.mm_projector_type = getattr(model_args, "mm_projector_type", "linear")
        config.mm_hidden_size = tower.hidden_size
        config.mm_vision_select_layer = model_args.mm_vision_select_layer
        config.mm_vision_select_feature = model_args.mm_vision_select_feature
        config.mm_patch_merge_type = model_args.mm_patch_merge_type
        spec = find_projector(config.mm_projector_type)
        for name in setting_names(spec):
            setattr(config, name, getattr(model_args, name))

        state = read_adapter(model_args.pretrain_mm_mlp_adapter) if model_args.pretrain_mm_mlp_adapter else None
        old = getattr(self, "mm_projector", None)
        if old is None or self._projector_settings() != before:
            if state is None and old is not None:
                state = dict(old.state_dict())  # a whole LLaVA is its own adapter
            with torch.random.fork_rng(devices=[]):
                # By the run's seed alone, not by how many random numbers loading took under this launcher.
                torch.manual_seed(torch.initial_seed())
                projector = build_vision_projector(config)
            self.mm_projector = projector.to(dtype=self.dtype, device=self.device)
        if layers := needs_of(self.mm_projector).layers:
            logger.info("%s reads hidden states %s", config.mm_projector_type, tower.hidden_state_indices(layers))
        if "unpad" in config.mm_patch_merge_type and getattr(self, "image_newline", None) is None:
            scale = config.hidden_size**-0.5
            self.image_newline = nn.Parameter(torch.randn(config.hidden_size, dtype=self.dtype) * scale)
        # LoRA froze everything that stood when it wrapped the model.
        self.mm_projector.requires_grad_(True)
        if getattr(self, "image_newline", None) is not None:
            self.image_newline.requires_grad_(True)
        if state is not None:
            try:
                spec.load_adapter(self.mm_projector, state)
            except UserError as error:
                adapter = model_args.pretrain_mm_mlp_adapter
                origin = settings_of_adapter(adapter) if adapter else before
                raise UserError(f"{error}{_what_differs(origin, self._projector_settings())}") from error
        if model_args.pretrain_mm_mlp_adapter and getattr(self, "image_newline", None) is not None:
            newline = read_newline(model_args.pretrain_mm_mlp_adapter)
            if newline is not None:
                self.image_newline.data.copy_(newline)

    def load_sentence_encoder(self, tokenizer: Any) -> None:
        """Load the sentence encoder that the projector asks for, if it does; ``tokenizer`` is the language model's.

        Raises UserError when there is no such encoder.
        """
        name = needs_of(self.mm_projector).sentence_encoder
        self.sentence_encoder = None if name is None else SentenceEncoder(name, tokenizer)

    def _projector_settings(self) -> dict[str, Any]:
        """The part of the config that decides what the projector is; empty for a text model."""
        projector_type = getattr(self.config, "mm_projector_type", None)
        if projector_type is None:
            return {}
        names = ("mm_projector_type", "mm_hidden_size", *setting_names(find_projector(projector_type)))
        return {name: getattr(self.config, name, None) for name in names}


def _what_differs(origin: dict[str, Any], wanted: dict[str, Any]) -> str:
    """Where an adapter was trained with other settings than a model wants; goes behind the message that it misfits."""
    pairs = [(name, origin[name], value) for name, value in wanted.items() if name in origin]
    differing = [f"{name} {old} there and {new} here" for name, old, new in pairs if old != new]
    return f"; they differ in {', '.join(differing)}" if differing else "; check mm_projector_type and its settings"


class LlavaMetaForCausalLM(ABC):
    """Mix-in of the causal language model: pictures and token ids in, embeddings out."""

    @abstractmethod
    def get_model(self) -> LlavaMetaModel:
        """The inner model."""

    def get_vision_tower(self) -> VisionTower | None:
        return self.get_model().get_vision_tower()

    def encode_images(self, images: Tensor, query: Tensor | None = None, query_mask: Tensor | None = None) -> Tensor:
        """Pictures ``[B, 3, H, W]`` -> image tokens ``[B, N, D]``; the projector is passed exactly what it needs.

        ``query [B, T, D]`` (or as wide as the sentence encoder's vectors) and ``query_mask [B, T]`` belong to each
        picture's sample. A projector that reads the question gives its answer to an empty one when they are not given.
        """
        projector = self.get_model().mm_projector
        tower = self.get_vision_tower()
        needs = needs_of(projector)
        dtype = next((parameter.dtype for parameter in projector.parameters()), images.dtype)
        if not needs.layers:
            return projector(tower(images).to(dtype))
        features, layers = tower.forward_layers(images, needs.layers, needs.class_token)
        # Under autocast the stack stays in the tower's half precision; all that a copy would add is memory.
        if not torch.is_autocast_enabled(layers.device.type):
            layers = layers.to(dtype)
        extra = {}
        if needs.query is not None:
            if query is None:
                encoder = needs.sentence_encoder
                width = self.config.hidden_size if encoder is None else sentence_width(encoder)
                query = features.new_zeros(len(features), 1, width)
                query_mask = torch.zeros(len(features), 1, dtype=torch.bool, device=features.device)
            extra = {"query": query.to(dtype), "query_mask": query_mask}
        return projector(features.to(dtype), layers, **extra)

    def _image_tokens(
        self, images: Tensor | list[Tensor], image_sizes: Any, query: tuple[Tensor, Tensor] | None, samples: Tensor
    ) -> tuple[list[Tensor], list[Tensor]]:
        """One block of tokens ``[n_i, D]`` for each picture of the batch, and which patch each token is ``[n_i]``.

        A 4-D tensor is one picture a row. A list, or a 5-D tensor, holds tiles ``[P, 3, H, W]`` of each picture.
        ``samples`` names each picture's row. Patches count on through a picture's tiles. -1 is a token without a place
        in the picture: a line's end, the class token, what a projector makes beside the patches.
        """
        tiled = isinstance(images, list) or images.ndim == 5
        pictures = [image if image.ndim == 4 else image.unsqueeze(0) for image in images]
        tiles = [len(picture) for picture in pictures]
        query_args: tuple[Tensor, ...] = ()
        if query is not None:
            rows = samples.clamp(min=0).repeat_interleave(torch.tensor(tiles, device=samples.device))
            query_args = (query[0][rows], query[1][rows])
        # Every tile of every picture in one call; they all have the processor's size.
        features = self.encode_images(torch.cat(pictures), *query_args)
        tower = self.get_vision_tower()
        number = torch.arange(features.shape[1], device=features.device)
        if tower.select_feature == "cls_patch":
            number = number - 1
        number = number.masked_fill(number >= tower.num_patches, -1)
        if not tiled:
            return list(features), [number] * len(features)
        parts = features.split(tiles)
        first = [tower.num_patches * torch.arange(count, device=number.device).view(-1, 1, 1) for count in tiles]
        numbers = [torch.where(number[:, None] < 0, -1, number[:, None] + start) for start in first]
        newline = getattr(self.get_model(), "image_newline", None)
        no_patch = numbers[0].new_tensor([-1])
        return (
            [self._arrange(part, image_sizes, i, newline) for i, part in enumerate(parts)],
            [self._arrange(part, image_sizes, i, no_patch).squeeze(-1) for i, part in enumerate(numbers)],
        )

    def _arrange(self, features: Tensor, image_sizes: Any, index: int, newline: Tensor | None) -> Tensor:
        """Tiles of picture ``index``, ``[P, N, D]``, as one row of tokens, as ``mm_patch_merge_type`` says."""
        config, tower = self.config, self.get_vision_tower()
        merge_type = getattr(config, "mm_patch_merge_type", "flat")
        if merge_type == "flat":
            return features.flatten(0, 1)
        if not merge_type.startswith("spatial"):
            raise UserError(f"mm_patch_merge_type is {merge_type!r}; it must be flat, spatial or spatial_unpad")
        if features.shape[1] != tower.num_patches:
            raise UserError(
                f"mm_patch_merge_type is {merge_type!r}, which places one token per patch; {config.mm_projector_type} "
                f"makes {features.shape[1]} of {tower.num_patches} patches: use mm_patch_merge_type flat"
            )
        newline = newline if "unpad" in merge_type else None
        if len(features) == 1:
            return arrange_tiles(features, (1, 1), tower.num_patches_per_side, (1, 1), newline)
        if config.image_aspect_ratio != "anyres":
            raise NotImplementedError(
                f"mm_patch_merge_type {merge_type} arranges tiles, which only image_aspect_ratio anyres makes; it is "
                f"{config.image_aspect_ratio}"
            )
        size = tuple(image_sizes[index])
        grid = get_anyres_image_grid_shape(size, config.image_grid_pinpoints, tower.image_size)
        return arrange_tiles(features, grid, tower.num_patches_per_side, size, newline)

    def _query(self, input_ids: Tensor, valid: Tensor, token_embeds: Tensor) -> tuple[Tensor, Tensor] | None:
        """The question's embeddings ``[B, T, D]`` and mask ``[B, T]``, when the projector asks for them.

        Those of its tokens; or of its turns, by the sentence encoder.
        """
        needs = needs_of(self.get_model().mm_projector)
        if needs.query is None:
            return None
        turns = number_turns(input_ids, valid, self._query_markers(self.config.mm_projector_type), needs.query)
        if needs.sentence_encoder is not None:
            encoder = self.get_model().sentence_encoder
            if encoder is None:
                raise UserError(
                    f"{self.config.mm_projector_type} reads the question by {needs.sentence_encoder}, which is not "
                    "loaded; use load_pretrained_model, or call model.get_model().load_sentence_encoder(tokenizer)"
                )
            return encoder(input_ids, turns)
        places, mask = pack(turns > 0)
        rows = torch.arange(len(places), device=places.device).unsqueeze(1)
        return token_embeds[rows, places], mask

    def _query_markers(self, reader: str) -> QueryMarkers:
        markers = getattr(self.config, "mm_query_markers", None)
        if markers is None:
            raise UserError(
                f"{reader} reads the question, but config.json lacks mm_query_markers; train with this project's "
                "train.py, which writes them"
            )
        return QueryMarkers.from_dict(markers)

    def _lay_out(
        self, input_ids: Tensor, valid: Tensor, images: Tensor | list[Tensor], image_sizes: Any, think_id: int | None
    ) -> Layout:
        """Text and image tokens in their places. With ``think_id`` the vector before the last is a pause token's."""
        token_embeds = self.get_model().embed_tokens(input_ids.clamp(min=0))
        slots = ImageSlots.assign(valid & (input_ids == IMAGE_TOKEN_INDEX), len(images))
        query = self._query(input_ids, valid, token_embeds)
        blocks, patches = self._image_tokens(images, image_sizes, query, slots.sample_of_block)
        if think_id is not None:
            # A block that no <image> claims: it stands nowhere until it is copied.
            think_ids = torch.tensor([think_id], device=input_ids.device)
            blocks.append(self.get_model().embed_tokens(think_ids))
            patches.append(torch.full_like(think_ids, -1))
        return lay_out(token_embeds, input_ids, valid, blocks, patches, slots)

    def find_anchors(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        images: Tensor | list[Tensor],
        image_sizes: Any = None,
        *,
        direction: str,
        query: str = "human",
    ) -> tuple[Layout, Matches]:
        """Where AttAnchor's tokens stand and what each is most like, whatever the config's threshold says.

        Arguments as for ``forward``; ``direction`` and ``query`` as the settings of these names.
        """
        valid = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
        layout = self._lay_out(input_ids, valid, images, image_sizes, None)
        turns = number_turns(input_ids, valid, self._query_markers("AttAnchor"), query)
        return layout, find_matches(layout, turns, direction)

    def lay_out_prompt(
        self, input_ids: Tensor, attention_mask: Tensor | None, images: Tensor | list[Tensor], image_sizes: Any = None
    ) -> Layout:
        """Which vector the language model sees at which place, anchors included; arguments as for ``forward``."""
        valid = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
        settings = attanchor_settings(self.config)
        layout = self._lay_out(input_ids, valid, images, image_sizes, think_id_of(self.config, settings))
        if settings.mm_attanchor_direction == "off":
            return layout
        turns = number_turns(input_ids, valid, self._query_markers("AttAnchor"), settings.mm_attanchor_query)
        return insert_anchors(layout, turns, settings)

    def prepare_inputs_labels_for_multimodal(
        self,
        input_ids: Any,
        position_ids: Tensor | None,
        attention_mask: Tensor | None,
        past_key_values: Any,
        labels: Tensor | None,
        images: Tensor | list[Tensor] | None,
        image_sizes: Any = None,
        *,
        for_generation: bool = False,
    ) -> tuple[Any, Any, Any, Any, Any, Any]:
        """Token ids ``[B, S]`` and pictures -> (ids, position_ids, attention_mask, past, inputs_embeds, labels).

        With pictures, ids are None and ``inputs_embeds`` is ``[B, S', D]``; without pictures (or in the middle of
        decoding) everything returns unchanged. What the caller gave as None comes back as None.

        ``for_generation`` pads on the left and never cuts the prompt: the tokens to predict follow the last column,
        and what a cut would lose is the end of the question.

        Raises IndexError when there are fewer images than the samples use up.
        """
        decoding = past_key_values is not None and input_ids.shape[1] == 1
        if self.get_vision_tower() is None or images is None or decoding:
            return input_ids, position_ids, attention_mask, past_key_values, None, labels

        merged = self.lay_out_prompt(input_ids, attention_mask, images, image_sizes).arrange(
            torch.full_like(input_ids, IGNORE_INDEX) if labels is None else labels,
            max_length=None if for_generation else getattr(self.config, "tokenizer_model_max_length", None),
            padding_side="left" if for_generation else getattr(self.config, "tokenizer_padding_side", "right"),
        )
        return (
            None,
            None if position_ids is None else merged.position_ids,
            None if attention_mask is None else merged.valid.to(attention_mask.dtype),
            past_key_values,
            merged.inputs_embeds,
            None if labels is None else merged.labels,
        )

    def initialize_vision_tokenizer(self, model_args: Any, tokenizer: Any) -> None:
        """Add the image tokens that the flags ask for; new rows start at the mean of the old ones.

        With ``mm_use_im_start_end`` an adapter file can carry the rows of the two tokens (or the whole embedding).
        """
        if model_args.mm_use_im_patch_token:
            num_new = tokenizer.add_tokens([DEFAULT_IMAGE_PATCH_TOKEN], special_tokens=True)
            fit_vocabulary(self, len(tokenizer), num_new)
        if model_args.mm_use_im_start_end:
            num_new = tokenizer.add_tokens([DEFAULT_IM_START_TOKEN, DEFAULT_IM_END_TOKEN], special_tokens=True)
            fit_vocabulary(self, len(tokenizer), num_new)
            if model_args.pretrain_mm_mlp_adapter and num_new:
                rows = rows_of_embeddings(model_args.pretrain_mm_mlp_adapter, len(tokenizer), num_new)
                if rows is not None:
                    weight = self.get_input_embeddings().weight
                    with whole(weight):
                        weight.data[-num_new:] = rows.to(weight)
        if model_args.tune_mm_mlp_adapter and (model_args.mm_use_im_start_end or model_args.mm_use_im_patch_token):
            # In this order: where the two are one weight (MPT), it trains.
            self.get_output_embeddings().requires_grad_(False)
            self.get_input_embeddings().requires_grad_(model_args.mm_use_im_start_end)
