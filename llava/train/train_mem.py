"""Train with the fastest attention this machine has: FlashAttention 2 where it is installed and legal, else SDPA."""

import argparse
import sys

import torch
from transformers.hf_argparser import string_to_bool
from transformers.utils import is_flash_attn_2_available

from llava.train.train import main


def best_attention(argv: list[str]) -> tuple[str, str]:
    """``flash_attention_2`` on a CUDA device with half-precision training, else ``sdpa``; and the reason."""
    flags = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in ("--bf16", "--fp16"):
        flags.add_argument(name, nargs="?", const=True, default=False, type=string_to_bool)
    half, _ = flags.parse_known_args(argv)
    if not torch.cuda.is_available():
        return "sdpa", "no CUDA device"
    if not is_flash_attn_2_available():
        return "sdpa", "flash-attn is not installed: pip install flash-attn --no-build-isolation"
    if not (half.bf16 or half.fp16):
        return "sdpa", "FlashAttention 2 needs --bf16 or --fp16"
    return "flash_attention_2", "CUDA, flash-attn and half precision are there"


if __name__ == "__main__":
    attention, reason = best_attention(sys.argv[1:])
    print(f"attention: {attention} ({reason})")
    main(attention)
