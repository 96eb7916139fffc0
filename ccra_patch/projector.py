"""The ``ccra`` projector: attention stack, then fusion with the selected layer (Eq. 14-15)."""

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ccra_patch.pai import AttentionMaps, PAIStack
from ccra_patch.plain_adapter import load_plain_adapter


class CCRAProjector(nn.Module):
    """``Proj_vis([F_regional ; F_v])``: LLaVA's two-layer MLP, wider at the input.

    The first layer, ``Linear(2d, D)``, is stored as the two halves of its columns: ``selected`` sees ``F_v``, the layer
    that ``mm_vision_select_layer`` names (the paper says "final layer"), and ``regional`` sees ``F_regional``. So a
    plain adapter's weights go into ``selected`` as they are, and with ``regional`` at zero the result is bit for bit
    the plain adapter's; one product over 2d would add in another order.

    Args:
        vision_dim: d.
        text_dim: D.
        hidden_dim, kernel_size, sigma, norm_order, integration, disable, depth_groups, normalize,
            grounding: see :class:`~ccra_patch.pai.PAIStack`.
    """

    def __init__(
        self,
        vision_dim: int,
        text_dim: int,
        hidden_dim: int = 128,
        kernel_size: int = 5,
        sigma: float = 1.0,
        norm_order: str = "pre",
        integration: str = "pai",
        disable: Collection[str] = (),
        depth_groups: int = 1,
        normalize: Collection[str] = (),
        grounding: float = 0.0,
    ) -> None:
        super().__init__()
        self.attention = PAIStack(
            vision_dim,
            text_dim,
            hidden_dim,
            kernel_size,
            sigma,
            norm_order,
            integration,
            disable,
            depth_groups,
            normalize,
            grounding,
        )
        self.selected = nn.Linear(vision_dim, text_dim)
        self.regional = nn.Linear(depth_groups * vision_dim, text_dim, bias=False)
        self.output = nn.Linear(text_dim, text_dim)

    def forward(
        self, features: Tensor, layers: Tensor, query: Tensor, query_mask: Tensor, return_maps: bool = False
    ) -> Tensor | tuple[Tensor, AttentionMaps]:
        """Project the patches of B images into the LLM's space, each image in the light of its question.

        Args:
            features: ``F_v [B, N, d]``, the selected layer.
            layers: ``F_stack [B, L, N, d]``.
            query: ``F_t [B, T, D]``.
            query_mask: ``[B, T]``, False at padding.
            return_maps: also return what the attentions did.

        Returns:
            ``[B, N, D]``, or a pair of it and :class:`~ccra_patch.pai.AttentionMaps`.

        Raises:
            ValueError: for shapes that do not fit.
        """
        regional, maps = self.attention(layers, query, query_mask)
        tokens = self.output(F.gelu(self.selected(features) + self.regional(regional)))
        return (tokens, maps) if return_maps else tokens

    @torch.no_grad()
    def load_plain_adapter(self, state: Mapping[str, Tensor]) -> None:
        """Start as the LLaVA adapter whose ``mlp2x_gelu`` weights these are: ``F_regional`` is not seen yet.

        Raises:
            ValueError: if the keys or shapes are not those of an ``mlp2x_gelu`` for the same d and D.
        """
        load_plain_adapter(state, self.selected, self.output)
        self.regional.weight.zero_()
