"""Starting as a LLaVA: the weights of a plain ``mlp2x_gelu`` adapter put into a projector of another type."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn


@torch.no_grad()
def load_plain_adapter(state: Mapping[str, Tensor], first: nn.Linear, second: nn.Linear) -> None:
    """Copy an ``mlp2x_gelu`` adapter, ``Sequential(Linear(d, D), GELU, Linear(D, D))``, into its two linear layers.

    Raises:
        ValueError: if the keys or shapes are not those of such an adapter for the same d and D; nothing is copied.
    """
    targets = {"0.weight": first.weight, "0.bias": first.bias, "2.weight": second.weight, "2.bias": second.bias}
    if set(state) != set(targets):
        raise ValueError(
            f"the adapter has the keys {sorted(state)}; an mlp2x_gelu adapter has {sorted(targets)}. "
            "Give a plain LLaVA adapter or one of the projector's own type"
        )
    for key, ours in targets.items():
        theirs = state[key]
        if ours.shape != theirs.shape:
            raise ValueError(
                f"the adapter's {key} has the shape {list(theirs.shape)}, this model needs {list(ours.shape)}; "
                "use an adapter trained with the same vision tower and language model"
            )
    for key, ours in targets.items():
        ours.copy_(state[key])
