"""A randomly initialised LLaVA of any size, for benchmarks: no download, no checkpoint."""

import tempfile
from typing import Any

import torch
from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModel

from llava.model.language_model.llava_llama import LlavaConfig, LlavaLlamaForCausalLM

BEGIN, OPEN, CLOSE, WORD, VOCABULARY = 1, 3, 4, 10, 1000  # token ids: roles, and the first that is a word
PATCH = 14  # pixels


def build_model(
    text_dim: int,
    depth: int,
    vision_dim: int,
    vision_depth: int,
    side: int,
    dtype: torch.dtype,
    device: str = "cpu",
    **settings: Any,
) -> LlavaLlamaForCausalLM:
    """In evaluation mode, its tower frozen.

    Args:
        text_dim, depth: width and layers of the language model; heads and feed-forward have Llama's proportions.
        vision_dim, vision_depth: of the CLIP tower.
        side: patches per side of a picture.
        settings: keys of the model's config, such as ``mm_projector_type`` (default ``mlp2x_gelu``).
    """
    with tempfile.TemporaryDirectory() as folder:
        pixels = side * PATCH
        tower = CLIPVisionConfig(
            hidden_size=vision_dim,
            intermediate_size=4 * vision_dim,
            num_hidden_layers=vision_depth,
            num_attention_heads=max(1, vision_dim // 64),
            image_size=pixels,
            patch_size=PATCH,
        )
        CLIPVisionModel(tower).save_pretrained(folder)
        size = {"size": {"shortest_edge": pixels}, "crop_size": {"height": pixels, "width": pixels}}
        CLIPImageProcessorPil(**size).save_pretrained(folder)
        given = {
            "mm_projector_type": "mlp2x_gelu",
            "mm_vision_select_layer": -2,
            "mm_query_markers": {"open": [[OPEN]], "close": [[CLOSE]], "skip": []},
        }
        config = LlavaConfig(
            vocab_size=VOCABULARY,
            hidden_size=text_dim,
            intermediate_size=int(2.6875 * text_dim),
            num_hidden_layers=depth,
            num_attention_heads=max(1, text_dim // 128),
            mm_vision_tower=folder,
            mm_hidden_size=vision_dim,
            **(given | settings),
        )
        with torch.device(device):
            torch.set_default_dtype(dtype)
            model = LlavaLlamaForCausalLM(config).eval()
            torch.set_default_dtype(torch.float32)
        model.get_vision_tower().load_model()
    model.get_vision_tower().to(device=device, dtype=dtype)
    return model
