"""The flags that all answer-writing drivers know: upstream's, and a few of this project's."""

import argparse
import os
from dataclasses import dataclass, field
from typing import Any

from llava.attanchor import add_attanchor_flags, given_attanchor_flags
from llava.errors import UserError
from llava.eval.generation import Sampling

DEFAULT_WORKERS = min(4, os.cpu_count() or 1)
DEFAULT_SEED = 42


@dataclass(frozen=True)
class DriverSettings:
    """The flags that all drivers know, checked."""

    model_path: str
    model_base: str | None
    question_file: str
    answers_file: str
    conv_mode: str
    num_chunks: int = 1
    chunk_idx: int = 0
    sampling: Sampling = field(default_factory=Sampling)
    batch_size: int = 1
    workers: int = DEFAULT_WORKERS
    seed: int = DEFAULT_SEED
    resume: bool = False
    attanchor: dict[str, Any] = field(default_factory=dict)  # settings over those of the checkpoint

    @classmethod
    def from_args(cls, args: Any) -> "DriverSettings":
        """From parsed flags, or from any object that has upstream's: flags of this project then take their default.

        Raises UserError for a value out of its range.
        """
        sampling = {name: getattr(args, name) for name in Sampling.__dataclass_fields__ if hasattr(args, name)}
        settings = cls(
            model_path=os.path.expanduser(args.model_path),
            model_base=args.model_base,
            question_file=args.question_file,
            answers_file=args.answers_file,
            conv_mode=args.conv_mode,
            num_chunks=args.num_chunks,
            chunk_idx=args.chunk_idx,
            sampling=Sampling(**sampling),
            batch_size=getattr(args, "batch_size", 1),
            workers=getattr(args, "workers", DEFAULT_WORKERS),
            seed=getattr(args, "random_seed", DEFAULT_SEED),
            resume=getattr(args, "resume", False),
            attanchor=given_attanchor_flags(args),
        )
        settings.validate()
        return settings

    def validate(self) -> None:
        if not 0 <= self.chunk_idx < self.num_chunks:
            raise UserError(
                f"--chunk-idx is {self.chunk_idx} of --num-chunks {self.num_chunks}; it must be from 0 to one less"
            )
        if self.batch_size < 1:
            raise UserError(f"--batch-size is {self.batch_size}; it must be at least 1")
        if self.workers < 0:
            raise UserError(f"--workers is {self.workers}; it must be 0 (no worker processes) or more")
        self.sampling.validate()


def add_driver_flags(
    parser: argparse.ArgumentParser,
    *,
    conv_mode: str = "llava_v1",
    max_new_tokens: int | None = None,
    sampling_flags: bool = True,
) -> None:
    """Upstream's flags with its defaults, then this project's.

    Users abbreviate flags, and ``argparse`` takes any prefix that is unique. So a driver gets only those flags that
    upstream's has, and no new flag may share its first letter with one of any upstream driver: those begin with a, c,
    h, i, l, m, n, q, s and t.

    Args:
        max_new_tokens: default of the flag; None for drivers that have no such flag.
        sampling_flags: whether the driver has ``--top_p`` and ``--num_beams``.
    """
    text_flags = {
        "--model-path": ("facebook/opt-350m", "checkpoint folder or hub name"),
        "--model-base": (None, "what a LoRA or projector-only checkpoint was trained on"),
        "--image-folder": ("", "folder of the pictures that the questions name"),
        "--question-file": ("tables/question.jsonl", "questions, one JSON record per line"),
        "--answers-file": ("answer.jsonl", "where the answers go, one JSON record per line"),
        "--conv-mode": (conv_mode, "conversation template"),
    }
    for flag, (default, text) in text_flags.items():
        parser.add_argument(flag, type=str, default=default, help=f"{text} (default: {default})")
    parser.add_argument("--num-chunks", type=int, default=1, help="cut the questions into so many pieces")
    parser.add_argument("--chunk-idx", type=int, default=0, help="the piece to answer, from 0")
    parser.add_argument("--temperature", type=float, default=0.2, help="0 decodes greedily (default: 0.2)")
    if sampling_flags:
        parser.add_argument("--top_p", type=float, default=None, help="sample from the likeliest tokens of this total")
        parser.add_argument("--num_beams", type=int, default=1, help="beams of beam search (default: 1)")
    if max_new_tokens is not None:
        parser.add_argument("--max_new_tokens", type=int, default=max_new_tokens, help=f"default: {max_new_tokens}")
    add_own_flags(parser)
    add_attanchor_flags(parser)


def add_own_flags(parser: argparse.ArgumentParser) -> None:
    """This project's flags, which every driver has."""
    ours = parser.add_argument_group("beyond LLaVA v1.2.2")
    ours.add_argument("--batch-size", type=int, default=1, help="questions answered at once (default: 1)")
    ours.add_argument(
        "--workers",
        type=int,
        default=DEFAULT_WORKERS,
        help=f"processes that read pictures ahead (default: {DEFAULT_WORKERS})",
    )
    ours.add_argument("--random-seed", type=int, default=DEFAULT_SEED, help=f"for sampling (default: {DEFAULT_SEED})")
    ours.add_argument("--resume", action="store_true", help="keep the answers a killed run has written, and go on")
