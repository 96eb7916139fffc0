"""The paper's pictures of attention, from any checkpoint, picture and question; the numbers go into a JSON file beside.

    python -m ccra_patch.draw maps --model-path CKPT --image-file cat.jpg --query "What is it?" --output maps.png
    python -m ccra_patch.draw layers --model-path CKPT --image-file cat.jpg --query "What?" "Where?" --output layers.png
    python -m ccra_patch.draw attention --model-path PLAIN CKPT --image-file cat.jpg --query "What?" --output llm.png

``maps`` (Figure 3): LPWCA at three layers, layer weights and PWCA over the picture.
``layers`` (Figure 4): the layer weights of several questions, before and after smoothing.
``attention`` (Figures 2 and 6): where the language model looks while it reads the question, for one checkpoint with any
projector or for several side by side.
Figure 7 is drawn by the sweep that measures it: ``python -m ccra_patch.sweep --study figure7``.

Give one picture for all questions, or one for each.
"""

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ccra_patch.depth_picture import draw_layer_weights
from ccra_patch.language_attention import Reading, draw_attention
from ccra_patch.picture import Example, draw, png_path
from llava.constants import DEFAULT_IMAGE_TOKEN
from llava.errors import UserError, exit_on_user_error
from llava.eval.items import Item, open_image
from llava.eval.observe import Checkpoint, language_attention, observe

if TYPE_CHECKING:
    from PIL.Image import Image


def ask(queries: Sequence[str], image_files: Sequence[str]) -> list[Item]:
    """One item for each question. Raises UserError unless there is one picture for all, or one for each."""
    if len(image_files) not in (1, len(queries)):
        raise UserError(
            f"--image-file names {len(image_files)} pictures for {len(queries)} questions; give one, or one for each"
        )
    files = image_files if len(image_files) == len(queries) else list(image_files) * len(queries)
    return [
        Item({"question_id": query, "prompt": query}, f"{DEFAULT_IMAGE_TOKEN}\n{query}", (file,))
        for query, file in zip(queries, files, strict=True)
    ]


def pictures(items: Sequence[Item]) -> "list[Image]":
    return [open_image(item.images[0], item.name) for item in items]


def examples(model_path: str, model_base: str | None, items: Sequence[Item], conv_mode: str) -> list[Example]:
    """What the checkpoint's attention stack makes of each item."""
    shown = pictures(items)
    checkpoint = Checkpoint.load(model_path, model_base)
    return [
        Example(item.record["prompt"], picture, call.maps, fit=checkpoint.fit, layers=checkpoint.layers)
        for picture, ((item,), call) in zip(shown, observe(checkpoint, items, conv_mode), strict=True)
    ]


def readings(
    model_paths: Sequence[str], model_base: str | None, items: Sequence[Item], conv_mode: str, layers: list[int] | None
) -> list[Reading]:
    """Where each checkpoint's language model looks for each item; one checkpoint is in memory at a time."""
    rows = [
        Reading(item.record["prompt"], picture, {}, {}) for item, picture in zip(items, pictures(items), strict=True)
    ]
    for path in model_paths:
        checkpoint = Checkpoint.load(path, model_base, attn_implementation="eager")
        name = checkpoint.name if checkpoint.name not in rows[0].attention else path
        for row, attention in zip(rows, language_attention(checkpoint, items, conv_mode, layers), strict=True):
            row.attention[name], row.fit[name] = attention, checkpoint.fit
    return rows


def draw_figure(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Draw what the arguments ask for, and give its numbers. Raises UserError for a user's mistake."""
    output, paths = arguments.output, arguments.model_path
    with _mistakes_are_the_users():
        png_path(output)
    items = ask(arguments.query, arguments.image_file)
    common = (arguments.model_base, items, arguments.conv_mode)
    if arguments.figure == "attention":
        rows = readings(paths, *common, arguments.language_layers)
        with _mistakes_are_the_users():
            return draw_attention(rows, output)
    if len(paths) > 1:
        raise UserError(f"--model-path names {len(paths)} checkpoints, {arguments.figure} takes one; drop the others")
    drawn = examples(paths[0], *common)
    with _mistakes_are_the_users():
        return (draw if arguments.figure == "maps" else draw_layer_weights)(drawn, output)


@contextmanager
def _mistakes_are_the_users() -> Iterator[None]:
    """The drawing modules know nothing of llava's UserError: a wrong path, or a picture library that is missing."""
    try:
        yield
    except (ValueError, ImportError) as error:
        raise UserError(str(error)) from error


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ccra_patch.draw", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("figure", choices=("maps", "layers", "attention"))
    parser.add_argument("--model-path", nargs="+", required=True, help="folders or hub names; attention takes several")
    parser.add_argument("--model-base", help="what LoRA or projector-only checkpoints were trained on")
    parser.add_argument("--image-file", nargs="+", required=True, help="one picture, or one for each question")
    parser.add_argument("--query", nargs="+", required=True, help="one or several questions")
    parser.add_argument("--output", required=True, help="the PNG to write; numbers go into a .json beside it")
    parser.add_argument("--conv-mode", default="vicuna_v1", help="conversation template (default: vicuna_v1)")
    parser.add_argument(
        "--language-layers", type=int, nargs="+", help="attention: layers to average, from 0 (default: middle third)"
    )
    return parser


@exit_on_user_error
def main() -> None:
    arguments = build_parser().parse_args()
    draw_figure(arguments)
    print(f"{arguments.output} is drawn; its numbers are in the .json beside it")


if __name__ == "__main__":
    main()
