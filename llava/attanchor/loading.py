"""What calibration and drawing share: flags for a checkpoint, and the checkpoint with AttAnchor's settings on."""

import argparse
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ccra_patch.attanchor import AttAnchorSettings
from llava.attanchor.switch import add_attanchor_flags, enable_attanchor, given_attanchor_flags
from llava.conversation import Conversation, conv_templates
from llava.errors import UserError
from llava.eval.items import known_conv_mode
from llava.mm_utils import get_model_name_from_path
from llava.model.anchoring import attanchor_settings
from llava.model.builder import load_pretrained_model


class Loaded(NamedTuple):
    """A checkpoint that is ready to be asked."""

    tokenizer: PreTrainedTokenizerBase
    model: Any
    image_processor: Any
    conv: Conversation
    settings: AttAnchorSettings

    def to_model(self, images: Tensor | list[Tensor]) -> Tensor | list[Tensor]:
        """Pixels in the model's type, where it is."""
        if isinstance(images, list):
            return [image.to(self.model.device, self.model.dtype) for image in images]
        return images.to(self.model.device, self.model.dtype)


def add_model_flags(parser: argparse.ArgumentParser) -> None:
    """The checkpoint, its template, and AttAnchor's settings."""
    parser.add_argument("--model-path", required=True, help="LLaVA checkpoint: folder or hub name")
    parser.add_argument("--model-base", default=None, help="what a LoRA or projector-only checkpoint was trained on")
    parser.add_argument("--conv-mode", default="llava_v1", help="conversation template (default: llava_v1)")
    add_attanchor_flags(parser)


def load(args: argparse.Namespace) -> Loaded:
    """Load the checkpoint. A direction must be given or in its config; UserError otherwise, and for a text model."""
    conv = conv_templates[known_conv_mode(args.conv_mode)]
    name = get_model_name_from_path(args.model_path)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer, model, image_processor, _ = load_pretrained_model(args.model_path, args.model_base, name, device=device)
    if image_processor is None:
        raise UserError(f"{args.model_path} is a text-only model; AttAnchor needs one with a vision tower")
    enable_attanchor(model, tokenizer, conv, **given_attanchor_flags(args))
    settings = attanchor_settings(model.config)
    if settings.mm_attanchor_direction == "off":
        raise UserError(
            f"{args.model_path} was trained without AttAnchor; give --mm_attanchor_direction text_into_image or "
            "image_into_text"
        )
    return Loaded(tokenizer, model, image_processor, conv, settings)
