"""``load_pretrained_model``: any LLaVA checkpoint, whole, LoRA or projector only, ready for inference.

What a folder is, its ``config.json`` and ``adapter_config.json`` say. Its name only breaks ties, with a message.
"""

import json
import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    BitsAndBytesConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import cached_file, is_bitsandbytes_available

from llava.constants import DEFAULT_IM_END_TOKEN, DEFAULT_IM_START_TOKEN, DEFAULT_IMAGE_PATCH_TOKEN
from llava.errors import UserError
from llava.model.adapter import read_weights
from llava.model.language_model.llava_llama import LlavaConfig, LlavaLlamaForCausalLM
from llava.model.language_model.llava_mistral import LlavaMistralConfig, LlavaMistralForCausalLM
from llava.model.language_model.llava_mpt import LlavaMptConfig, LlavaMptForCausalLM
from llava.model.vocabulary import fit_vocabulary
from llava.tokenization import load_tokenizer

logger = logging.getLogger(__name__)

# The language model's family -> our classes. "llava" is what LLaVA-1.x wrote before HF took the name for its own class.
FAMILIES: dict[str, tuple[type[PretrainedConfig], type[PreTrainedModel]]] = {
    "llama": (LlavaConfig, LlavaLlamaForCausalLM),
    "llava": (LlavaConfig, LlavaLlamaForCausalLM),
    "llava_llama": (LlavaConfig, LlavaLlamaForCausalLM),
    "mistral": (LlavaMistralConfig, LlavaMistralForCausalLM),
    "llava_mistral": (LlavaMistralConfig, LlavaMistralForCausalLM),
    "mpt": (LlavaMptConfig, LlavaMptForCausalLM),
    "llava_mpt": (LlavaMptConfig, LlavaMptForCausalLM),
}
DEFAULT_CONTEXT_LENGTH = 2048
ABOUT_BASE = ("vocab_size", "quantization_config")
# What a language model's checkpoint lacks of a LLaVA.
EYES = ("mm_projector", "image_newline", "vision_tower")
# Patterns, which transformers matches from the start of a module's name. Where any are given, lm_head must be, too, to
# stay whole; added tokens lengthen it, and packed weights cannot grow.
NEVER_QUANTISED = (r".*mm_projector", r".*vision_tower", "lm_head")
PROJECTOR_FILES = ("mm_projector.safetensors", "mm_projector.bin")


def find_file(path: str, name: str) -> str | None:
    """A file of a checkpoint, local or on the hub; None when it has no such file. UserError when neither exists."""
    if not Path(path).is_dir() and not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", path):
        raise UserError(f"model folder {path} does not exist; give an existing folder or a hub name (owner/name)")
    return cached_file(
        path, name, _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False
    )


def read_json(path: str) -> dict[str, Any]:
    """A JSON object from a file."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint folder turns out to be."""

    path: str
    base: str | None
    config: dict[str, Any]
    is_multimodal: bool
    is_lora: bool

    @classmethod
    def inspect(cls, path: str, base: str | None, name: str) -> "Checkpoint":
        """Read the folder's own files; UserError when there is no config or a base model is missing."""
        adapter_file = find_file(path, "adapter_config.json")
        config_file = find_file(path, "config.json")
        adapter = read_json(adapter_file) if adapter_file else {}
        if adapter_file and base is None:
            base = adapter.get("base_model_name_or_path")
            if base is None:
                raise UserError(f"{path} is a LoRA adapter; give the model it was trained on with --model-base")
            logger.warning("%s is a LoRA adapter on %s; loading that as the base", path, base)
        if config_file is None and adapter_file and base:
            config_file = find_file(base, "config.json")  # an adapter saved by PEFT alone
        if config_file is None:
            raise UserError(f"{path} has no config.json; give the folder of a checkpoint or a hub name (owner/name)")
        config = read_json(config_file)
        if "vision_config" in config:
            raise UserError(
                f"{path} is in the form of transformers' own LLaVA classes; turn it into LLaVA's with: "
                f"python -m llava.model.convert_hf --src {path} --dst FOLDER"
            )
        is_multimodal = "mm_vision_tower" in config or config.get("model_type", "").startswith("llava")
        if not is_multimodal and "llava" in name.lower():
            logger.warning("%s is called a LLaVA, but its config.json describes a text model; loading that", name)
        if not adapter_file and "lora" in name.lower():
            logger.warning("%s is called a LoRA, but has no adapter_config.json; loading it as a whole model", name)
        return cls(path, base, config, is_multimodal, is_lora=bool(adapter_file))


