"""How much memory one device needs to train a recipe, from shapes alone.

The sum of what a step holds at its worst moment, the backward pass through the loss: weights, gradients, AdamW's
states, kept activations, the logits and their gradients, the layer that is being recomputed, and the vision features.
``tests/llava/train/test_memory.py`` compares it with measured peaks and states the error.
"""

from dataclasses import dataclass
from typing import Any

GB = 2**30


@dataclass(frozen=True)
class Shapes:
    """What the estimate reads of the two configs. Names follow transformers."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    vocab_size: int
    vision_hidden_size: int
    vision_intermediate_size: int
    vision_layers: int
    vision_patches: int
    tie_word_embeddings: bool = False

    @classmethod
    def from_configs(cls, language: dict[str, Any], vision: dict[str, Any]) -> "Shapes":
        """From two ``config.json``; the vision one may be a whole CLIP's."""
        vision = vision.get("vision_config") or vision
        return cls(
            hidden_size=language["hidden_size"],
            intermediate_size=language["intermediate_size"],
            num_hidden_layers=language["num_hidden_layers"],
            num_attention_heads=language["num_attention_heads"],
            num_key_value_heads=language.get("num_key_value_heads") or language["num_attention_heads"],
            vocab_size=language["vocab_size"],
            vision_hidden_size=vision["hidden_size"],
            # DINOv2 says it as a ratio.
            vision_intermediate_size=vision.get("intermediate_size") or vision["hidden_size"] * vision["mlp_ratio"],
            vision_layers=vision["num_hidden_layers"],
            vision_patches=(vision["image_size"] // vision["patch_size"]) ** 2,
            tie_word_embeddings=bool(language.get("tie_word_embeddings")),
        )

    @property
    def key_value_size(self) -> int:
        return self.hidden_size // self.num_attention_heads * self.num_key_value_heads

    @property
    def language_parameters(self) -> int:
        attention = 2 * self.hidden_size * (self.hidden_size + self.key_value_size)
        layer = attention + 3 * self.hidden_size * self.intermediate_size + 2 * self.hidden_size
        embeddings = self.vocab_size * self.hidden_size * (1 if self.tie_word_embeddings else 2)
        return self.num_hidden_layers * layer + embeddings + self.hidden_size

    @property
    def vision_parameters(self) -> int:
        width = self.vision_hidden_size
        layer = 4 * width * width + 2 * width * self.vision_intermediate_size + 9 * width
        return self.vision_layers * layer + (self.vision_patches + 4) * width

    def lora_parameters(self, rank: int) -> int:
        """LoRA on every linear layer of the decoder: rank times (inputs + outputs)."""
        width, kv, inner = self.hidden_size, self.key_value_size, self.intermediate_size
        return rank * self.num_hidden_layers * (4 * width + 2 * (width + kv) + 3 * (width + inner))


@dataclass(frozen=True)
class Recipe:
    """What of a training run decides its memory.

    ``projector_parameters`` train in every mode; ``trains`` says what else: ``projector`` (nothing), ``lora``, ``all``.
    ``labelled_length`` counts the tokens of a sample that have a label, and so logits; None: all but the picture's.
    ``zero_stage`` 0 is no DeepSpeed: weights that train are then float32 under autocast.
    """

    batch_size: int
    sequence_length: int
    projector_parameters: int
    labelled_length: int | None = None
    trains: str = "all"
    lora_rank: int = 64
    half_precision: bool = True
    zero_stage: int = 2
    processes: int = 1
    gradient_checkpointing: bool = True
    stacked_layers: int = 0
    base_bits: int = 16


def estimate(shapes: Shapes, recipe: Recipe) -> dict[str, float]:
    """Bytes on one device by what they are for, largest moment of a step."""
    width = 2 if recipe.half_precision else 4
    language = shapes.language_parameters
    trained = recipe.projector_parameters
    trained += {"all": language, "lora": shapes.lora_parameters(recipe.lora_rank), "projector": 0}[recipe.trains]
    frozen = shapes.vision_parameters + (0 if recipe.trains == "all" else language)

    shard = {stage: recipe.processes if recipe.zero_stage >= stage else 1 for stage in (1, 2, 3)}
    if recipe.zero_stage:
        weights, gradients, optimizer = width * trained, width * trained, (12 if width == 2 else 8) * trained
    else:  # float32 weights; autocast keeps a half-precision copy of them for the step
        weights, gradients, optimizer = (4 + (2 if width == 2 else 0)) * trained, 4 * trained, 8 * trained
    base_width = width if recipe.base_bits == 16 else recipe.base_bits / 8

    tokens = recipe.batch_size * recipe.sequence_length
    hidden, inner = shapes.hidden_size, shapes.intermediate_size
    # One decoder layer: inputs of norms, projections and products, plus the norms' float32 copies.
    layer = tokens * (width * (8 * hidden + 2 * shapes.key_value_size + 4 * inner) + 2 * 4 * hidden)
    if recipe.trains == "lora":  # each linear layer keeps its input again behind LoRA's dropout, and the mask
        layer += tokens * (width + 1) * (6 * hidden + inner)
    if recipe.gradient_checkpointing:
        activations = shapes.num_hidden_layers * tokens * hidden * width + layer
    else:
        activations = shapes.num_hidden_layers * layer
    # Logits in the compute type, in float32, their log-softmax and its gradient.
    labelled = recipe.sequence_length - shapes.vision_patches
    if recipe.labelled_length is not None:
        labelled = recipe.labelled_length
    logits = recipe.batch_size * labelled * shapes.vocab_size * (12 if width == 4 else 16)
    patches = recipe.batch_size * shapes.vision_patches * width
    vision = patches * (max(recipe.stacked_layers, 1) * shapes.vision_hidden_size + 2 * shapes.vision_intermediate_size)
    return {
        "weights that train": weights / shard[3],
        "frozen weights": (base_width * (frozen - shapes.vision_parameters) + width * shapes.vision_parameters)
        / shard[3],
        "gradients": gradients / shard[2],
        "optimizer": optimizer / shard[1],
        "activations": float(activations),
        "logits": float(logits),
        "vision features": float(vision),
    }


def mlp_parameters(shapes: Shapes, inputs: int = 1) -> int:
    """LLaVA's two-layer projector over ``inputs`` layers side by side."""
    return (inputs * shapes.vision_hidden_size + 1) * shapes.hidden_size + (shapes.hidden_size + 1) * shapes.hidden_size
