"""Look over the shoulder of a model that answers: the maps of its attention stacks, as they are computed."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from ccra_patch.pai import AttentionMaps, PAIStack


@contextmanager
def recorded_maps(model: nn.Module) -> Iterator[list[AttentionMaps]]:
    """Collect what every attention stack inside ``model`` did in this thread while the block ran, in order.

    Empty for a model without one. Other threads may use the model meanwhile; what they ask is not recorded.
    """
    thread = threading.get_ident()
    recorded: list[AttentionMaps] = []

    def keep(stack: nn.Module, inputs: tuple[Any, ...], output: tuple[Any, AttentionMaps]) -> None:
        if threading.get_ident() == thread:
            recorded.append(output[1])

    handles = [part.register_forward_hook(keep) for part in model.modules() if isinstance(part, PAIStack)]
    try:
        yield recorded
    finally:
        for handle in handles:
            handle.remove()
