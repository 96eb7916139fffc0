"""LLaVA with projectors that read the question. See README.md."""

from llava.model import LlavaLlamaForCausalLM

__all__ = ["LlavaLlamaForCausalLM"]
