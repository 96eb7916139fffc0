"""Checkpoints between LLaVA's form and that of transformers' own ``LlavaForConditionalGeneration``.

    python -m llava.model.convert_hf --src liuhaotian/llava-v1.5-7b --dst llava-1.5-7b-hf
    python -m llava.model.convert_hf --src llava-hf/llava-1.5-7b-hf --dst llava-v1.5-7b

``config.json`` says which form the source has. Weights keep their values and their type. What differs: the vocabulary
there has ``<image>`` and ``<pad>`` behind the others, and rows up to a multiple of 64; the tower is in the checkpoint
there, in a folder of its own here. transformers' class has the projector mlp2x_gelu only. With a legacy tokenizer
prompts give the same ids in both forms; with another, ids right after a picture differ.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import save_torch_state_dict
from torch import Tensor
from transformers import (
    AddedToken,
    CLIPImageProcessorPil,
    LlavaForConditionalGeneration,
    LlavaImageProcessorPil,
    LlavaProcessor,
    PreTrainedModel,
)
from transformers import LlavaConfig as HFConfig

from llava.constants import (
    DEFAULT_IM_END_TOKEN,
    DEFAULT_IM_START_TOKEN,
    DEFAULT_IMAGE_PATCH_TOKEN,
    DEFAULT_IMAGE_TOKEN,
)
from llava.conversation import Conversation, SeparatorStyle, conv_templates
from llava.errors import UserError, exit_on_user_error
from llava.fast_tokenizer import save_tokenizer_json
from llava.mm_utils import get_model_name_from_path
from llava.model.builder import EYES, FAMILIES, Checkpoint, find_file, load_whole, read_json
from llava.model.multimodal_encoder.clip_encoder import transformer_of
from llava.model.utils import fit_generation_config
from llava.model.vocabulary import fit_vocabulary
from llava.tokenization import VOCAB_FILE, LlamaTokenizer, load_tokenizer

PAD_TOKEN = "<pad>"
ROWS_MULTIPLE = 64
STRATEGIES = {"patch": "default", "cls_patch": "full"}  # mm_vision_select_feature -> vision_feature_select_strategy
PICTURE_SETTINGS = ("size", "crop_size", "image_mean", "image_std", "resample")
TOWER_FOLDER = "vision_tower"

Parts = Mapping[str, Mapping[str, Tensor]]  # prefix of names -> what follows it, and the weights

# Pictures come before the text of their message, as in LLaVA's training data.
RENDER = """
{%- macro content(message) -%}
  {%- set parts = [message.content] if message.content is string else message.content -%}
  {%- for part in parts if part is mapping and part.type == "image" %}{{ image }}{% endfor -%}
  {%- for part in parts -%}
    {%- if part is string %}{{ part }}{% elif part.type == "text" %}{{ part.text }}{% endif -%}
  {%- endfor -%}
{%- endmacro -%}
{%- if messages[0].role == "system" -%}
  {%- set system, messages = content(messages[0]), messages[1:] -%}
{%- endif -%}
{{- system + sep -}}
{%- for message in messages -%}
  {{- (user if message.role == "user" else assistant) + ": " + content(message) -}}
  {{- sep if message.role == "user" else sep2 -}}
{%- endfor -%}
{%- if add_generation_prompt %}{{ assistant + ":" }}{% endif -%}
""".strip()


def convert(src: str, dst: str, template: str = "vicuna_v1", tokenizer: str | None = None, aspect: str = "pad") -> None:
    """Turn the checkpoint ``src``, of either form, into the other form in the folder ``dst``.

    Args:
        src: folder or hub name of a whole checkpoint.
        dst: a new folder.
        template: to transformers: the conversation that the chat template renders (checkpoints do not say theirs).
        tokenizer: from transformers: where the tokenizer.model is, when ``src`` has none.
        aspect: from transformers: image_aspect_ratio of the new config, when the processor of ``src`` does not pad.

    Raises UserError for a model that the other form cannot hold.
    """
    file = find_file(src, "config.json")
    if file is None:
        raise UserError(f"{src} has no config.json; give a whole checkpoint (merge a LoRA first)")
    if Path(dst).exists() and any(Path(dst).iterdir()):
        raise UserError(f"{dst} is not empty; give a new folder")
    if "vision_config" in read_json(file):
        from_transformers(src, Path(dst), tokenizer or src, aspect)
    else:
        to_transformers(src, Path(dst), template)


def to_transformers(src: str, dst: Path, template: str) -> None:
    """LLaVA's form -> transformers'."""
    checkpoint = Checkpoint.inspect(src, None, get_model_name_from_path(src))
    _refuse_what_transformers_lacks(checkpoint)
    model = load_whole(checkpoint, {"dtype": "auto"})
    tower, tokenizer = model.get_vision_tower(), load_tokenizer(src)
    tower.load_model()
    tower.to(model.dtype)

    fit_vocabulary(model, len(tokenizer), 0)
    tokenizer.add_tokens(
        [AddedToken(token, special=True, normalized=False) for token in (DEFAULT_IMAGE_TOKEN, PAD_TOKEN)]
    )
    tokenizer.pad_token = PAD_TOKEN
    rows = -(-len(tokenizer) // ROWS_MULTIPLE) * ROWS_MULTIPLE
    fit_vocabulary(model, rows, rows - model.config.vocab_size)

    strategy = STRATEGIES[getattr(model.config, "mm_vision_select_feature", "patch")]
    config = HFConfig(
        text_config=_text_config(model.config),
        vision_config=tower.config.to_dict(),
        image_token_index=tokenizer.convert_tokens_to_ids(DEFAULT_IMAGE_TOKEN),
        image_seq_length=tower.num_patches + (strategy == "full"),
        vision_feature_layer=model.config.mm_vision_select_layer,
        vision_feature_select_strategy=strategy,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=model.config.tie_word_embeddings,
        dtype=model.dtype,
    )
    inner = model.get_model()
    parts = {
        "language_model.model.": _without(EYES, inner.state_dict()),
        "language_model.lm_head.": model.lm_head.state_dict(),
        "vision_tower.": tower.vision_tower.state_dict(),
        "multi_modal_projector.linear_1.": inner.mm_projector[0].state_dict(),
        "multi_modal_projector.linear_2.": inner.mm_projector[2].state_dict(),
    }
    _save(parts, config, LlavaForConditionalGeneration, model, dst)

    settings = {key: getattr(tower.image_processor, key) for key in PICTURE_SETTINGS}
    pads = getattr(model.config, "image_aspect_ratio", "square") == "pad"
    image_processor = LlavaImageProcessorPil(do_pad=pads, **settings)
    image_processor.save_pretrained(dst)  # transformers 4 reads it from a file of its own
    processor = LlavaProcessor(
        image_processor=image_processor,
        tokenizer=tokenizer,
        patch_size=tower.config.patch_size,
        vision_feature_select_strategy=strategy,
        chat_template=chat_template(conv_templates[template], getattr(model.config, "mm_use_im_start_end", False)),
        num_additional_image_tokens=1,  # the class token
    )
    processor.save_pretrained(dst)
    save_tokenizer_json(tokenizer, dst / "tokenizer.json")  # the only file of it that AutoProcessor reads


def from_transformers(src: str, dst: Path, tokenizer_source: str, aspect: str) -> None:
    """transformers' form -> LLaVA's, with the tower in the folder ``vision_tower`` inside ``dst``."""
    hf_config = HFConfig.from_pretrained(src)
    _refuse_what_llava_lacks(hf_config, src)
    num_tokens = hf_config.image_token_index  # <image> comes right behind the language model's own
    tokenizer = _plain_tokenizer(tokenizer_source, num_tokens)
    picture_settings = _picture_settings(src)
    hf, info = LlavaForConditionalGeneration.from_pretrained(src, dtype="auto", output_loading_info=True)
    if info["missing_keys"]:
        raise UserError(f"{src} lacks {min(info['missing_keys'])!r}; is it a whole checkpoint?")

    tower_folder = (dst / TOWER_FOLDER).resolve()
    _save_weights({"vision_model.": transformer_of(hf.model.vision_tower).state_dict()}, tower_folder)
    hf_config.vision_config.save_pretrained(tower_folder)
    kept = {key: picture_settings[key] for key in PICTURE_SETTINGS if key in picture_settings}
    CLIPImageProcessorPil(**kept).save_pretrained(tower_folder)

    config_class, model_class = FAMILIES[hf_config.text_config.model_type]
    text = _without(("model_type", "transformers_version", "_name_or_path"), hf_config.text_config.to_dict())
    features = {strategy: feature for feature, strategy in STRATEGIES.items()}
    vision = {
        "mm_vision_tower": str(tower_folder),
        "mm_hidden_size": hf_config.vision_config.hidden_size,
        "mm_projector_type": "mlp2x_gelu",
        "mm_vision_select_layer": hf_config.vision_feature_layer,
        "mm_vision_select_feature": features[hf_config.vision_feature_select_strategy],
        "mm_patch_merge_type": "flat",
        "mm_use_im_start_end": DEFAULT_IM_START_TOKEN in tokenizer.get_vocab(),
        "mm_use_im_patch_token": DEFAULT_IMAGE_PATCH_TOKEN in tokenizer.get_vocab(),
        "use_mm_proj": True,
        "image_aspect_ratio": "pad" if picture_settings.get("do_pad") else aspect,
    }
    config = config_class.from_dict(text | vision | {"vocab_size": num_tokens, "dtype": hf.dtype})
    language_model, projector = hf.model.language_model.state_dict(), hf.model.multi_modal_projector
    embedding = language_model["embed_tokens.weight"][:num_tokens].clone()
    parts = {
        "model.": language_model | {"embed_tokens.weight": embedding},
        "lm_head.": {"weight": hf.lm_head.weight[:num_tokens].clone()},
        "model.mm_projector.0.": projector.linear_1.state_dict(),
        "model.mm_projector.2.": projector.linear_2.state_dict(),
    }
    _save(parts, config, model_class, hf, dst)
    tokenizer.save_pretrained(dst)


def chat_template(conversation: Conversation, start_end: bool = False) -> str | None:
    """A Jinja template that renders messages as ``conversation`` does; None for styles that it does not cover."""
    if conversation.sep_style != SeparatorStyle.TWO:
        return None
    image = DEFAULT_IM_START_TOKEN + DEFAULT_IMAGE_TOKEN + DEFAULT_IM_END_TOKEN if start_end else DEFAULT_IMAGE_TOKEN
    user, assistant = conversation.roles
    values = {
        "system": conversation.system,
        "user": user,
        "assistant": assistant,
        "sep": conversation.sep,
        "sep2": conversation.sep2,
        "image": image + "\n",
    }
    return "".join(f"{{%- set {name} = {json.dumps(value)} -%}}" for name, value in values.items()) + RENDER


def _refuse_what_transformers_lacks(checkpoint: Checkpoint) -> None:
    config, path = checkpoint.config, checkpoint.path
    if checkpoint.is_lora:
        raise UserError(f"{path} is a LoRA; merge it first with scripts/merge_lora_weights.py")
    if not checkpoint.is_multimodal:
        raise UserError(f"{path} is a text model; there is nothing to convert")
    projector = config.get("mm_projector_type", "linear")
    if projector != "mlp2x_gelu":
        raise UserError(f"{path}: mm_projector_type is {projector!r}; transformers' LLaVA has mlp2x_gelu only")
    if "mpt" in config.get("model_type", ""):
        raise UserError(f"{path} runs on MPT; transformers' LLaVA takes Llama and Mistral")
    if config.get("mm_attanchor_direction", "off") != "off":
        raise UserError(f"{path} works with AttAnchor (mm_attanchor_direction); transformers' LLaVA has no such thing")
    if config.get("s2"):
        raise UserError(f"{path}: s2 is on; transformers' LLaVA looks at one scale")
    if config.get("image_aspect_ratio") == "anyres":
        raise UserError(f"{path}: image_aspect_ratio is anyres; transformers' LLaVA looks at one picture, not at tiles")


def _refuse_what_llava_lacks(config: HFConfig, src: str) -> None:
    if config.model_type != "llava":
        raise UserError(f"{src}: model_type is {config.model_type!r}; only 'llava' (LLaVA-1.5) can be converted")
    if config.text_config.model_type not in ("llama", "mistral"):
        raise UserError(f"{src}: the language model is {config.text_config.model_type!r}; it must be llama or mistral")
    if config.vision_config.model_type != "clip_vision_model":
        raise UserError(f"{src}: the tower is {config.vision_config.model_type!r}; it must be clip_vision_model")
    if not isinstance(config.vision_feature_layer, int):
        raise UserError(f"{src}: vision_feature_layer is {config.vision_feature_layer}; it must be one layer")
    if config.projector_hidden_act != "gelu" or not config.multimodal_projector_bias:
        raise UserError(f"{src}: its projector is not mlp2x_gelu (two layers with bias, exact GELU between)")


def _without(prefixes: tuple[str, ...], named: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in named.items() if not name.startswith(prefixes)}


def _text_config(config: Any) -> dict[str, Any]:
    """The language model's part of a LLaVA's config, under the language model's own type."""
    ours = ("mm_", "image_", "tokenizer_", "tune_mm_", "freeze_mm_", "unfreeze_mm_", "use_mm_proj", "architectures")
    return _without(ours, config.to_dict()) | {"model_type": config.model_type.removeprefix("llava_")}


