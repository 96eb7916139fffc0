"""Train with memory-efficient attention, on GPUs without FlashAttention: what upstream needed xformers for."""

from llava.train.llama_xformers_attn_monkey_patch import replace_llama_attn_with_xformers_attn
from llava.train.train import main

if __name__ == "__main__":
    replace_llama_attn_with_xformers_attn()
    main("sdpa")
