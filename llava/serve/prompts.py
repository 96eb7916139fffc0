"""What a prompt must be before a model reads it: a mark for each picture, and room left for the answer."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Self

import torch
from transformers import PreTrainedTokenizerBase

from llava.constants import DEFAULT_IM_END_TOKEN, DEFAULT_IM_START_TOKEN, DEFAULT_IMAGE_TOKEN
from llava.errors import UserError
from llava.mm_utils import get_anyres_image_grid_shape, tokenizer_image_token
from llava.model.anyres import arrange_tiles
from llava.model.builder import DEFAULT_CONTEXT_LENGTH, Checkpoint
from llava.model.multimodal_encoder.builder import build_vision_tower
from llava.model.multimodal_encoder.tower import VisionTower
from llava.serve.failures import TooLong
from llava.tokenization import load_tokenizer

Size = tuple[int, int]  # (width, height) of a picture in pixels


def require_marks(prompt: str, pictures: int) -> None:
    """UserError unless ``prompt`` has one ``<image>`` for each of so many pictures."""
    marks = prompt.count(DEFAULT_IMAGE_TOKEN)
    if marks != pictures:
        raise UserError(f"the prompt has {marks} {DEFAULT_IMAGE_TOKEN} for {pictures} pictures; they must be as many")


def framed(prompt: str) -> str:
    """The prompt with each ``<image>`` between the tokens that ``mm_use_im_start_end`` asks for."""
    return prompt.replace(DEFAULT_IMAGE_TOKEN, DEFAULT_IM_START_TOKEN + DEFAULT_IMAGE_TOKEN + DEFAULT_IM_END_TOKEN)


def too_long(size: str, context_length: int) -> TooLong:
    """The error for a prompt of ``size`` (a number and its unit) in a context of so many tokens."""
    return TooLong(
        f"the prompt has {size}, this model reads {context_length} tokens with the answer; start a new conversation or "
        "ask a shorter question"
    )


@dataclass(frozen=True)
class PromptMeter:
    """Measures a prompt without its model, by what the checkpoint's files say, for a model that runs elsewhere.

    Attributes:
        config: of the checkpoint.
        tokenizer: of the checkpoint.
        tower: its vision tower, of which only the config is read; None in a text model.
    """

    config: SimpleNamespace
    tokenizer: PreTrainedTokenizerBase
    tower: VisionTower | None

    @classmethod
    def read(cls, checkpoint: str, tokenizer: str) -> Self:
        """From folders or hub names. Raises UserError when config or tokenizer cannot be read there."""
        found = Checkpoint.inspect(checkpoint, None, checkpoint)
        config = SimpleNamespace(**found.config)
        tower = build_vision_tower(config, delay_load=True) if found.is_multimodal else None
        return cls(config, load_tokenizer(tokenizer), tower)

    @property
    def frames_pictures(self) -> bool:
        """Whether the model was trained with tokens before and after each picture."""
        return bool(getattr(self.config, "mm_use_im_start_end", False))

    @property
    def context_length(self) -> int:
        """Tokens that prompt, pictures and answer may have together."""
        return getattr(self.config, "max_position_embeddings", DEFAULT_CONTEXT_LENGTH)

    def length(self, prompt: str, pictures: list[Size]) -> int:
        """Tokens of a prompt, with those that its pictures become. UserError for pictures and a text model."""
        if pictures and self.tower is None:
            raise UserError("this model reads text only; send no pictures, or ask a LLaVA model")
        text = len(tokenizer_image_token(prompt, self.tokenizer)) - len(pictures)
        return text + sum(self._picture_length(size) for size in pictures)

    def _picture_length(self, size: Size) -> int:
        tower, config = self.tower, self.config
        assert tower is not None
        if getattr(config, "image_aspect_ratio", None) != "anyres":
            return tower.num_patches
        grid = get_anyres_image_grid_shape(size, config.image_grid_pinpoints, tower.config.image_size)
        tiles = torch.empty(1 + grid[0] * grid[1], tower.num_patches, 1)
        merge_type = getattr(config, "mm_patch_merge_type", "flat")
        if merge_type == "flat":
            return tiles.numel()
        newline = torch.empty(1) if "unpad" in merge_type else None
        return len(arrange_tiles(tiles, grid, tower.num_patches_per_side, size, newline))
