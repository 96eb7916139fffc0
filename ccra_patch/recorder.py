"""Look over the shoulder of a model that answers: what its attention stacks see and do, as it is computed."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from torch import Tensor, nn

from ccra_patch.pai import AttentionMaps, PAIStack


class Call(NamedTuple):
    """One call of an attention stack: ``F_stack [B, L, N, d]``, ``F_t [B, T, D]``, and what came of them."""

    attention: PAIStack
    stack: Tensor
    query: Tensor
    maps: AttentionMaps

    def images(self, rows: Tensor) -> "Call":
        """The same of some of its B images."""
        maps = AttentionMaps(*(value[rows] for value in vars(self.maps).values()))
        return Call(self.attention, self.stack[rows], self.query[rows], maps)


@contextmanager
def recorded_maps(model: nn.Module) -> Iterator[list[AttentionMaps]]:
    """Collect what every attention stack inside ``model`` did in this thread while the block ran, in order.

    Empty for a model without one. Other threads may use the model meanwhile; what they ask is not recorded.
    """
    recorded: list[AttentionMaps] = []
    with _told(model, lambda call: recorded.append(call.maps)):
        yield recorded


@contextmanager
def recorded_calls(model: nn.Module) -> Iterator[list[Call]]:
    """The same with what they were given, which keeps the layer stacks in memory."""
    recorded: list[Call] = []
    with _told(model, recorded.append):
        yield recorded


@contextmanager
def _told(model: nn.Module, tell: Callable[[Call], None]) -> Iterator[None]:
    """Tell of every call in this thread."""
    thread = threading.get_ident()

    def keep(stack: PAIStack, inputs: tuple[Tensor, ...], output: tuple[Tensor, AttentionMaps]) -> None:
        if threading.get_ident() == thread:
            tell(Call(stack, inputs[0], inputs[1], output[1]))

    handles = [part.register_forward_hook(keep) for part in model.modules() if isinstance(part, PAIStack)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
