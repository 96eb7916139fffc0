"""LLaVA on Llama: Vicuna, Llama 2 and their kin."""

from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, LlamaModel

from llava.model.language_model.multimodal_causal_lm import MultimodalCausalLM
from llava.model.language_model.readable_config import ReadableByTransformers4
from llava.model.llava_arch import LlavaMetaModel


class LlavaConfig(ReadableByTransformers4, LlamaConfig):
    model_type = "llava_llama"


class LlavaLlamaModel(LlavaMetaModel, LlamaModel):
    config_class = LlavaConfig


class LlavaLlamaForCausalLM(MultimodalCausalLM, LlamaForCausalLM):
    config_class = LlavaConfig
    inner_model_class = LlavaLlamaModel


AutoConfig.register("llava_llama", LlavaConfig)
AutoModelForCausalLM.register(LlavaConfig, LlavaLlamaForCausalLM)
