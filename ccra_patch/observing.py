"""What the commands have in common that look at a ccra checkpoint while it is asked questions."""

import argparse
from pathlib import Path
from typing import Any

from llava.errors import UserError
from llava.eval.items import Item
from llava.eval.model_vqa_loader import question_to_item
from llava.eval.provenance import file_digest, fingerprint
from llava.eval.records import read_json_lines, require_keys


def add_checkpoint_arguments(parser: argparse.ArgumentParser, output: str) -> None:
    """The checkpoint, how to ask it, and where the report goes (``output`` by default)."""
    parser.add_argument("--model-path", required=True, help="folder or hub name of a ccra checkpoint")
    parser.add_argument("--model-base", help="what a LoRA or projector-only checkpoint was trained on")
    parser.add_argument("--output", default=output, help=f"JSON to write (default: {output})")
    parser.add_argument("--conv-mode", default="vicuna_v1", help="conversation template (default: vicuna_v1)")
    parser.add_argument("--first", type=int, help="only so many questions (default: all)")
    parser.add_argument("--batch-size", type=int, default=1, help="questions at once (default: 1)")


def add_question_arguments(parser: argparse.ArgumentParser) -> None:
    """The question file of ``llava.eval.model_vqa_loader``."""
    parser.add_argument("--question-file", required=True, help="JSON Lines with question_id, text and image")
    parser.add_argument("--image-folder", default="", help="folder of the pictures that the questions name")
    parser.add_argument("--workers", type=int, default=0, help="processes that read pictures ahead (default: 0)")


def require_counts(arguments: argparse.Namespace) -> None:
    """Raises UserError for a ``--first`` or ``--batch-size`` below 1."""
    for flag, value in (("--first", arguments.first), ("--batch-size", arguments.batch_size)):
        if value is not None and value < 1:
            raise UserError(f"{flag} is {value}; it must be at least 1")


def read_items(arguments: argparse.Namespace) -> list[Item]:
    """The first questions of the question file. Raises UserError if none of them has a picture."""
    questions = read_json_lines(arguments.question_file)
    require_keys(questions, ("question_id", "text"), arguments.question_file)
    items = [question_to_item(question, arguments.image_folder) for question in questions[: arguments.first]]
    if not any(item.images for item in items):
        raise UserError(f"{arguments.question_file} has no question with a picture; the metrics are about pictures")
    return items


def checkpoint_asked(arguments: argparse.Namespace) -> dict[str, Any]:
    """A report's entry for the checkpoint."""
    return {"path": arguments.model_path, **fingerprint(arguments.model_path)}


def file_asked(arguments: argparse.Namespace) -> dict[str, str]:
    """The beginning of a report's entry for the question file."""
    path = arguments.question_file
    return {"file": path, "sha256": file_digest(Path(path).expanduser())}
