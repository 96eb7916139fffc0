"""From a batch of prompts and pictures to text: the one call of ``generate`` that all drivers share."""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from llava.errors import UserError
from llava.model.llava_arch import LlavaMetaForCausalLM


@dataclass(frozen=True)
class Sampling:
    """How answers are decoded: sampled when ``temperature`` is above 0, greedy (or by beams) otherwise."""

    temperature: float = 0.2
    top_p: float | None = None
    num_beams: int = 1
    max_new_tokens: int = 1024

    def validate(self) -> None:
        """Raises UserError for a value that transformers could only refuse in the middle of a run."""
        if self.temperature < 0:
            raise UserError(f"--temperature is {self.temperature}; it must be 0 (greedy) or more")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UserError(f"--top_p is {self.top_p}; it must be above 0 and at most 1")
        for name in ("num_beams", "max_new_tokens"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name} is {getattr(self, name)}; it must be at least 1")

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of ``generate``. Greedy decoding overrides what the checkpoint says about sampling."""
        if self.temperature > 0:
            return {"do_sample": True} | asdict(self)
        return {"do_sample": False} | asdict(self) | {"temperature": None, "top_p": None}


@torch.inference_mode()
def generate_texts(
    model: Any,
    tokenizer: Any,
    sampling: Sampling,
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    images: Tensor | list[Tensor] | None = None,
    image_sizes: list[tuple[int, int]] | None = None,
) -> list[str]:
    """Answers to ``input_ids [B, S]``, padded on the left under ``attention_mask``; stripped, one per row.

    A model without a vision tower answers prompts without pictures.
    """

    def to_model(pixels: Tensor) -> Tensor:
        return pixels.to(device=model.device, dtype=model.dtype)

    if images is not None:
        images = [to_model(image) for image in images] if isinstance(images, list) else to_model(images)
    if attention_mask is None:
        attention_mask = torch.ones_like(input_ids)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    multimodal = isinstance(model, LlavaMetaForCausalLM)
    pictures = {"images": images, "image_sizes": image_sizes} if multimodal else {}
    output_ids = model.generate(
        input_ids.to(model.device),
        attention_mask=attention_mask.to(model.device),
        pad_token_id=pad,
        use_cache=True,
        **pictures,
        **sampling.arguments(),
    )
    if not multimodal:  # transformers repeats the prompt
        output_ids = output_ids[:, input_ids.shape[1] :]
    return [text.strip() for text in tokenizer.batch_decode(output_ids, skip_special_tokens=True)]
