"""One question about one or more pictures: ``python -m llava.eval.run_llava --image-file view.jpg --query "..."``."""

import argparse
from typing import Any

import requests
import torch
from PIL import Image

from llava.attanchor import add_attanchor_flags, enable_attanchor, given_attanchor_flags
from llava.constants import DEFAULT_IM_END_TOKEN, DEFAULT_IM_START_TOKEN, DEFAULT_IMAGE_TOKEN, IMAGE_PLACEHOLDER
from llava.conversation import conv_templates
from llava.errors import UserError, exit_on_user_error
from llava.eval.generation import Sampling, generate_texts
from llava.eval.items import known_conv_mode, open_image, render_prompt
from llava.mm_utils import get_model_name_from_path, process_images, tokenizer_image_token
from llava.model.builder import load_pretrained_model

DOWNLOAD_TIMEOUT = 30  # seconds
DOWNLOAD_LIMIT = 64 << 20  # bytes
# The first of these that a model's name contains decides its template.
CONV_MODE_OF_NAME = {
    "llama-2": "llava_llama_2",
    "mistral": "mistral_instruct",
    "v1.6-34b": "chatml_direct",
    "v1": "llava_v1",
    "mpt": "mpt",
}


def image_parser(args: Any) -> list[str]:
    """The files or addresses in ``args.image_file``."""
    return args.image_file.split(args.sep)


def load_image(image_file: str) -> Image.Image:
    """A picture in RGB, from a file or an http(s) address. Raises UserError when there is none."""
    if not image_file.startswith(("http://", "https://")):
        return open_image(image_file, "--image-file")
    try:
        with requests.get(image_file, timeout=DOWNLOAD_TIMEOUT, stream=True) as response:
            response.raise_for_status()
            data = b""
            for chunk in response.iter_content(1 << 20):
                data += chunk
                if len(data) > DOWNLOAD_LIMIT:
                    raise UserError(f"{image_file} is larger than {DOWNLOAD_LIMIT >> 20} MB; give a smaller picture")
    except requests.RequestException as error:
        raise UserError(f"{image_file} cannot be fetched ({error}); download it and give the file's path") from error
    return open_image(data, image_file)


def load_images(image_files: list[str]) -> list[Image.Image]:
    """Several pictures in RGB."""
    return [load_image(image_file) for image_file in image_files]


def conv_mode_for(model_name: str, asked: str | None) -> str:
    """The template that belongs to a model's name; another one that the user asks for wins, with a warning."""
    name = model_name.lower()
    inferred = next((mode for part, mode in CONV_MODE_OF_NAME.items() if part in name), "llava_v0")
    if asked is None or asked == inferred:
        return inferred
    print(f"[WARNING] {model_name} was taken for a {inferred} model; --conv-mode {asked} is used instead")
    return known_conv_mode(asked)


def place_images(query: str, start_end: bool) -> str:
    """The query with its placeholders as ``<image>``, or with one ``<image>`` in front when it has none.

    ``start_end`` puts the pair of marks around each that ``mm_use_im_start_end`` models expect.
    """
    mark = DEFAULT_IM_START_TOKEN + DEFAULT_IMAGE_TOKEN + DEFAULT_IM_END_TOKEN if start_end else DEFAULT_IMAGE_TOKEN
    return query.replace(IMAGE_PLACEHOLDER, mark) if IMAGE_PLACEHOLDER in query else f"{mark}\n{query}"


def eval_model(args: Any) -> None:
    """Prints the answer. ``args`` needs the attributes that the flags of this module give."""
    sampling = Sampling(args.temperature, args.top_p, args.num_beams, args.max_new_tokens)
    sampling.validate()
    model_name = get_model_name_from_path(args.model_path)
    conv_mode = conv_mode_for(model_name, args.conv_mode)
    images = load_images(image_parser(args))
    marks = args.query.count(IMAGE_PLACEHOLDER)
    if marks > len(images):
        raise UserError(
            f"--query has {marks} {IMAGE_PLACEHOLDER} for {len(images)} pictures; give as many in --image-file"
        )

    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer, model, image_processor, _ = load_pretrained_model(
        args.model_path, args.model_base, model_name, device=device
    )
    if attanchor := given_attanchor_flags(args):
        enable_attanchor(model, tokenizer, conv_templates[conv_mode], **attanchor)
    text = place_images(args.query, getattr(model.config, "mm_use_im_start_end", False))
    input_ids = torch.tensor([tokenizer_image_token(render_prompt(text, conv_mode), tokenizer)])
    pixels = process_images(images, image_processor, model.config)
    sizes = [image.size for image in images]
    print(generate_texts(model, tokenizer, sampling, input_ids, images=pixels, image_sizes=sizes)[0])


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="llava.eval.run_llava", description="Ask one question about pictures.")
    parser.add_argument("--model-path", type=str, default="facebook/opt-350m", help="checkpoint folder or hub name")
    parser.add_argument(
        "--model-base", type=str, default=None, help="what a LoRA or projector checkpoint was trained on"
    )
    parser.add_argument(
        "--image-file", type=str, required=True, help="file or http(s) address; several joined by --sep"
    )
    parser.add_argument(
        "--query", type=str, required=True, help=f"the question; {IMAGE_PLACEHOLDER} where a picture stands"
    )
    parser.add_argument("--conv-mode", type=str, default=None, help="template (default: what the model's name says)")
    parser.add_argument("--sep", type=str, default=",", help="what separates several --image-file")
    parser.add_argument("--temperature", type=float, default=0.2, help="0 decodes greedily (default: 0.2)")
    parser.add_argument("--top_p", type=float, default=None, help="sample from the likeliest tokens of this total")
    parser.add_argument("--num_beams", type=int, default=1, help="beams of beam search (default: 1)")
    parser.add_argument("--max_new_tokens", type=int, default=512, help="default: 512")
    add_attanchor_flags(parser)
    return parser


@exit_on_user_error
def main() -> None:
    eval_model(build_parser().parse_args())


if __name__ == "__main__":
    main()
