"""What a checkpoint attends to when it is asked about pictures: in its attention stack, and in its language model."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ccra_patch.language_attention import middle_layers, text_to_image
from ccra_patch.query import select_query
from ccra_patch.recorder import Call, recorded_calls
from llava.constants import IGNORE_INDEX
from llava.conversation import conv_templates
from llava.errors import UserError
from llava.eval.batches import Batch, ItemDataset, load_batches, plan_batches
from llava.eval.items import Item, check_items, resolve_conv_mode
from llava.mm_utils import get_model_name_from_path
from llava.model.builder import load_pretrained_model
from llava.model.multimodal_projector.registry import needs_of
from llava.query_markers import query_markers

# How each way of preprocessing lays the patch grid over a picture; see ccra_patch.overlay. Any other one crops.
FITS = {"pad": "pad", "anyres": "stretch"}


@dataclass(frozen=True)
class Checkpoint:
    """A loaded LLaVA with eyes."""

    path: str
    name: str
    tokenizer: Any
    model: Any
    image_processor: Any

    @classmethod
    def load(cls, path: str, base: str | None = None, **options: Any) -> "Checkpoint":
        """``options`` are those of ``load_pretrained_model``. Raises UserError for a model without vision tower."""
        name = get_model_name_from_path(path)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        tokenizer, model, image_processor, _ = load_pretrained_model(path, base, name, device=device, **options)
        if image_processor is None:
            raise UserError(f"{path} is a text-only model; give one with a vision tower")
        return cls(path, name, tokenizer, model, image_processor)

    @property
    def fit(self) -> str:
        """How the patch grid lies over a whole picture: ``pad``, ``crop`` or ``stretch``."""
        return FITS.get(getattr(self.model.config, "image_aspect_ratio", ""), "crop")

    @property
    def layers(self) -> tuple[int, ...]:
        """The hidden states that the projector reads."""
        return self.model.get_vision_tower().hidden_state_indices(needs_of(self.model.get_model().mm_projector).layers)

    def batches(
        self, items: Sequence[Item], conv_mode: str, batch_size: int = 1, workers: int = 0
    ) -> Iterator[tuple[list[Item], Batch]]:
        """Items that have a picture, as the model gets them: on its device, in its precision.

        Raises UserError for an unknown template and for pictures that are missing or broken.
        """
        conv_mode = resolve_conv_mode(conv_mode, self.name)
        with_pictures = [item for item in items if item.images]
        check_items(with_pictures)
        dataset = ItemDataset(with_pictures, self.tokenizer, self.image_processor, self.model.config, conv_mode)
        with tqdm(total=len(with_pictures), unit="question", delay=2) as progress:
            for indices, batch in load_batches(dataset, plan_batches(dataset, batch_size), workers):
                yield [with_pictures[index] for index in indices], self._on_device(batch)
                progress.update(len(indices))

    def _on_device(self, batch: Batch) -> Batch:
        device, dtype = self.model.device, self.model.dtype
        assert batch.images is not None
        images = [image.to(device, dtype) for image in batch.images]
        return Batch(
            batch.input_ids.to(device),
            batch.attention_mask.to(device),
            torch.stack(images) if isinstance(batch.images, Tensor) else images,
            batch.image_sizes,
            batch.digests,
        )


@torch.inference_mode()
def observe(
    checkpoint: Checkpoint, items: Sequence[Item], conv_mode: str, batch_size: int = 1, workers: int = 0
) -> Iterator[tuple[list[Item], Call]]:
    """Items batch by batch, and what the attention stack did with the first picture of each, seen as a whole.

    Items without a picture are passed over. Raises UserError for a projector without attention stack.
    """
    for batch_items, batch in checkpoint.batches(items, conv_mode, batch_size, workers):
        with recorded_calls(checkpoint.model) as calls:
            checkpoint.model.prepare_inputs_labels_for_multimodal(
                batch.input_ids, None, batch.attention_mask, None, None, batch.images, batch.image_sizes,
                for_generation=True,
            )  # fmt: skip
        if not calls:
            raise UserError(
                f"{checkpoint.path} has the projector {checkpoint.model.config.mm_projector_type}, which has no "
                "attention to look at; give a ccra checkpoint"
            )
        (call,) = calls
        rows = torch.tensor(_whole_pictures(batch_items, batch.images), device=call.stack.device)
        yield batch_items, call.images(rows)


@torch.inference_mode()
def language_attention(
    checkpoint: Checkpoint, items: Sequence[Item], conv_mode: str, layers: Sequence[int] | None = None
) -> Iterator[Tensor]:
    """How much attention each item's question pays to each patch of its first picture, seen as a whole: ``[N]``.

    Args:
        checkpoint: loaded with ``attn_implementation="eager"``; others compute attention without keeping it.
        items: each with a picture.
        conv_mode: conversation template.
        layers: of the language model, from 0; its middle third by default.

    Raises:
        UserError: for layers that do not exist, or no question behind the picture, where attention could come from.
    """
    model = checkpoint.model
    depth = model.config.num_hidden_layers
    chosen = list(middle_layers(depth)) if layers is None else list(layers)
    if not chosen or not all(0 <= layer < depth for layer in chosen):
        raise UserError(f"language model layers are {chosen}; {checkpoint.path} has layers 0 to {depth - 1}")
    template = conv_templates[resolve_conv_mode(conv_mode, checkpoint.name)]
    markers = query_markers(template, checkpoint.tokenizer)
    for (item,), batch in checkpoint.batches(items, conv_mode):
        ids = batch.input_ids
        layout = model.lay_out_prompt(ids, batch.attention_mask, batch.images, batch.image_sizes)
        sequence = layout.arrange(torch.full_like(ids, IGNORE_INDEX))
        of_question = layout.of_tokens(select_query(ids, batch.attention_mask, markers, "human"))[0] & ~layout.copied[0]
        patch = layout.patch[layout.source[0]]
        behind = torch.arange(len(patch), device=patch.device) > (patch == 0).long().argmax()
        if not (of_question & behind).any():
            raise UserError(
                f"{item.name} has no words behind its picture, which alone can attend to it; put some there"
            )
        attentions = model(
            inputs_embeds=sequence.inputs_embeds,
            attention_mask=sequence.valid,
            position_ids=sequence.position_ids,
            output_attentions=True,
            use_cache=False,
        ).attentions
        patches = model.get_vision_tower().num_patches
        yield text_to_image([attentions[layer][0] for layer in chosen], of_question & behind, patch, patches)


def _whole_pictures(items: Sequence[Item], images: Any) -> list[int]:
    """Where each item's first picture stands among all tiles; a picture's first tile shows it as a whole."""
    tiles = accumulate((len(image) if image.ndim == 4 else 1 for image in images), initial=0)
    starts = list(tiles)
    first = list(accumulate((len(item.images) for item in items), initial=0))
    return [starts[picture] for picture in first[:-1]]