def load_config(config: dict[str, Any], path: str) -> tuple[PretrainedConfig, type[PreTrainedModel]]:
    """Our config object and model class for a multimodal ``config.json``; UserError for a family we do not have."""
    family = config.get("model_type", "llava")
    if family not in FAMILIES:
        raise UserError(f"{path}: model_type {family!r} is not supported; known are {', '.join(sorted(FAMILIES))}")
    config_class, model_class = FAMILIES[family]
    return config_class.from_dict({key: value for key, value in config.items() if key != "model_type"}), model_class


def supported_attention(model_class: type[PreTrainedModel], wanted: str | None) -> str | None:
    """``wanted``, or None (the class's only implementation) with a message where the class has no such thing."""
    if wanted in (None, "eager") or model_class._supports_sdpa:
        return wanted
    logger.warning("%s has no attn_implementation %s; using its own", model_class.__name__, wanted)
    return None


def load_pretrained_model(
    model_path: str,
    model_base: str | None,
    model_name: str,
    load_8bit: bool = False,
    load_4bit: bool = False,
    device_map: Any = "auto",
    device: str = "cuda",
    use_flash_attn: bool = False,
    **kwargs: Any,
) -> tuple[PreTrainedTokenizerBase, PreTrainedModel, Any, int]:
    """Load a checkpoint for inference.

    Args:
        model_path: folder or hub name.
        model_base: the language model under a LoRA or projector-only checkpoint.
        model_name: usually ``get_model_name_from_path(model_path)``; only used in messages.
        load_8bit, load_4bit: quantise with bitsandbytes.
        device_map, device: as in transformers; a ``device`` other than "cuda" wins over ``device_map``.
        use_flash_attn: FlashAttention 2 instead of SDPA.
        kwargs: passed to ``from_pretrained`` (``torch_dtype`` or ``dtype`` too; default float16, on a CPU float32).

    Returns:
        tokenizer, model in evaluation mode, image processor (None for a text model), context length in tokens.

    Raises:
        UserError: for a folder that is no checkpoint, a missing base model, weights that do not fit.
        TypeError: for an argument that ``from_pretrained`` does not know.
    """
    model_path = str(model_path)
    if device != "cuda":
        device_map = {"": device}
    on_cpu = device == "cpu" or not (torch.cuda.is_available() or torch.backends.mps.is_available())
    load_args = {"device_map": device_map, **kwargs}
    dtype = load_args.pop("torch_dtype", None) or load_args.pop("dtype", None)
    if load_8bit or load_4bit:
        load_args["quantization_config"] = _quantization(load_8bit)
        dtype = dtype or torch.float16
    load_args["dtype"] = dtype or (torch.float32 if on_cpu else torch.float16)
    if use_flash_attn:
        load_args["attn_implementation"] = "flash_attention_2"

    checkpoint = Checkpoint.inspect(model_path, model_base, model_name)
    tokenizer = load_tokenizer(checkpoint.base or model_path)
    if not checkpoint.is_multimodal:
        model = _load_merged_text_model(checkpoint, load_args)
        return tokenizer, model, None, _context_length(model)

    if checkpoint.base is not None:
        load = _load_lora if checkpoint.is_lora else _load_projector_on_base
        model = load(checkpoint, checkpoint.base, load_args)
    else:
        model = load_whole(checkpoint, load_args)
    _add_image_tokens(model, tokenizer)
    tower = model.get_vision_tower()
    tower.load_model(device_map=None if device_map == "auto" else device_map)
    tower.to(device=model.device, dtype=load_args["dtype"])
    model.get_model().load_sentence_encoder(tokenizer)
    model.eval()
    return tokenizer, model, tower.image_processor, _context_length(model)


def _quantization(eight_bit: bool) -> BitsAndBytesConfig:
    if not is_bitsandbytes_available():
        raise UserError("load_8bit and load_4bit need bitsandbytes; install it with: pip install bitsandbytes")
    whole = [*NEVER_QUANTISED]  # the skip list holds for both widths, whatever its name says
    if eight_bit:
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=whole)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        llm_int8_skip_modules=whole,
        bnb_4bit_compute_dtype=torch.float16,
        bnb_4bit_use_double_quant=True,
        bnb_4bit_quant_type="nf4",
    )


def _from_pretrained(
    model_class: type[PreTrainedModel], path: str, config: PretrainedConfig, load_args: dict[str, Any]
) -> tuple[PreTrainedModel, set[str]]:
    """The model, and the names of its weights that ``path`` does not have."""
    attention = supported_attention(model_class, load_args.get("attn_implementation"))
    load_args = load_args | {"attn_implementation": attention}
    model, info = model_class.from_pretrained(path, config=config, output_loading_info=True, **load_args)
    return model, info["missing_keys"]


def load_whole(checkpoint: Checkpoint, load_args: dict[str, Any]) -> PreTrainedModel:
    """A LLaVA with all its weights from one folder; UserError when one is missing."""
    config, model_class = load_config(checkpoint.config, checkpoint.path)
    model, missing = _from_pretrained(model_class, checkpoint.path, config, load_args)
    if missing:
        raise UserError(
            f"{checkpoint.path} lacks {len(missing)} of the model's weights, first {min(missing)!r}; "
            "is it a whole checkpoint, or does it need --model-base?"
        )
    return model


