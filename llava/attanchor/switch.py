"""Switching AttAnchor on: its settings, and what they need of tokenizer and template, into a model's config."""

import argparse
import logging
from dataclasses import fields
from typing import Any

from transformers import PreTrainedTokenizerBase

from ccra_patch.attanchor import AttAnchorSettings
from llava.conversation import Conversation
from llava.errors import UserError
from llava.model.anchoring import attanchor_settings
from llava.query_markers import query_markers

logger = logging.getLogger(__name__)

TYPES = {f.name: type(f.default) for f in fields(AttAnchorSettings)}


def enable_attanchor(model: Any, tokenizer: PreTrainedTokenizerBase, conv: Conversation, **settings: Any) -> None:
    """Switch AttAnchor on, over or off for a model that stands, whoever trained it.

    Args:
        model: a loaded LLaVA; only its config changes.
        tokenizer: the model's.
        conv: the template that prompts will be written in, by which the question is found in them.
        settings: keys of the config, such as ``mm_attanchor_direction="text_into_image"``; what is not given stays as
            the config has it.

    Raises:
        UserError: for settings that cannot be or contradict each other.
        TypeError: for a key that is none.
    """
    given = {name: getattr(model.config, name) for name in TYPES if hasattr(model.config, name)}
    if settings.get("mm_attanchor_direction") == "off":
        given = {}  # what belonged to the old direction would contradict it
    record_attanchor(model.config, AttAnchorSettings(**(given | settings)), tokenizer, conv)


def record_attanchor(config: Any, given: Any, tokenizer: PreTrainedTokenizerBase, conv: Conversation) -> None:
    """Write the settings among ``given``'s attributes, the template's markers and the pause token's id into ``config``.

    A config that never knew AttAnchor stays as it is when it is off. Raises UserError for settings that cannot be.
    """
    settings = attanchor_settings(given)
    if settings.mm_attanchor_direction == "off" and not hasattr(config, "mm_attanchor_direction"):
        return
    if settings.mm_attanchor_think_tokens > 0:
        config.mm_attanchor_think_id = _only_id(settings.mm_attanchor_think_token, tokenizer)
    for name, value in vars(settings).items():
        setattr(config, name, value)
    if settings.mm_attanchor_direction != "off":
        markers = query_markers(conv, tokenizer)
        config.mm_query_markers = markers.to_dict()
        if not markers.open:
            logger.warning("the template has no human turns, so AttAnchor finds no question and changes nothing")


def _only_id(text: str, tokenizer: PreTrainedTokenizerBase) -> int:
    ids = tokenizer(text, add_special_tokens=False).input_ids
    if len(ids) != 1:
        raise UserError(
            f"mm_attanchor_think_token is {text!r}, which this tokenizer writes as {len(ids)} tokens; choose a text "
            "that it writes as one"
        )
    return ids[0]


def add_attanchor_flags(parser: argparse.ArgumentParser) -> None:
    """Flags ``--mm_attanchor_*`` for programs that load a checkpoint; one that is not given leaves the config's value.

    They break no abbreviation: upstream's programs all have several flags in ``--m``, and none in ``--mm``.
    """
    group = parser.add_argument_group("AttAnchor (default: as the checkpoint was trained)")
    for f in fields(AttAnchorSettings):
        group.add_argument(f"--{f.name}", type=TYPES[f.name], default=argparse.SUPPRESS, help=f.metadata["help"])


def given_attanchor_flags(args: Any) -> dict[str, Any]:
    """The settings that were given on the command line, for :func:`enable_attanchor`; empty when none was.

    ``args`` may also be an object without these attributes, as callers of upstream's functions pass it.
    """
    given = {name: getattr(args, name, None) for name in TYPES}
    return {name: value for name, value in given.items() if value is not None}
