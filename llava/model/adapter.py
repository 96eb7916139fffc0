"""Adapter files: the projector's weights (``mm_projector.bin`` or ``.safetensors``), and new tokens' rows with them."""

import os

import torch
from safetensors.torch import load_file
from torch import Tensor

from llava.errors import UserError

PROJECTOR_KEY = "mm_projector."


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


def rows_of_embeddings(path: str, vocabulary: int, num_new: int) -> Tensor:
    """The rows of the ``num_new`` added tokens ``[num_new, D]`` from an adapter that was trained with them.

    UserError when there are none, or the file's rows fit neither the vocabulary nor the new tokens.
    """
    weights = read_weights(path)
    rows = weights.get("model.embed_tokens.weight")
    if rows is None:
        raise UserError(
            f"{path} has no model.embed_tokens.weight, which mm_use_im_start_end needs; "
            "use an adapter trained with --mm_use_im_start_end True, or leave the flag off"
        )
    if len(rows) not in (vocabulary, num_new):
        raise UserError(
            f"{path} holds {len(rows)} embedding rows; {num_new} (the new tokens) or {vocabulary} (all) are expected"
        )
    return rows[-num_new:]