def _load_on_base(checkpoint: Checkpoint, base: str, load_args: dict[str, Any]) -> tuple[PreTrainedModel, set[str]]:
    """The base's language model under the checkpoint's config, and the weights that it leaves for the checkpoint."""
    base_file = find_file(base, "config.json")
    if base_file is None:
        raise UserError(f"base model {base} has no config.json; give a folder of a model or a hub name")
    # How the base's weights lie on the disk is the base's to say; training may have quantised them as it read them.
    own = {key: value for key, value in checkpoint.config.items() if key not in ABOUT_BASE}
    of_base = {key: value for key, value in read_json(base_file).items() if key in ABOUT_BASE}
    config, model_class = load_config(own | of_base, checkpoint.path)
    model, missing = _from_pretrained(model_class, base, config, load_args)
    lacking = sorted(name for name in missing if not any(part in name for part in EYES))
    if lacking:
        raise UserError(f"base model {base} lacks {len(lacking)} of the model's weights, first {lacking[0]!r}")
    own_size = checkpoint.config.get("vocab_size", model.config.vocab_size)
    if own_size != model.config.vocab_size:  # tokens were added in training; LoRA leaves their rows as training began
        fit_vocabulary(model, own_size, max(own_size - model.config.vocab_size, 0))
    return model, missing


def _fill(model: PreTrainedModel, missing: set[str], file: str | None, path: str) -> None:
    """Load the tensors of ``file``: each must have its place, and together they must be all that is missing."""
    weights = read_weights(file) if file is not None else {}
    weights = {name.removeprefix("base_model.model."): value for name, value in weights.items()}
    unexpected = [n for n in model.load_state_dict(weights, strict=False).unexpected_keys if "vision_tower" not in n]
    if unexpected:
        raise UserError(f"{file} holds {unexpected[0]!r}, which the model does not have; is it for another base?")
    lacking = sorted(missing - weights.keys())
    if lacking:
        raise UserError(f"neither the base model nor {path} has {lacking[0]!r}; give the base it was trained on")


def _load_lora(checkpoint: Checkpoint, base: str, load_args: dict[str, Any]) -> PreTrainedModel:
    from peft import PeftModel

    model, missing = _load_on_base(checkpoint, base, load_args)
    _fill(model, missing, find_file(checkpoint.path, "non_lora_trainables.bin"), checkpoint.path)
    return PeftModel.from_pretrained(model, checkpoint.path).merge_and_unload()


def _load_projector_on_base(checkpoint: Checkpoint, base: str, load_args: dict[str, Any]) -> PreTrainedModel:
    model, missing = _load_on_base(checkpoint, base, load_args)
    file = next((found for name in PROJECTOR_FILES if (found := find_file(checkpoint.path, name))), None)
    if file is None:
        raise UserError(
            f"{checkpoint.path} has neither adapter_config.json nor {' nor '.join(PROJECTOR_FILES)}; "
            "without one of them --model-base makes no sense"
        )
    _fill(model, missing, file, checkpoint.path)
    return model


def load_text_model(path: str, load_args: dict[str, Any]) -> PreTrainedModel:
    """A text model by transformers' own class; UserError for one that is no causal language model."""
    config = AutoConfig.from_pretrained(path, cache_dir=load_args.get("cache_dir"))
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise UserError(f"{path} is a {config.model_type!r}, not a causal language model; give one")
    model_class = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    attention = supported_attention(model_class, load_args.get("attn_implementation"))
    return model_class.from_pretrained(path, **load_args | {"attn_implementation": attention})


def _load_merged_text_model(checkpoint: Checkpoint, load_args: dict[str, Any]) -> PreTrainedModel:
    model = load_text_model(checkpoint.base or checkpoint.path, load_args)
    if checkpoint.is_lora:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, checkpoint.path).merge_and_unload()
    return model.eval()


def _add_image_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    config = model.config
    if getattr(config, "mm_use_im_patch_token", True):
        tokenizer.add_tokens([DEFAULT_IMAGE_PATCH_TOKEN], special_tokens=True)
    if getattr(config, "mm_use_im_start_end", False):
        tokenizer.add_tokens([DEFAULT_IM_START_TOKEN, DEFAULT_IM_END_TOKEN], special_tokens=True)
    rows = model.get_input_embeddings().num_embeddings
    if len(tokenizer) != rows:
        fit_vocabulary(model, len(tokenizer), max(len(tokenizer) - rows, 0))


def _context_length(model: PreTrainedModel) -> int:
    return getattr(model.config, "max_sequence_length", None) or DEFAULT_CONTEXT_LENGTH