def _save(parts: Parts, config: Any, model_class: type, source: PreTrainedModel, dst: Path) -> None:
    """Weights, config and generation config, which is the source's."""
    _save_weights(parts, dst)
    config.architectures = [model_class.__name__]
    config.save_pretrained(dst)
    fit_generation_config(source)
    source.generation_config.save_pretrained(dst)


def _save_weights(parts: Parts, dst: Path) -> None:
    """safetensors, in shards if it is large; each part's names with its prefix."""
    named = {prefix + name: value for prefix, part in parts.items() for name, value in part.items()}
    dst.mkdir(parents=True, exist_ok=True)
    save_torch_state_dict({name: value.contiguous() for name, value in named.items()}, dst)


def _picture_settings(src: str) -> dict[str, Any]:
    """What the folder's processor does to pictures: newer ones have it in processor_config.json."""
    files = {name: find_file(src, name) for name in ("processor_config.json", "preprocessor_config.json")}
    if (nested := files["processor_config.json"]) and "image_processor" in read_json(nested):
        return read_json(nested)["image_processor"]
    if (own := files["preprocessor_config.json"]) is None:
        raise UserError(f"{src} has no preprocessor_config.json; is it a whole checkpoint?")
    return read_json(own)


def _plain_tokenizer(source: str, num_tokens: int) -> LlamaTokenizer:
    """The sentencepiece tokenizer of ``source`` with the ``num_tokens`` tokens that come before ``<image>``."""
    vocab_file = find_file(source, VOCAB_FILE)
    if vocab_file is None:
        raise UserError(
            f"{source} has no {VOCAB_FILE}; name the language model that has it: --tokenizer lmsys/vicuna-7b-v1.5"
        )
    whole = load_tokenizer(source)
    settings = {key: getattr(whole, key) for key in ("legacy", "add_bos_token", "add_eos_token", "model_max_length")}
    plain = LlamaTokenizer(vocab_file=vocab_file, pad_token=whole.unk_token, padding_side="right", **settings)
    plain.add_tokens([token for number, token in sorted(whole.added_tokens_decoder.items()) if number < num_tokens])
    if len(plain) != num_tokens:
        raise UserError(
            f"the tokenizer of {source} has {len(plain)} tokens, but <image> has the id {num_tokens}; "
            "give the language model's own with --tokenizer"
        )
    return plain


@exit_on_user_error
def main() -> None:
    parser = argparse.ArgumentParser(description="LLaVA's checkpoints <-> transformers' LlavaForConditionalGeneration.")
    parser.add_argument("--src", type=str, required=True, help="folder or hub name, of either form")
    parser.add_argument("--dst", type=str, required=True, help="new folder, in the other form")
    parser.add_argument(
        "--template", choices=sorted(conv_templates), default="vicuna_v1", help="to transformers: the chat template"
    )
    parser.add_argument("--tokenizer", help="from transformers: where tokenizer.model is, if not in --src")
    parser.add_argument(
        "--image-aspect-ratio",
        choices=("pad", "square"),
        default="pad",
        help="from transformers: what LLaVA does to pictures, if the processor there does not pad (LLaVA-1.5: pad)",
    )
    args = parser.parse_args()
    convert(args.src, args.dst, args.template, args.tokenizer, args.image_aspect_ratio)


if __name__ == "__main__":
    main()
