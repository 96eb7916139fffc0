"""Answers to ScienceQA in LLaVA's training format: ``python -m llava.eval.model_vqa_science``.

Questions are a JSON list of ``id``, optional ``image``, and ``conversations``, of which the first turn is asked; so any
LLaVA-format file will do. Each answer is a line with ``question_id``, ``prompt``, ``text``, ``answer_id``, ``model_id``
and ``metadata``; the prompt begins with ``<image>`` where there is a picture.
"""

import argparse
from typing import Any

from llava.constants import DEFAULT_IMAGE_TOKEN
from llava.errors import UserError, exit_on_user_error
from llava.eval.answer_forms import ANSWER_BY_LETTER
from llava.eval.driver import answer_items
from llava.eval.items import Item, picture_path
from llava.eval.records import get_chunk, read_conversations, split_list
from llava.eval.settings import DriverSettings, add_driver_flags

__all__ = ["eval_model", "get_chunk", "split_list"]


def sample_to_item(sample: dict[str, Any], image_folder: str, single_pred_prompt: bool) -> Item:
    """The first turn of a sample as an item, the picture in front. Raises UserError where there are several."""
    text = sample["conversations"][0]["value"].replace(DEFAULT_IMAGE_TOKEN, "").strip()
    if single_pred_prompt:
        text = f"{text}\n{ANSWER_BY_LETTER['en']}"
    image = sample.get("image")
    if isinstance(image, list):
        raise UserError(f"sample {sample['id']!r} has {len(image)} pictures; this driver shows one picture at most")
    if not image:
        return Item({"question_id": sample["id"], "prompt": text}, text)
    text = f"{DEFAULT_IMAGE_TOKEN}\n{text}"
    return Item({"question_id": sample["id"], "prompt": text}, text, (picture_path(image_folder, image),))


def eval_model(args: Any) -> None:
    """Answers the chunk of ``args.question_file`` that ``args`` asks for; ``args`` needs upstream's flags at least."""
    settings = DriverSettings.from_args(args)
    samples = read_conversations(settings.question_file)
    chunk = get_chunk(samples, settings.num_chunks, settings.chunk_idx)
    answer_items([sample_to_item(sample, args.image_folder, args.single_pred_prompt) for sample in chunk], settings)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="llava.eval.model_vqa_science", description="Answer ScienceQA.")
    add_driver_flags(parser, conv_mode="llava_v0", sampling_flags=False)
    parser.set_defaults(question_file="tables/question.json")
    parser.add_argument("--answer-prompter", action="store_true", help="accepted as upstream does, without effect")
    parser.add_argument("--single-pred-prompt", action="store_true", help="ask for the option's letter alone")
    return parser


@exit_on_user_error
def main() -> None:
    eval_model(build_parser().parse_args())


if __name__ == "__main__":
    main()
