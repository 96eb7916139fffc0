"""What stands between a user's pictures and prompts and the model's tensors and ids."""

import ast
import base64
import binascii
import math
import re
from collections.abc import Sequence
from io import BytesIO
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import CLIPImageProcessorPil, PreTrainedTokenizerBase, StoppingCriteria

from llava.constants import DEFAULT_IMAGE_TOKEN, IMAGE_TOKEN_INDEX
from llava.errors import UserError
from llava.pixels import centred, centred_on_square, padded_pixels_of, pixels_of
from llava.tokenization import Span, encode_with_offsets

Size = tuple[int, int]  # (width, height) in pixels, as PIL counts


def load_image_processor(path: str) -> CLIPImageProcessorPil:
    """CLIP's picture preparation of the checkpoint at ``path``, on Pillow.

    Checkpoints were trained on Pillow's bicubic; torchvision's resizing is up to two grey levels away from it.
    """
    return CLIPImageProcessorPil.from_pretrained(path)


def _as_rgb(image: Image.Image) -> Image.Image:
    # The processor would put transparent pixels on white; the checkpoints saw them with alpha dropped.
    return image if image.mode == "RGB" else image.convert("RGB")


def load_image_from_base64(image: str | bytes) -> Image.Image:
    """Decode a base64 picture to RGB. Raises UserError if it is not base64 or not a whole picture."""
    try:
        picture = Image.open(BytesIO(base64.b64decode(image)))
        picture.load()  # a cut-off file shows here, not when it is opened
    except (binascii.Error, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"image is not a base64-encoded picture ({error}); send the bytes of a PNG or JPEG") from error
    return _as_rgb(picture)


def expand2square(pil_img: Image.Image, background_color: tuple[int, int, int]) -> Image.Image:
    """Centre a picture on a square RGB canvas of its longer side; a square RGB picture comes back as it is."""
    return centred_on_square(_as_rgb(pil_img), background_color)


def select_best_resolution(original_size: Size, possible_resolutions: Sequence[Sequence[int]]) -> Size:
    """The canvas that keeps most of a picture's pixels and, among equals, wastes least; the first of a tie.

    Sizes are (width, height). Raises UserError if there is no canvas to choose from.
    """
    if not possible_resolutions:
        raise UserError("image_grid_pinpoints is empty; anyres needs at least one [width, height] to choose from")
    width, height = original_size

    def kept_and_wasted(canvas: Sequence[int]) -> tuple[int, int]:
        scale = min(canvas[0] / width, canvas[1] / height)
        kept = min(int(width * scale) * int(height * scale), width * height)
        return kept, -(canvas[0] * canvas[1] - kept)

    best = max(possible_resolutions, key=kept_and_wasted)
    return best[0], best[1]


def resize_and_pad_image(image: Image.Image, target_resolution: Size) -> Image.Image:
    """Scale a picture to fit into (width, height) with its aspect ratio, centred on black."""
    scale = min(target / side for target, side in zip(target_resolution, image.size, strict=True))
    fitted = [min(math.ceil(side * scale), target) for target, side in zip(target_resolution, image.size, strict=True)]
    return centred(image.resize((fitted[0], fitted[1])), target_resolution, (0, 0, 0))


def divide_to_patches(image: Image.Image, patch_size: int) -> list[Image.Image]:
    """Square tiles of ``patch_size`` pixels, row by row."""
    return [
        image.crop((left, top, left + patch_size, top + patch_size))
        for top in range(0, image.height, patch_size)
        for left in range(0, image.width, patch_size)
    ]


def _read_pinpoints(grid_pinpoints: str | Sequence[Sequence[int]]) -> Sequence[Sequence[int]]:
    if not isinstance(grid_pinpoints, str):
        return grid_pinpoints
    try:
        return ast.literal_eval(grid_pinpoints)
    except (ValueError, SyntaxError) as error:
        raise UserError(
            f"image_grid_pinpoints is {grid_pinpoints!r}; it must be a list such as [[336, 672], [672, 336]]"
        ) from error


def get_anyres_image_grid_shape(
    image_size: Size, grid_pinpoints: str | Sequence[Sequence[int]], patch_size: int
) -> tuple[int, int]:
    """How many tiles of ``patch_size`` pixels the best canvas has: (columns, rows)."""
    width, height = select_best_resolution(image_size, _read_pinpoints(grid_pinpoints))
    return width // patch_size, height // patch_size


def process_anyres_image(
    image: Image.Image, processor: CLIPImageProcessorPil, grid_pinpoints: str | Sequence[Sequence[int]]
) -> Tensor:
    """The whole picture squeezed to a square, then its tiles on the best canvas: ``[1 + tiles, 3, s, s]``."""
    image = _as_rgb(image)
    canvas = resize_and_pad_image(image, select_best_resolution(image.size, _read_pinpoints(grid_pinpoints)))
    side = processor.size["shortest_edge"]
    views = [image.resize((side, side)), *divide_to_patches(canvas, processor.crop_size["height"])]
    return pixels_of(views, processor)


