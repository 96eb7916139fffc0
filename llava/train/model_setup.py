"""From flags to a model that is ready to train: load, wrap, give it eyes, freeze."""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.integrations import (
    is_deepspeed_zero3_enabled,
    set_hf_deepspeed_config,
    unset_hf_deepspeed_config,
)

from llava import conversation
from llava.attanchor.switch import record_attanchor
from llava.errors import UserError
from llava.model.builder import NEVER_QUANTISED, find_file, load_config, load_text_model, read_json, supported_attention
from llava.model.multimodal_projector.registry import needs_of
from llava.model.vocabulary import fit_vocabulary
from llava.query_markers import query_markers
from llava.tokenization import load_tokenizer
from llava.train.arguments import DataArguments, ModelArguments, TrainingArguments

logger = logging.getLogger(__name__)

NOT_LANGUAGE = ("mm_projector", "vision_tower", "vision_resampler")


def compute_dtype(training_args: TrainingArguments) -> torch.dtype:
    """What matrix products run in."""
    if training_args.bf16:
        return torch.bfloat16
    return torch.float16 if training_args.fp16 else torch.float32


def weight_dtype(training_args: TrainingArguments, trained: bool) -> torch.dtype:
    """What weights are held in.

    Frozen ones need no more than the compute type. A trained one must keep updates far smaller than itself, so it stays
    float32 under autocast - unless DeepSpeed does that with master weights of its own.
    """
    return torch.float32 if trained and training_args.deepspeed is None else compute_dtype(training_args)


def load_language_model(
    model_args: ModelArguments, training_args: TrainingArguments, attn_implementation: str | None
) -> PreTrainedModel:
    """The language model (or whole LLaVA) that ``model_name_or_path`` names, as one of our classes."""
    path = model_args.model_name_or_path
    language_model_trains = not (
        model_args.tune_mm_mlp_adapter or model_args.freeze_backbone or training_args.lora_enable
    )
    load_args: dict[str, Any] = {
        "cache_dir": training_args.cache_dir,
        "attn_implementation": attn_implementation,
        "dtype": weight_dtype(training_args, language_model_trains),
    }
    if training_args.bits in (4, 8):
        load_args |= _quantised(training_args)
    if model_args.vision_tower is None:
        return load_text_model(path, load_args)
    config_file = find_file(path, "config.json")
    if config_file is None:
        raise UserError(f"--model_name_or_path {path} has no config.json; give a model's folder or a hub name")
    config, model_class = load_config(read_json(config_file), path)
    if "mpt" in config.model_type:  # noted as upstream does; transformers' MPT has one implementation of its own
        config.attn_config.attn_impl = training_args.mpt_attn_impl
    load_args["attn_implementation"] = supported_attention(model_class, attn_implementation)
    return model_class.from_pretrained(path, config=config, **load_args)


def _quantised(training_args: TrainingArguments) -> dict[str, Any]:
    from transformers import BitsAndBytesConfig
    from transformers.utils import is_bitsandbytes_available

    if not is_bitsandbytes_available():
        raise UserError(f"--bits {training_args.bits} needs bitsandbytes; install it with: pip install bitsandbytes")
    options: dict[str, Any]
    if training_args.bits == 8:
        options = {"load_in_8bit": True, "llm_int8_threshold": 6.0, "llm_int8_has_fp16_weight": False}
    else:
        options = {"load_in_4bit": True, "bnb_4bit_quant_type": training_args.quant_type}
        options |= {"bnb_4bit_use_double_quant": training_args.double_quant}
        options |= {"bnb_4bit_compute_dtype": compute_dtype(training_args)}
    # The skip list holds for both widths, whatever its name says.
    quantization = BitsAndBytesConfig(llm_int8_skip_modules=[*NEVER_QUANTISED], **options)
    return {"device_map": {"": training_args.device}, "quantization_config": quantization}


def find_all_linear_names(model: nn.Module) -> list[str]:
    """Leaf names of the language model's linear layers without ``lm_head``: LoRA's targets."""
    names = {
        name.rsplit(".", 1)[-1]
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and not any(part in name for part in NOT_LANGUAGE)
    }
    return sorted(names - {"lm_head"})


def wrap_with_lora(model: PreTrainedModel, training_args: TrainingArguments) -> nn.Module:
    """PEFT's LoRA on every linear layer of the language model, and on nothing else."""
    from peft import LoraConfig, get_peft_model

    has_eyes = any("vision_tower" in name for name, _ in model.named_modules())
    config = LoraConfig(
        r=training_args.lora_r,
        lora_alpha=training_args.lora_alpha,
        target_modules=find_all_linear_names(model),
        # Leaf names such as q_proj exist in CLIP too, when a checkpoint brings its tower along.
        exclude_modules=rf".*\b({'|'.join(map(re.escape, NOT_LANGUAGE))})\b.*" if has_eyes else None,
        lora_dropout=training_args.lora_dropout,
        bias=training_args.lora_bias,
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config)


def smart_tokenizer_and_embedding_resize(
    special_tokens_dict: dict[str, str], tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel
) -> None:
    """Add special tokens; their rows start at the mean of the old ones."""
    num_new = tokenizer.add_special_tokens(special_tokens_dict)
    fit_vocabulary(model, len(tokenizer), num_new)


