"""LLaVA with projectors that read the question. See README.md."""

from typing import Any

__all__ = ["LlavaLlamaForCausalLM"]


def __getattr__(name: str) -> Any:
    """``from llava import LlavaLlamaForCausalLM`` as upstream; transformers loads only when that is asked for."""
    if name == "LlavaLlamaForCausalLM":
        from llava.model import LlavaLlamaForCausalLM

        return LlavaLlamaForCausalLM
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
