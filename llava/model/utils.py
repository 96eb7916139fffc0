"""Whole checkpoints in and out: old ones upgraded, any one loaded to be saved again, nothing refused at the end."""

import json
import sys
from pathlib import Path

import torch
from transformers import PreTrainedModel

from llava.errors import UserError
from llava.fast_tokenizer import save_tokenizer
from llava.mm_utils import get_model_name_from_path
from llava.model.builder import Checkpoint, load_text_model, load_whole
from llava.tokenization import load_tokenizer


def auto_upgrade(config: str, yes: bool = False) -> None:
    """Make a checkpoint of the first LLaVA, whose ``config.json`` calls it a plain Llama, say what it is.

    Args:
        config: the checkpoint's folder. Left alone unless its config has vision settings under another model type.
        yes: rewrite the config without asking; otherwise the answer is read from stdin, and "no" ends with exit code 1.

    Raises UserError when the folder has no config, or is of a family that never was a LLaVA.
    """
    file = Path(config) / "config.json"
    if not file.is_file():
        return  # a hub name: nothing of ours to rewrite
    settings = json.loads(file.read_text(encoding="utf-8"))
    kind = settings.get("model_type", "")
    if "llava" in kind or "mm_vision_tower" not in settings:
        return
    if kind != "llama":
        raise UserError(f"{file} has vision settings but model_type {kind!r}; only 'llama' can be upgraded to LLaVA")
    print(f"{file} is of the first LLaVA; it will be rewritten with model_type 'llava_llama'.")
    if not yes and input("Go on? [Y/N] ").strip().lower() not in ("y", "yes"):
        print("Nothing was changed.")
        sys.exit(1)
    settings |= {"model_type": "llava_llama", "architectures": ["LlavaLlamaForCausalLM"]}
    file.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    print(f"{file} is upgraded.")


def load_for_saving(path: str, dtype: torch.dtype = torch.float16) -> PreTrainedModel:
    """A whole model, LLaVA or text, on the CPU and without the tower that has a folder of its own."""
    checkpoint = Checkpoint.inspect(path, None, get_model_name_from_path(path))
    if not checkpoint.is_multimodal:
        return load_text_model(path, {"dtype": dtype})
    return load_whole(checkpoint, {"dtype": dtype})


def save_whole(model: PreTrainedModel, tokenizer_from: str, folder: str) -> None:
    """Model and tokenizer into ``folder``."""
    fit_generation_config(model)
    model.save_pretrained(folder)
    save_tokenizer(load_tokenizer(tokenizer_from), Path(folder))


def fit_generation_config(model: PreTrainedModel) -> None:
    """Vicuna's own generation_config samples without saying so, which transformers refuses to save."""
    generation = model.generation_config
    if generation is not None:
        try:
            generation.validate(strict=True)
        except ValueError:
            generation.do_sample = True