def build_tokenizer(
    model_args: ModelArguments, training_args: TrainingArguments, model: PreTrainedModel
) -> PreTrainedTokenizerBase:
    """The tokenizer, its pad token, and the conversation template, as ``--version`` says (train.md of the docs)."""
    tokenizer = load_tokenizer(
        model_args.model_name_or_path,
        cache_dir=training_args.cache_dir,
        model_max_length=training_args.model_max_length,
        padding_side="right",
    )
    version = model_args.version
    if version == "v0":
        if tokenizer.pad_token is None:
            smart_tokenizer_and_embedding_resize({"pad_token": "[PAD]"}, tokenizer, model)
    else:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.pad_token or tokenizer.eos_token
    if version in ("v0", "v0.5"):
        logger.warning("--version %s trains with the template vicuna_v1, as it does upstream", version)
    else:
        if version not in conversation.conv_templates:
            logger.warning("--version %s is no template; training with vicuna_v1", version)
        conversation.default_conversation = conversation.conv_templates.get(
            version, conversation.conv_templates["vicuna_v1"]
        )
    return tokenizer


def give_it_eyes(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    model_args: ModelArguments,
    data_args: DataArguments,
    training_args: TrainingArguments,
) -> None:
    """Tower, projector and image tokens into ``model``; what the data set must know into ``data_args``."""
    inner, config = model.get_model(), model.config
    inner.initialize_vision_modules(model_args=model_args, fsdp=training_args.fsdp)
    tower = inner.get_vision_tower()
    tower.to(dtype=weight_dtype(training_args, trained=False), device=training_args.device)
    inner.mm_projector.to(
        dtype=weight_dtype(training_args, not training_args.freeze_mm_mlp_adapter), device=training_args.device
    )

    data_args.image_processor = tower.image_processor
    data_args.is_multimodal = True
    config.image_aspect_ratio = data_args.image_aspect_ratio
    if data_args.image_grid_pinpoints is not None:
        config.image_grid_pinpoints = data_args.image_grid_pinpoints
    if data_args.image_aspect_ratio == "anyres":
        data_args.image_grid_pinpoints = getattr(config, "image_grid_pinpoints", None)
        if data_args.image_grid_pinpoints is None:
            raise UserError(
                "--image_aspect_ratio anyres needs --image_grid_pinpoints, such as '[[336,672],[672,336],[672,672]]'"
            )
    config.tokenizer_padding_side = tokenizer.padding_side
    config.tokenizer_model_max_length = tokenizer.model_max_length
    config.tune_mm_mlp_adapter = training_args.tune_mm_mlp_adapter = model_args.tune_mm_mlp_adapter
    config.freeze_mm_mlp_adapter = training_args.freeze_mm_mlp_adapter
    config.mm_use_im_start_end = data_args.mm_use_im_start_end = model_args.mm_use_im_start_end
    training_args.use_im_start_end = model_args.mm_use_im_start_end
    config.mm_use_im_patch_token = model_args.mm_use_im_patch_token
    config.mm_projector_lr = training_args.mm_projector_lr
    if model_args.tune_mm_mlp_adapter:
        model.requires_grad_(False)
        inner.mm_projector.requires_grad_(True)
        if getattr(inner, "image_newline", None) is not None:
            inner.image_newline.requires_grad_(True)
    if training_args.freeze_mm_mlp_adapter:
        inner.mm_projector.requires_grad_(False)
    if is_deepspeed_zero3_enabled():
        # ZeRO-3 gathers a module's own weights when it is called. A projector may read those of its parts without
        # calling them, so all are gathered when it is called.
        from deepspeed.runtime.zero import register_external_parameter

        for parameter in inner.mm_projector.parameters():
            register_external_parameter(inner.mm_projector, parameter)
    model.initialize_vision_tokenizer(model_args, tokenizer=tokenizer)
    if needs_of(inner.mm_projector).query is not None:
        config.mm_query_markers = query_markers(conversation.default_conversation, tokenizer).to_dict()
    with whole_on_every_rank(training_args):
        inner.load_sentence_encoder(tokenizer)
    record_attanchor(config, model_args, tokenizer, conversation.default_conversation)


@contextmanager
def whole_on_every_rank(training_args: TrainingArguments) -> Iterator[None]:
    """What is loaded in here stays whole under ZeRO-3, which could not gather what is no part of the model."""
    unset_hf_deepspeed_config()
    try:
        yield
    finally:
        if training_args.deepspeed is not None:
            set_hf_deepspeed_config(training_args.hf_deepspeed_config)


def settle_kbit_dtypes(model: nn.Module, training_args: TrainingArguments) -> None:
    """Quantised models: norms in float32, LoRA and the (un)embedding in the compute type."""
    for name, module in model.named_modules():
        if "norm" in name:
            module.to(torch.float32)
        elif training_args.bf16 and (
            "lora_" in name or (name.endswith(("lm_head", "embed_tokens")) and module.weight.dtype == torch.float32)
        ):
            module.to(torch.bfloat16)
