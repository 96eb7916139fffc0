"""The last step of every baseline: LLaVA's two-layer MLP, as it is or wider at the input."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ccra_patch.plain_adapter import load_plain_adapter


class PlainMLP(nn.Module):
    """``mlp2x_gelu``: ``W2 GELU(W1 x + b1) + b2``.

    Args:
        vision_dim: d.
        text_dim: D.
    """

    def __init__(self, vision_dim: int, text_dim: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(vision_dim, text_dim)
        self.output = nn.Linear(text_dim, text_dim)

    def forward(self, features: Tensor) -> Tensor:
        """``[B, N, d] -> [B, N, D]``."""
        return self.output(F.gelu(self.hidden(features)))

    def load_plain_adapter(self, state: Mapping[str, Tensor]) -> None:
        """Become that adapter. Raises ValueError if it does not fit."""
        load_plain_adapter(state, self.hidden, self.output)


class WideMLP(nn.Module):
    """``mlp2x_gelu`` over the selected layer and further channels beside it, ``[F_v || extra]``.

    The first layer is stored as two blocks of its columns, so a plain adapter's weights go into ``selected`` as they
    are, and with ``fused`` at zero the result is bit for bit the plain adapter's. In which order the papers
    concatenate is then only a matter of names.

    Args:
        vision_dim: d.
        extra_dim: e, channels beside the selected layer's.
        text_dim: D.
    """

    def __init__(self, vision_dim: int, extra_dim: int, text_dim: int) -> None:
        super().__init__()
        self.selected = nn.Linear(vision_dim, text_dim)
        self.fused = nn.Linear(extra_dim, text_dim, bias=False)
        self.output = nn.Linear(text_dim, text_dim)
        # as one Linear(d + e, D) would start
        bound = (vision_dim + extra_dim) ** -0.5
        for parameter in (self.selected.weight, self.selected.bias, self.fused.weight):
            nn.init.uniform_(parameter, -bound, bound)

    def forward(self, features: Tensor, extra: Tensor) -> Tensor:
        """``[B, N, d]`` and ``[B, N, e]`` -> ``[B, N, D]``."""
        return self.output(F.gelu(self.selected(features) + self.fused(extra)))

    @torch.no_grad()
    def load_plain_adapter(self, state: Mapping[str, Tensor]) -> None:
        """Start as that adapter: the extra channels are not seen yet. Raises ValueError if it does not fit."""
        load_plain_adapter(state, self.selected, self.output)
        self.fused.weight.zero_()
