"""Attention by xformers' kernel, for GPUs that FlashAttention does not run on (V100).

The kernel has become part of PyTorch, as the memory-efficient back-end of ``scaled_dot_product_attention``. So xformers
itself is not needed: these functions, kept under upstream's names, tell SDPA to use that back-end.
"""

from typing import Any

from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward


def xformers_forward(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """transformers' SDPA ``[B, heads, S, d] -> [B, S, heads, d]`` in memory linear in S.

    Where the device or the type has no such kernel (a CPU), plain products do it.
    """
    with sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]):
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)


def replace_llama_attn_with_xformers_attn() -> None:
    """Every model of this process that attends by ``sdpa``, the default, uses :func:`xformers_forward` from here on."""
    AttentionInterface.register("sdpa", xformers_forward)
