"""Weights published as differences from a base model: what :mod:`apply_delta` and :mod:`make_delta` share."""

import argparse

import torch
from torch import Tensor
from transformers import PreTrainedModel

from llava.errors import UserError
from llava.model.builder import EYES

# Tokens were added behind the base's: its rows are the first of these.
GROWN = ("embed_tokens.weight", "lm_head.weight")


def delta_parser(description: str) -> argparse.ArgumentParser:
    """The flags that both commands have; ``--base --target --delta`` are accepted too."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--base-model-path", type=str, required=True, help="the language model under both")
    parser.add_argument("--target-model-path", type=str, required=True, help="the LLaVA")
    parser.add_argument("--delta-path", type=str, required=True, help="LLaVA minus language model")
    parser.add_argument("--yes", action="store_true", help="upgrade an old config.json without asking")
    return parser


@torch.no_grad()
def add_base(model: PreTrainedModel, base: PreTrainedModel, sign: int) -> None:
    """Add ``sign`` times the base's weights to ``model``'s, in the type that they are in.

    The parts that see stay as they are. Of larger embeddings the base's rows are changed.
    Raises UserError for a weight that the base lacks or has in another shape.
    """
    base_weights = base.state_dict()
    for name, weight in model.state_dict().items():
        if name in base_weights:
            _overlap(name, weight, base_weights[name]).add_(base_weights[name], alpha=sign)
        elif not any(part in name for part in EYES):
            raise UserError(f"the base model has no {name!r}; is it the one that the delta was made from?")


def _overlap(name: str, weight: Tensor, base: Tensor) -> Tensor:
    """The part of ``weight`` that stands over ``base``."""
    if weight.shape == base.shape:
        return weight
    grown = name.endswith(GROWN) and weight.shape[0] >= base.shape[0] and weight.shape[1:] == base.shape[1:]
    if not grown:
        raise UserError(
            f"{name} has the shape {list(weight.shape)}, the base's {list(base.shape)}; use the base of the same size"
        )
    return weight[: len(base)]
