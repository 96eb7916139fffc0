"""Several mixtures of layers instead of one: ``mm_ccra_depth_groups``, an option beyond the paper.

One weighted average over all layers loses what separate channels keep: concatenating three layers, without any
question, can beat it. So the layers, shallow to deep, may fall into G groups of neighbours. Each group becomes one
mixture, ``F_hat^g = sum_{l in g} softmax_g(w)_l F_lp^l``, and is normalised by itself as in Eq. 10; the share of the
layer weights that falls on the group, times G, then scales it, so that the question weighs groups as it weighs layers.
The G mixtures reach ``Proj_vis`` side by side. With G = 1 this is the paper's LWCA.

Shapes: B images, L layers, N patches, d vision width.
"""

from itertools import pairwise

import torch
from einops import repeat
from torch import Tensor

from ccra_patch.stack import Stack


def depth_spans(layers: int, groups: int) -> list[slice]:
    """Neighbouring layers in groups of equal size, or one more in the deeper ones."""
    ends = [index * layers // groups for index in range(groups + 1)]
    return [slice(start, end) for start, end in pairwise(ends)]


def mix_groups(stack: Stack, scores: Tensor, groups: int) -> Tensor:
    """Average the layers of each group by the softmax of their scores, in one read of the stack.

    Args:
        stack: ``[B, L, N, d]``.
        scores: ``[B, L]``.

    Returns:
        ``[B, G, N, d]``.
    """
    mixtures = []
    for span in depth_spans(scores.shape[1], groups):
        part = stack.span(span)
        mixtures.append(part.mix(repeat(scores[:, span].softmax(dim=1), "b l -> b l n", n=part.patches)))
    return torch.stack(mixtures, dim=1)


def group_shares(scores: Tensor, groups: int) -> Tensor:
    """How much of ``softmax(scores)``, scores ``[B, L]``, falls on each group: ``[B, G]``."""
    spans = depth_spans(scores.shape[1], groups)
    return torch.stack([scores[:, span].logsumexp(dim=1) for span in spans], dim=1).softmax(dim=1)
