"""LLaVA on MPT.

transformers' own MPT attends by plain matrix products (its ``attn_implementation`` is always "eager") and takes its
positions from ALiBi, so position ids have no effect.
"""

from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, MptConfig, MptForCausalLM, MptModel

from llava.model.language_model.multimodal_causal_lm import MultimodalCausalLM
from llava.model.language_model.readable_config import ReadableByTransformers4
from llava.model.llava_arch import LlavaMetaModel


class LlavaMptConfig(ReadableByTransformers4, MptConfig):
    model_type = "llava_mpt"


class LlavaMptModel(LlavaMetaModel, MptModel):
    config_class = LlavaMptConfig

    def embed_tokens(self, input_ids: Tensor) -> Tensor:
        """``[B, S]`` token ids -> ``[B, S, D]``, under the name that the other decoders have for it."""
        return self.wte(input_ids)


class LlavaMptForCausalLM(MultimodalCausalLM, MptForCausalLM):
    config_class = LlavaMptConfig
    inner_model_class = LlavaMptModel


AutoConfig.register("llava_mpt", LlavaMptConfig)
AutoModelForCausalLM.register(LlavaMptConfig, LlavaMptForCausalLM)
