"""Adapter files: the projector's weights (``mm_projector.bin`` or ``.safetensors``), and new tokens' rows with them."""

import json
import logging
import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from llava.errors import UserError

logger = logging.getLogger(__name__)

PROJECTOR_KEY = "mm_projector."
EMBEDDING_KEYS = ("embed_tokens.weight", "wte.weight")


def read_weights(path: str) -> dict[str, Tensor]:
    """All tensors of a ``.bin`` or ``.safetensors`` file. UserError when it is missing or not a weight file."""
    if not os.path.isfile(path):
        raise UserError(f"adapter file {path} does not exist; give the mm_projector.bin that stage 1 wrote")
    if path.endswith(".safetensors"):
        return load_file(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler raises whatever foreign bytes lead it to
        raise UserError(f"{path} is not a file of tensors; give the mm_projector.bin that stage 1 wrote") from error


def read_adapter(path: str) -> dict[str, Tensor]:
    """The projector's state dict out of an adapter file, whatever wrapper's prefix its keys carry."""
    weights = read_weights(path)
    state = {name.split(PROJECTOR_KEY, 1)[1]: value for name, value in weights.items() if PROJECTOR_KEY in name}
    if not state:
        raise UserError(f"{path} holds no key with {PROJECTOR_KEY!r}; give an mm_projector file")
    return state


def read_newline(path: str) -> Tensor | None:
    """The embedding ``[D]`` at the end of every row of tiles, when the adapter file has one."""
    return next((value for name, value in read_weights(path).items() if name.endswith("image_newline")), None)


def settings_of_adapter(path: str) -> dict[str, Any]:
    """What an adapter file's projector was: the ``mm_*`` keys of the ``config.json`` beside it, if there is one."""
    file = Path(path).with_name("config.json")
    config = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return {key: value for key, value in config.items() if key.startswith("mm_")}


def rows_of_embeddings(path: str, vocabulary: int, num_new: int) -> Tensor | None:
    """The rows of the ``num_new`` added tokens ``[num_new, D]`` in an adapter file; None when it has no embedding.

    UserError when the file's rows fit neither the vocabulary nor the new tokens.
    """
    weights = read_weights(path)
    rows = next((value for name, value in weights.items() if name.endswith(EMBEDDING_KEYS)), None)
    if rows is None:
        logger.warning("%s was trained without image start and end tokens; their embeddings begin untrained", path)
    elif len(rows) not in (vocabulary, num_new):
        raise UserError(
            f"{path} holds {len(rows)} embedding rows; {num_new} (the new tokens) or {vocabulary} (all) are expected"
        )
    return rows if rows is None else rows[-num_new:]
