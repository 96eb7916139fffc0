"""LLaVA on Mistral."""

from transformers import AutoConfig, AutoModelForCausalLM, MistralConfig, MistralForCausalLM, MistralModel

from llava.model.language_model.multimodal_causal_lm import MultimodalCausalLM
from llava.model.language_model.readable_config import ReadableByTransformers4
from llava.model.llava_arch import LlavaMetaModel


class LlavaMistralConfig(ReadableByTransformers4, MistralConfig):
    model_type = "llava_mistral"


class LlavaMistralModel(LlavaMetaModel, MistralModel):
    config_class = LlavaMistralConfig


class LlavaMistralForCausalLM(MultimodalCausalLM, MistralForCausalLM):
    config_class = LlavaMistralConfig
    inner_model_class = LlavaMistralModel


AutoConfig.register("llava_mistral", LlavaMistralConfig)
AutoModelForCausalLM.register(LlavaMistralConfig, LlavaMistralForCausalLM)
