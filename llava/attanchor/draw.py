"""Which words AttAnchor pins where, drawn on the picture: ``python -m llava.attanchor.draw`` writes PNG and JSON."""

import argparse
from collections.abc import Callable, Sequence

import torch
from PIL import Image

from ccra_patch.anchor_picture import Box, Pin, PinnedPicture, draw_pins, patch_box
from ccra_patch.picture import covered_box
from llava.attanchor.loading import Loaded, add_model_flags, load
from llava.constants import DEFAULT_IMAGE_TOKEN
from llava.errors import UserError, exit_on_user_error
from llava.eval.items import open_image, render_prompt
from llava.eval.observe import FITS
from llava.mm_utils import get_anyres_image_grid_shape, process_images, tokenize_with_images


def find_pins(loaded: Loaded, pictures: Sequence[Image.Image], question: str, conv_mode: str) -> list[PinnedPicture]:
    """Ask about pictures, which stand in front of the question, and see which tokens AttAnchor brings together.

    Returns:
        one entry for each picture.

    Raises:
        UserError: when a projector's tokens are fewer than the patches.
    """
    text = f"{DEFAULT_IMAGE_TOKEN}\n" * len(pictures) + question
    prompt = render_prompt(text, conv_mode, getattr(loaded.model.config, "mm_use_im_start_end", False))
    settings = loaded.settings
    return [
        PinnedPicture(question, picture, pins, settings.mm_attanchor_direction, settings.mm_attanchor_tau)
        for picture, pins in zip(pictures, pins_in_prompt(loaded, pictures, prompt), strict=True)
    ]


@torch.inference_mode()
def pins_in_prompt(loaded: Loaded, pictures: Sequence[Image.Image], prompt: str) -> list[list[Pin]]:
    """The pins on each picture of a prompt with as many ``<image>``. Raises UserError as :func:`find_pins`."""
    model, settings = loaded.model, loaded.settings
    ids, spans = tokenize_with_images(prompt, loaded.tokenizer)
    layout, matches = model.find_anchors(
        torch.tensor([ids], device=model.device),
        None,
        loaded.to_model(process_images(pictures, loaded.image_processor, model.config)),
        [picture.size for picture in pictures],
        direction=settings.mm_attanchor_direction,
        query=settings.mm_attanchor_query,
    )
    numbers = layout.patch.tolist()
    first_patches = [vector for vector, number in enumerate(numbers) if number == 0]  # one for each picture
    ends = [*first_patches[1:], len(numbers)]
    counts = [max(numbers[start:end]) + 1 for start, end in zip(first_patches, ends, strict=True)]
    boxes = [_patch_boxes(loaded, picture, count) for picture, count in zip(pictures, counts, strict=True)]
    per_picture: list[list[Pin]] = [[] for _ in pictures]
    pinned = matches.similarity[0] >= settings.mm_attanchor_tau
    for place, partner, similarity in zip(
        layout.source[0, matches.place[0, pinned]].tolist(),
        layout.source[0, matches.partner[0, pinned]].tolist(),
        matches.similarity[0, pinned].tolist(),
        strict=True,
    ):
        token, vector = (place, partner) if settings.mm_attanchor_direction == "text_into_image" else (partner, place)
        index = sum(first <= vector for first in first_patches) - 1
        start, end = spans[token]
        pin = Pin(prompt[start:end].strip(), token, boxes[index](numbers[vector]), similarity)
        per_picture[index].append(pin)
    return per_picture


def _patch_boxes(loaded: Loaded, picture: Image.Image, count: int) -> Callable[[int], Box]:
    """From the number of one of ``count`` patches to what it shows of the picture, by how that was prepared."""
    config, tower = loaded.model.config, loaded.model.get_vision_tower()
    side, pixels = tower.num_patches_per_side, tower.image_size
    aspect_ratio = getattr(config, "image_aspect_ratio", None)
    columns = rows = 0
    if aspect_ratio == "anyres":
        columns, rows = get_anyres_image_grid_shape(picture.size, config.image_grid_pinpoints, pixels)
    if count < side * side:
        raise UserError(
            f"mm_projector_type {config.mm_projector_type} makes {count} image tokens of {side * side} patches; where "
            "they lie in the picture is not known, so they cannot be drawn"
        )
    fit = FITS.get(aspect_ratio or "", "crop")
    whole = covered_box(*picture.size, fit)
    canvas = _canvas_box(picture.size, (columns * pixels, rows * pixels)) if columns else whole

    def box(number: int) -> Box:
        view, patch = divmod(number, side * side)
        row, column = divmod(patch, side)
        if view == 0:
            return patch_box(row, column, side, side, whole)
        tile_row, tile_column = divmod(view - 1, columns)
        return patch_box(tile_row * side + row, tile_column * side + column, rows * side, columns * side, canvas)

    return box


def _canvas_box(size: tuple[int, int], canvas: tuple[int, int]) -> Box:
    """What a canvas covers on which the picture lies centred, as large as fits; in pixels of the picture."""
    scale = min(room / length for room, length in zip(canvas, size, strict=True))
    left, top = ((length - room / scale) / 2 for room, length in zip(canvas, size, strict=True))
    return left, top, left + canvas[0] / scale, top + canvas[1] / scale


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="llava.attanchor.draw", description="Draw which words AttAnchor pins where.")
    add_model_flags(parser)
    parser.add_argument("--image-file", required=True, help="picture; several joined by a comma stand before the query")
    parser.add_argument("--query", required=True, help="the question")
    parser.add_argument("--output", default="pins.png", help="PNG to write; the JSON has its name (default: pins.png)")
    return parser


@exit_on_user_error
def main() -> None:
    args = build_parser().parse_args()
    pictures = [open_image(file, "--image-file") for file in args.image_file.split(",")]
    loaded = load(args)
    examples = find_pins(loaded, pictures, args.query, args.conv_mode)
    try:
        rows = draw_pins(examples, args.output)
    except (ImportError, OSError, ValueError) as error:
        raise UserError(str(error)) from error
    for row in rows:
        words = ", ".join(dict.fromkeys(pin["text"] for pin in row["pins"]))
        print(f"{args.output}: {len(row['pins'])} pins" + (f": {words}" if words else ""))


if __name__ == "__main__":
    main()
