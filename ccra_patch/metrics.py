"""How consistent the layers are: the eight numbers of the paper's Table 2 (Appendix C.1).

A patch map is a distribution over the patches, one per layer; the layer weights are a distribution over the layers.
Logarithms are natural, standard deviations those of a population.

Where the paper leaves room: centroids lie at a Euclidean distance; Std_patch is the standard deviation of a patch's
probability over the layers, averaged over the patches; TV(w) is summed over neighbouring layers.

Shapes: B images, L layers, N patches (a square grid, row by row), T query tokens, d vision width, D LLM width.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import torch
from einops import rearrange
from torch import Tensor

from ccra_patch.attention import LPWCA, Question, ask
from ccra_patch.lean import exact, read_stack
from ccra_patch.pai import AttentionMaps, PAIStack

# Table 2's columns: names of the attributes below, and how the paper writes them.
COLUMNS = {
    "js_avg": "JS-avg",
    "cos_avg": "Cos-avg",
    "drift": "Drift",
    "std_patch": "Std_patch",
    "js_to_final": "JS-to-final",
    "cos_to_final": "Cos-to-final",
    "tv": "TV(w)",
    "entropy": "H(w)",
}


@dataclass(frozen=True)
class Consistency:
    """One row of Table 2 for each of B images, every attribute ``[B]``.

    What compares layers is NaN where there is one layer alone.
    """

    js_avg: Tensor
    cos_avg: Tensor
    drift: Tensor
    std_patch: Tensor
    js_to_final: Tensor
    cos_to_final: Tensor
    tv: Tensor
    entropy: Tensor

    @classmethod
    def of(cls, patches: Tensor, final: Tensor, layers: Tensor) -> Self:
        """From the maps alone.

        Args:
            patches: ``[B, L, N]``, each layer's distribution over the patches.
            final: ``[B, N]``, PWCA's.
            layers: ``[B, L]``, the layer weights.

        Raises:
            ValueError: if the patches are no square grid.
        """
        return cls(
            js_avg=over_pairs(js_divergence, patches),
            cos_avg=over_pairs(torch.cosine_similarity, patches),
            drift=drift(patches),
            std_patch=patches.std(dim=1, correction=0).mean(dim=-1),
            js_to_final=js_divergence(patches, final[:, None]).mean(dim=-1),
            cos_to_final=torch.cosine_similarity(patches, final[:, None], dim=-1).mean(dim=-1),
            tv=layers.diff(dim=-1).abs().sum(dim=-1),
            entropy=entropy(layers),
        )


def entropy(distribution: Tensor) -> Tensor:
    """Of the last dimension, in nats."""
    return torch.special.entr(distribution).sum(dim=-1)


def js_divergence(one: Tensor, other: Tensor, dim: int = -1) -> Tensor:
    """Jensen-Shannon divergence in nats, 0 to ln 2: ``H((p + q) / 2) - (H(p) + H(q)) / 2``."""
    return (entropy((one + other) / 2) - (entropy(one) + entropy(other)) / 2).clamp(min=0)


def over_pairs(compare: Callable[..., Tensor], patches: Tensor) -> Tensor:
    """``compare(p, q, dim=-1)`` averaged over all pairs of layers: ``[B, L, N]`` -> ``[B]``."""
    one, other = torch.triu_indices(patches.shape[1], patches.shape[1], offset=1, device=patches.device)
    return compare(patches[:, one], patches[:, other], dim=-1).mean(dim=-1)


def drift(patches: Tensor) -> Tensor:
    """How far the centre of attention moves from layer to layer, in widths of the picture: ``[B, L, N]`` -> ``[B]``."""
    side = math.isqrt(patches.shape[-1])
    if side * side != patches.shape[-1]:
        raise ValueError(f"a map has {patches.shape[-1]} patches; centroids need a square grid of them")
    # the first patch of a row lies at 0, the last at 1
    place = torch.linspace(0, 1, side, device=patches.device, dtype=patches.dtype)
    grid = rearrange(patches, "b l (row column) -> b l row column", row=side)
    centre = torch.stack([grid.sum(dim=-1) @ place, grid.sum(dim=-2) @ place], dim=-1)
    return centre.diff(dim=1).norm(dim=-1).mean(dim=-1)


@torch.no_grad()
def consistency(attention: PAIStack, stack: Tensor, query: Tensor, maps: AttentionMaps) -> dict[str, Consistency]:
    """Table 2 for one call of an attention stack: before LPWCA and after it, under the same projections.

    A layer's patch map is the softmax over its patches of LPWCA's scores; its weight is LWCA's. Between the paper's two
    rows stands ``LN(F_stack)``: LPWCA normalises and modulates, and this row shows what the norm alone does.
    PWCA's map, LWCA's weights are those of the model's own arrangement of its steps; a step that is left out counts as
    scores of 0.

    Args:
        attention: the module.
        stack: ``F_stack [B, L, N, d]`` that it was called with.
        query: ``F_t [B, T, D]`` likewise.
        maps: what it returned.

    Returns:
        ``F_stack``, ``LN(F_stack)`` and ``F_lp``.

    Raises:
        ValueError: if LPWCA is left out, so that there is no before and after; if the patches are no square grid.
    """
    if not isinstance(attention.lpwca, LPWCA):
        raise ValueError("mm_ccra_disable leaves out lpwca; consistency before and after it needs a model that has it")
    lpwca, needs_moments = attention.lpwca, attention.lpwca.normalize_keys
    with exact(stack):
        question = ask(attention.tokens(query), maps.alpha)
        silence = Question(torch.zeros_like(question.pooled), torch.zeros_like(question.mass))
        patch_probe, layer_probe = lpwca.probe(question), attention.lwca.probe(question)
        directions = torch.cat([patch_probe.direction, layer_probe.direction], dim=1)
        raw = read_stack(stack, directions)
        _, normalised, of_normalised = lpwca(stack, silence, directions, needs_moments)
        _, modulated, of_modulated = lpwca(stack, question, directions, needs_moments)
        rows = {
            "F_stack": (raw.products, raw.moments),
            "LN(F_stack)": (of_normalised, normalised.moments),
            "F_lp": (of_modulated, modulated.moments),
        }
        final = maps.pwca.softmax(dim=-1)
        return {
            name: Consistency.of(
                lpwca.score(products[:, 0], moments, patch_probe).softmax(dim=-1),
                final,
                attention.lwca.weigh(products[:, 1:], layer_probe).weights,
            )
            for name, (products, moments) in rows.items()
        }
