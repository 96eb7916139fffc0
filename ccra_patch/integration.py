"""How the steps go together: the paper's chain, and the two arrangements that its Table 3 compares it with.

In each, LPWCA comes first, so that the arms differ in nothing but the place of LWCA and PWCA; a researcher who reads
"decoupled" as "on the layers as the tower gives them" adds ``mm_ccra_disable=lpwca``.

Shapes: B images, L layers, G depth groups (1 in the paper), N patches, d vision width.
"""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from ccra_patch.attention import LPWCA, LWCA, PWCA, LayerWeights, Question
from ccra_patch.removed import NoLPWCA, NoLWCA, NoPWCA


class Integrated(NamedTuple):
    """``F_regional [B, G, N, d]``, and the maps: ``W_lp [B, L, N]``, layer weights, ``w_p [B, N]``."""

    regional: Tensor
    lpwca: Tensor
    layers: LayerWeights
    pwca: Tensor


def progressive(
    lpwca: LPWCA | NoLPWCA, lwca: LWCA | NoLWCA, pwca: PWCA | NoPWCA, stack: Tensor, question: Question
) -> Integrated:
    """The paper's PAI: layers and patches, then layers, then patches (Eq. 3-13). ``F_stack [B, L, N, d]``."""
    layer_probe = lwca.probe(question)
    w_lp, f_lp, products = lpwca(stack, question, layer_probe.direction)  # Eq. 3-5
    layers, f_semantic = lwca(f_lp, products, layer_probe)  # Eq. 6-10
    w_p, f_regional = pwca(f_semantic, question)  # Eq. 11-13
    return Integrated(f_regional, w_lp, layers, w_p)


def decoupled(lpwca: LPWCA | NoLPWCA, lwca: LWCA, pwca: PWCA, stack: Tensor, question: Question) -> Integrated:
    """LWCA on all layers beside PWCA on the deepest one, averaged: neither sees what the other has found."""
    layer_probe = lwca.probe(question)
    w_lp, f_lp, products = lpwca(stack, question, layer_probe.direction)
    layers, f_semantic = lwca(f_lp, products, layer_probe)
    w_p, f_deepest = pwca(f_lp.layer(-1)[:, None], question)
    return Integrated((f_semantic + f_deepest) / 2, w_lp, layers, w_p)


def shuffled(lpwca: LPWCA | NoLPWCA, lwca: LWCA, pwca: PWCA, stack: Tensor, question: Question) -> Integrated:
    """Patches before layers: PWCA modulates every layer, by the mean over the layers, then LWCA makes them one.

    PWCA's norm then follows LPWCA directly and undoes its positive factors, under either order of the norm:
    W_lp acts through w_p alone.
    """
    layer_probe, patch_probe = lwca.probe(question), pwca.probe(question)
    asked = pwca.asks(patch_probe, layer_probe.direction)
    w_lp, f_lp, products = lpwca(stack, question, asked, moments=True)
    w_p, f_p, products = pwca.on_stack(f_lp, products, patch_probe, layer_probe.direction)
    layers, f_semantic = lwca(f_p, products, layer_probe)
    return Integrated(f_semantic, w_lp, layers, w_p)


INTEGRATE: dict[str, Callable[..., Integrated]] = {"pai": progressive, "decoupled": decoupled, "shuffled": shuffled}
