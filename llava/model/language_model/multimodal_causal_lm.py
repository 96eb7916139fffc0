"""The part of a LLaVA language model that does not depend on which decoder it is."""

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from llava.constants import IGNORE_INDEX
from llava.model.llava_arch import LlavaMetaForCausalLM, LlavaMetaModel
from llava.model.multimodal_projector.registry import take_auxiliary_loss

# What prepare_inputs_labels_for_multimodal returns, by the names a decoder's forward takes them under.
SEQUENCE = ("input_ids", "position_ids", "attention_mask", "past_key_values", "inputs_embeds", "labels")


class MultimodalCausalLM(LlavaMetaForCausalLM):
    """Mix-in placed before a ``...ForCausalLM`` of transformers; the inner model lives at its ``base_model_prefix``.

    ``forward`` and ``generate`` take ``images`` (and ``image_sizes`` as (width, height) for tiled pictures) beside the
    usual arguments; ``<image>`` stands in the ids as ``IMAGE_TOKEN_INDEX``.
    """

    inner_model_class: ClassVar[type[LlavaMetaModel]]
    # Full fine-tuning saves the frozen tower too; it is read from its own folder instead.
    _keys_to_ignore_on_load_unexpected: ClassVar[list[str]] = [r"\.vision_tower\."]

    def __init__(self, config: Any) -> None:
        # Not the next class's __init__: it would build a text-only inner model first, and throw it away.
        PreTrainedModel.__init__(self, config)
        setattr(self, self.base_model_prefix, self.inner_model_class(config))
        self.vocab_size = config.vocab_size
        self.pretraining_tp = getattr(config, "pretraining_tp", 1)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_model(self) -> LlavaMetaModel:
        return self.base_model

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        images: Tensor | list[Tensor] | None = None,
        image_sizes: Any = None,
        return_dict: bool | None = None,
        loss_only: bool = False,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast | tuple[Tensor, ...]:
        """Token ids ``[B, S]`` (or embeddings) and pictures -> logits ``[B, S', V]``; with labels the loss too.

        ``loss_only`` returns the loss alone: the same number, from logits at the labelled positions and nowhere else.
        """
        parts = (input_ids, position_ids, attention_mask, past_key_values, inputs_embeds, labels)
        if inputs_embeds is None:
            parts = self.prepare_inputs_labels_for_multimodal(*parts[:4], labels, images, image_sizes)
        sequence = dict(zip(SEQUENCE, parts, strict=True))
        if loss_only:
            return CausalLMOutputWithPast(loss=self._loss(**sequence, **kwargs))
        wishes = {
            "use_cache": use_cache,
            "output_attentions": output_attentions,
            "output_hidden_states": output_hidden_states,
            "return_dict": return_dict,
        }
        # Decoders of transformers 5 take the last three from **kwargs, and only when they are there.
        kwargs |= {name: wish for name, wish in wishes.items() if wish is not None}
        return super().forward(**sequence, **kwargs)

    def _loss(
        self, labels: Tensor, num_items_in_batch: Tensor | int | None = None, **sequence: Tensor | None
    ) -> Tensor:
        """The loss of a sequence, given by the names of :data:`SEQUENCE`.

        Most positions of a sequence with a picture have no label, and logits are V wide: they would be most of a small
        model's time, and the largest tensor of a large model's step.
        """
        hidden = self.base_model(**sequence, use_cache=False).last_hidden_state
        next_labels = functional.pad(labels[:, 1:], (0, 1), value=IGNORE_INDEX)
        labelled = next_labels != IGNORE_INDEX
        return self.loss_function(
            logits=self.lm_head(hidden[labelled]),
            labels=labels,
            shift_labels=next_labels[labelled],
            vocab_size=self.config.vocab_size,
            num_items_in_batch=num_items_in_batch,
        )

    @property
    def loss_function(self) -> Callable[..., Tensor]:
        """transformers' own, plus in training what the projector wants minimised beside it."""
        cross_entropy = super().loss_function
        projector = getattr(self.get_model(), "mm_projector", None)
        if not self.training or projector is None:
            return cross_entropy

        def both(labels: Tensor, num_items_in_batch: Tensor | int | None = None, **kwargs: Any) -> Tensor:
            loss = cross_entropy(labels=labels, num_items_in_batch=num_items_in_batch, **kwargs)
            auxiliary = take_auxiliary_loss(projector)
            if auxiliary is None:
                return loss
            if num_items_in_batch is not None:
                # Like the cross entropy, which is divided by the tokens of the whole update and not of this batch.
                auxiliary = auxiliary * (labels[:, 1:] != IGNORE_INDEX).sum() / num_items_in_batch
            return loss + auxiliary

        return both

    @torch.no_grad()
    def generate(
        self,
        inputs: Tensor | None = None,
        images: Tensor | list[Tensor] | None = None,
        image_sizes: Any = None,
        **kwargs: Any,
    ) -> Tensor:
        """Continue prompts ``[B, S]``; returns the new tokens only. Rows may be padded on either side if masked.

        All of transformers' generation arguments pass through; ``inputs_embeds`` is refused (NotImplementedError).
        """
        if "inputs_embeds" in kwargs:
            raise NotImplementedError("generate takes token ids and images; `inputs_embeds` is not supported")
        input_ids = kwargs.pop("input_ids", inputs)
        position_ids = kwargs.pop("position_ids", None)
        attention_mask = kwargs.pop("attention_mask", None)
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        _, position_ids, attention_mask, _, inputs_embeds, _ = self.prepare_inputs_labels_for_multimodal(
            input_ids, position_ids, attention_mask, None, None, images, image_sizes, for_generation=True
        )
        if inputs_embeds is None:
            inputs_embeds = self.get_model().embed_tokens(input_ids)
        if position_ids is not None:
            kwargs["position_ids"] = position_ids
        return super().generate(attention_mask=attention_mask, inputs_embeds=inputs_embeds, **kwargs)

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, past_key_values: Any = None, inputs_embeds: Tensor | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """transformers' own, with ``images`` and ``image_sizes`` carried along when the caller gave them."""
        pictures = {name: kwargs.pop(name) for name in ("images", "image_sizes") if name in kwargs}
        model_inputs = super().prepare_inputs_for_generation(
            input_ids, past_key_values=past_key_values, inputs_embeds=inputs_embeds, **kwargs
        )
        return model_inputs | {name: value for name, value in pictures.items() if value is not None}