def process_images(
    images: Sequence[Image.Image], image_processor: CLIPImageProcessorPil, model_cfg: Any
) -> Tensor | list[Tensor]:
    """Pictures to pixels as ``model_cfg.image_aspect_ratio`` says: ``pad``, ``anyres``, or anything else: centre crop.

    Returns:
        ``[B, 3, s, s]``; for ``anyres`` ``[B, 1 + tiles, 3, s, s]``, or a list of B tensors ``[1 + tiles, 3, s, s]``
        when the pictures have different numbers of tiles.
    """
    aspect_ratio = getattr(model_cfg, "image_aspect_ratio", None)
    rgb = [_as_rgb(image) for image in images]
    if aspect_ratio == "anyres":
        tiled = [process_anyres_image(image, image_processor, model_cfg.image_grid_pinpoints) for image in rgb]
        return torch.stack(tiled) if len({tiles.shape for tiles in tiled}) == 1 else tiled
    if aspect_ratio == "pad":
        red, green, blue = (int(255 * mean) for mean in image_processor.image_mean)
        return padded_pixels_of(rgb, (red, green, blue), image_processor)
    return pixels_of(rgb, image_processor)


def tokenize_with_images(
    prompt: str, tokenizer: PreTrainedTokenizerBase, image_token_index: int = IMAGE_TOKEN_INDEX
) -> tuple[list[int], list[Span]]:
    """Ids of ``prompt`` with one ``image_token_index`` per ``<image>``, and each id's ``[start, end)`` characters.

    Text between images is tokenised by itself, as if it began a prompt; of their BOS ids only the first stays.
    """
    ids: list[int] = []
    spans: list[Span] = []
    start = 0
    for number, chunk in enumerate(prompt.split(DEFAULT_IMAGE_TOKEN)):
        chunk_ids, chunk_spans = encode_with_offsets(tokenizer, chunk)
        if number > 0:
            end = start + len(DEFAULT_IMAGE_TOKEN)
            ids.append(image_token_index)
            spans.append((start, end))
            start = end
            # a BOS that the tokenizer put there has no characters; one that is written in the text stays
            if chunk_ids and chunk_ids[0] == tokenizer.bos_token_id and chunk_spans[0] == (0, 0):
                chunk_ids, chunk_spans = chunk_ids[1:], chunk_spans[1:]
        ids += chunk_ids
        spans += [(start + a, start + b) for a, b in chunk_spans]
        start += len(chunk)
    return ids, spans


def tokenizer_image_token(
    prompt: str,
    tokenizer: PreTrainedTokenizerBase,
    image_token_index: int = IMAGE_TOKEN_INDEX,
    return_tensors: str | None = None,
) -> list[int] | Tensor:
    """The ids of :func:`tokenize_with_images`: a list, or for ``return_tensors="pt"`` a LongTensor ``[S]``."""
    if return_tensors not in (None, "pt"):
        raise ValueError(f"Unsupported tensor type: {return_tensors}; use 'pt', or None for a list")
    ids, _ = tokenize_with_images(prompt, tokenizer, image_token_index)
    return ids if return_tensors is None else torch.tensor(ids, dtype=torch.long)


def get_model_name_from_path(model_path: str) -> str:
    """Last part of a path or hub name; for ``.../run/checkpoint-100`` the run's name goes before it."""
    parts = [part for part in re.split(r"[/\\]", model_path) if part]
    if not parts:
        raise UserError(f"model path is {model_path!r}; give a folder or a hub name")
    return "_".join(parts[-2:] if parts[-1].startswith("checkpoint-") else parts[-1:])


class KeywordsStoppingCriteria(StoppingCriteria):
    """Stop when the answer of every row ends in a keyword, or has one in its last few tokens as text.

    Args:
        keywords: for instance ``["</s>"]``.
        tokenizer: turns keywords into ids and the answer's end into text.
        input_ids: ``[B, S]`` prompt. LLaVA generates from embeddings, so what it is called with usually does not
            contain the prompt; where it does, the prompt is not searched.
    """

    def __init__(self, keywords: Sequence[str], tokenizer: PreTrainedTokenizerBase, input_ids: Tensor) -> None:
        self.keywords = list(keywords)
        self.tokenizer = tokenizer
        self.keyword_ids = []
        for keyword in self.keywords:
            ids = tokenizer(keyword).input_ids
            if len(ids) > 1 and ids[0] == tokenizer.bos_token_id:
                ids = ids[1:]
            self.keyword_ids.append(torch.tensor(ids))
        self.max_keyword_len = max((len(ids) for ids in self.keyword_ids), default=0)
        self.prompt = input_ids
        self.start_len = input_ids.shape[1]

    def call_for_batch(self, output_ids: Tensor, scores: Any, **kwargs: Any) -> bool:
        """Whether the one row of ``output_ids [1, S]`` has ended."""
        answer = self._answer(output_ids[0])
        for ids in self.keyword_ids:
            if 0 < len(ids) <= len(answer) and torch.equal(answer[-len(ids) :], ids.to(answer.device)):
                return True
        end = self.tokenizer.decode(answer[-self.max_keyword_len :], skip_special_tokens=True)
        return any(keyword in end for keyword in self.keywords)

    def _answer(self, row: Tensor) -> Tensor:
        if len(row) < self.start_len:
            return row
        begins_with_prompt = (self.prompt.to(row.device) == row[: self.start_len]).all(dim=1).any()
        return row[self.start_len :] if begins_with_prompt else row

    def __call__(self, output_ids: Tensor, scores: Any, **kwargs: Any) -> bool:
        return all(self.call_for_batch(row.unsqueeze(0), scores) for row in output_ids)
