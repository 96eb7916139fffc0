"""Train with the fastest attention this machine has: FlashAttention 2 where it is installed and legal, else SDPA."""

import logging
import sys

import torch
from transformers.utils import is_flash_attn_2_available

from llava.train.train import main


def best_attention() -> str:
    """``flash_attention_2`` on a CUDA device with half-precision training; ``sdpa`` otherwise, and the log says why."""
    half = any(flag in sys.argv for flag in ("--bf16", "--fp16"))
    if not torch.cuda.is_available():
        reason = "no CUDA device"
    elif not is_flash_attn_2_available():
        reason = "flash-attn is not installed (pip install flash-attn --no-build-isolation)"
    elif not half:
        reason = "FlashAttention 2 needs --bf16 or --fp16"
    else:
        return "flash_attention_2"
    logging.getLogger("llava.train").info("attention: sdpa (%s)", reason)
    return "sdpa"


if __name__ == "__main__":
    main(best_attention())
