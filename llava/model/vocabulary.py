"""The vocabulary's size: rows of both embeddings, and what new ones start from."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor
from transformers import PreTrainedModel
from transformers.integrations import is_deepspeed_zero3_enabled


def fit_vocabulary(model: PreTrainedModel, size: int, num_new: int) -> None:
    """Give the embedding and the unembedding ``size`` rows; the last ``num_new`` are the mean of all before them."""
    model.resize_token_embeddings(size, mean_resizing=False)
    if num_new == 0:
        return
    for weight in (model.get_input_embeddings().weight, model.get_output_embeddings().weight):
        with whole(weight):
            weight.data[-num_new:] = weight.data[:-num_new].mean(dim=0, keepdim=True)


@contextmanager
def whole(weight: Tensor) -> Iterator[None]:
    """A weight that ZeRO-3 has partitioned, gathered while it is written to; every rank must come here."""
    if not is_deepspeed_zero3_enabled():
        yield
        return
    from deepspeed import zero

    with zero.GatheredParameters([weight], modifier_rank=0):
        yield
