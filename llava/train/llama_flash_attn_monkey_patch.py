"""FlashAttention 2 for Llama models that are loaded without saying what they attend by.

transformers has FlashAttention built in: ``attn_implementation="flash_attention_2"`` chooses it, which is what
``llava/train/train_mem.py`` does. This function is for programs that call it under upstream's name.
"""

from typing import Any

from transformers.models.llama.modeling_llama import LlamaPreTrainedModel
from transformers.utils import is_flash_attn_2_available

from llava.errors import UserError

DEFAULT = "flash_attention_2"


def replace_llama_attn_with_flash_attn() -> None:
    """Make FlashAttention 2 the default of Llama models loaded from here on. UserError where it is not installed."""
    if not is_flash_attn_2_available():
        raise UserError("flash-attn is not installed; install it with: pip install flash-attn --no-build-isolation")
    choose = LlamaPreTrainedModel._check_and_adjust_attn_implementation

    def choose_flash(self: Any, attn_implementation: str | None, *args: Any, **kwargs: Any) -> str:
        return choose(self, attn_implementation or DEFAULT, *args, **kwargs)

    LlamaPreTrainedModel._check_and_adjust_attn_implementation = choose_flash
