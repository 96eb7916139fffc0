"""A LoRA and its base -> one whole checkpoint: ``--model-path LORA --model-base BASE --save-model-path FOLDER``."""

import argparse
from pathlib import Path

import torch

from llava.errors import exit_on_user_error
from llava.fast_tokenizer import save_tokenizer
from llava.mm_utils import get_model_name_from_path
from llava.model.builder import load_pretrained_model
from llava.model.utils import fit_generation_config


def merge_lora(model_path: str, model_base: str | None, save_model_path: str) -> None:
    """Write the merged model in float16, and its tokenizer, to ``save_model_path``."""
    tokenizer, model, _, _ = load_pretrained_model(
        model_path, model_base, get_model_name_from_path(model_path), device="cpu", torch_dtype=torch.float16
    )
    fit_generation_config(model)
    model.save_pretrained(save_model_path)
    save_tokenizer(tokenizer, Path(save_model_path))


@exit_on_user_error
def main() -> None:
    parser = argparse.ArgumentParser(description="Merge a LoRA into its base model.")
    parser.add_argument("--model-path", type=str, required=True, help="folder or hub name of the LoRA")
    parser.add_argument("--model-base", type=str, default=None, help="its base (default: what the LoRA names)")
    parser.add_argument("--save-model-path", type=str, required=True, help="new folder")
    args = parser.parse_args()
    merge_lora(args.model_path, args.model_base, args.save_model_path)


if __name__ == "__main__":
    main()
