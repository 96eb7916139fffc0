"""The paper's attention modules: token importance, LPWCA, LWCA and PWCA.

All three attentions compare the question with something visual, ``X``, in the same way (Eq. 3, 7, 11):

    alpha^T Q(F_t) K(X)^T / sqrt(h)

Both projections are linear, so this is ``X @ direction + offset`` with one vector per image, a :class:`Probe`.
Nothing of the size of tokens x patches exists, and X itself is never projected. The paper prints 1/sqrt(d) in Eq. 3
and 1/sqrt(d_h) in Appendix C.1; the product lives in the h-space, so it is sqrt(h) here.

LPWCA's result has the size of the whole stack, so it is not written down either: see :class:`ModulatedStack`.

Shapes: B images, L layers, N patches, T query tokens, d vision width, D LLM width, h hidden width.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from einops import einsum, rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from ccra_patch.lean import mix_layers, read_stack, work_dtype
from ccra_patch.settings import NORM_ORDERS, require_choice
from ccra_patch.smoothing import GaussianSmoothing


class Question(NamedTuple):
    """The question as the three attentions see it.

    Attributes:
        pooled: ``[B, D]``, ``alpha^T F_t``.
        mass: ``[B, 1]``, the sum of alpha: 1, or 0 for an empty query.
    """

    pooled: Tensor
    mass: Tensor


class Probe(NamedTuple):
    """``alpha^T Q(F_t) K(X)^T / sqrt(h)`` as a function of X, which is ``X @ direction + offset``.

    Attributes:
        direction: ``[B, d]``.
        offset: ``[B]``.
    """

    direction: Tensor
    offset: Tensor


class LayerWeights(NamedTuple):
    """LWCA's view of the layers, each ``[B, L]``: scores as computed, scores smoothed along L, and their softmax."""

    scores: Tensor
    smoothed: Tensor
    weights: Tensor


class TokenImportance(nn.Module):
    """How much each query token counts (Eq. 2): ``alpha = softmax_T(score(SelfAttention(F_t)))``."""

    def __init__(self, text_dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.query = nn.Linear(text_dim, hidden_dim)
        self.key = nn.Linear(text_dim, hidden_dim)
        self.value = nn.Linear(text_dim, hidden_dim)
        self.score = nn.Linear(hidden_dim, 1)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Tokens ``[B, T, D]``, mask ``[B, T]`` (False at padding) -> alpha ``[B, T]``, 0 for a row without tokens."""
        # A softmax over nothing is NaN, in value and gradient: a row without tokens attends to its padding, and is
        # zeroed at the end.
        usable = mask | ~mask.any(dim=1, keepdim=True)
        heads = rearrange(tokens.to(self.query.weight.dtype), "b t width -> b 1 t width")
        attended = F.scaled_dot_product_attention(
            self.query(heads), self.key(heads), self.value(heads), attn_mask=rearrange(usable, "b t -> b 1 1 t")
        )
        scores = rearrange(self.score(attended), "b 1 t 1 -> b t").to(work_dtype(tokens))
        return scores.masked_fill(~usable, -math.inf).softmax(dim=1) * mask


def ask(tokens: Tensor, alpha: Tensor) -> Question:
    """Pool the query tokens ``[B, T, D]`` with their importance ``[B, T]``, once for all three attentions."""
    return Question(einsum(alpha, tokens.to(alpha.dtype), "b t, b t width -> b width"), alpha.sum(dim=1, keepdim=True))


class QuestionAttention(nn.Module):
    """Q and K of one of the three attentions."""

    def __init__(self, vision_dim: int, text_dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.query = nn.Linear(text_dim, hidden_dim)
        self.key = nn.Linear(vision_dim, hidden_dim)

    def probe(self, question: Question) -> Probe:
        """What to multiply visual features with, to get their scores."""
        dtype = question.pooled.dtype
        asked = question.pooled @ self.query.weight.to(dtype).T + question.mass * self.query.bias.to(dtype)
        asked = asked / math.sqrt(self.query.out_features)
        return Probe(asked @ self.key.weight.to(dtype), asked @ self.key.bias.to(dtype))


class LPWCA(QuestionAttention):
    """Layer-patch-wise cross attention (Eq. 3-5): every patch of every layer is modulated by a score of its own."""

    def __init__(self, vision_dim: int, text_dim: int, hidden_dim: int, norm_order: str = "pre") -> None:
        super().__init__(vision_dim, text_dim, hidden_dim)
        require_choice("mm_ccra_norm_order", norm_order, NORM_ORDERS)
        self.norm = nn.LayerNorm(vision_dim)
        self.norm_order = norm_order

    def forward(self, stack: Tensor, probe: Probe, direction: Tensor) -> tuple[Tensor, "ModulatedStack", Tensor]:
        """Score and modulate the stack.

        Args:
            stack: ``F_stack [B, L, N, d]``.
            probe: the question's, of this module.
            direction: ``[B, d]``, a vector that the next step will multiply F_lp with; done here, in the same read.

        Returns:
            the map ``W_lp [B, L, N]``, ``F_lp [B, L, N, d]`` (not written down), and ``F_lp @ direction [B, L, N]``.
        """
        weight, bias = self.norm.weight.to(direction.dtype), self.norm.bias.to(direction.dtype)
        products, mean, variance = read_stack(stack, torch.stack([probe.direction, weight * direction], dim=1))
        scores = products[:, 0] + probe.offset[:, None, None]

        gain = 1 + scores
        if self.norm_order == "pre":  # LN(F) * (1 + W)
            scale = gain * torch.rsqrt(variance + self.norm.eps)
            shift = gain
        else:  # LN(F * (1 + W)): mean and variance of F * (1 + W) follow from those of F
            scale = gain * torch.rsqrt(gain.square() * variance + self.norm.eps)
            shift = torch.ones_like(gain)
        modulated = ModulatedStack(stack, mean, scale, shift, weight, bias)
        return scores, modulated, modulated.product(products[:, 1], direction)


@dataclass(frozen=True)
class ModulatedStack:
    """``F_lp``, normalised and modulated, as a recipe: ``scale * (stack - mean) * weight + shift * bias``.

    Attributes:
        stack: ``[B, L, N, d]``.
        mean, scale, shift: ``[B, L, N]``.
        weight, bias: ``[d]``, LayerNorm's.
    """

    stack: Tensor
    mean: Tensor
    scale: Tensor
    shift: Tensor
    weight: Tensor
    bias: Tensor

    def product(self, raw: Tensor, direction: Tensor) -> Tensor:
        """``F_lp @ direction [B, L, N]`` from ``raw = stack @ (weight * direction)``; direction is ``[B, d]``."""
        of_weight = rearrange(direction @ self.weight, "b -> b 1 1")
        of_bias = rearrange(direction @ self.bias, "b -> b 1 1")
        return self.scale * (raw - self.mean * of_weight) + self.shift * of_bias

    def mix(self, layer_weights: Tensor) -> Tensor:
        """``sum_l w_l F_lp^l``: ``[B, L]`` -> ``[B, N, d]``, in one read of the stack."""
        coefficients = layer_weights[:, :, None] * self.scale
        mean = (coefficients * self.mean).sum(dim=1)
        shift = (layer_weights[:, :, None] * self.shift).sum(dim=1)
        centred = mix_layers(self.stack, coefficients) - mean[:, :, None]
        return torch.addcmul(centred * self.weight, shift[:, :, None], self.bias)


class LWCA(QuestionAttention):
    """Layer-wise cross attention (Eq. 6-10): one weight per layer, smoothed along depth; the layers become one."""

    def __init__(
        self, vision_dim: int, text_dim: int, hidden_dim: int, kernel_size: int = 5, sigma: float = 1.0
    ) -> None:
        super().__init__(vision_dim, text_dim, hidden_dim)
        self.smoothing = GaussianSmoothing(kernel_size, sigma)
        self.norm = nn.LayerNorm(vision_dim)

    def forward(self, modulated: ModulatedStack, products: Tensor, probe: Probe) -> tuple[LayerWeights, Tensor]:
        """Weigh the layers and add them up.

        Args:
            modulated: ``F_lp``, ``[B, L, N, d]``.
            products: ``F_lp @ probe.direction``, ``[B, L, N]``. Their mean over N scores the layer descriptor
                ``F_layer = mean_N(F_lp)``.
            probe: the question's, of this module.

        Returns:
            the layer weights, and ``F_semantic [B, N, d]``.
        """
        scores = products.mean(dim=2) + probe.offset[:, None]
        smoothed = self.smoothing(scores)
        layers = LayerWeights(scores, smoothed, smoothed.softmax(dim=1))
        mixed = modulated.mix(layers.weights)
        return layers, layer_norm(mixed + mixed.mean(dim=1, keepdim=True), self.norm)


class PWCA(QuestionAttention):
    """Patch-wise cross attention (Eq. 11-13): every patch of the fused layer is modulated by a score of its own."""

    def __init__(self, vision_dim: int, text_dim: int, hidden_dim: int, norm_order: str = "pre") -> None:
        super().__init__(vision_dim, text_dim, hidden_dim)
        require_choice("mm_ccra_norm_order", norm_order, NORM_ORDERS)
        self.norm = nn.LayerNorm(vision_dim)
        self.norm_order = norm_order

    def forward(self, semantic: Tensor, probe: Probe) -> tuple[Tensor, Tensor]:
        """``F_semantic [B, N, d]`` -> the map ``w_p [B, N]`` and ``F_regional [B, N, d]``."""
        scores = einsum(semantic, probe.direction, "b n width, b width -> b n") + probe.offset[:, None]
        gain = (1 + scores)[:, :, None]
        if self.norm_order == "pre":
            return scores, layer_norm(semantic, self.norm) * gain
        return scores, layer_norm(semantic * gain, self.norm)


def layer_norm(features: Tensor, norm: nn.LayerNorm) -> Tensor:
    """``norm(features)`` in the precision of ``features``, whatever that of the weights."""
    weight, bias = norm.weight.to(features.dtype), norm.bias.to(features.dtype)
    return F.layer_norm(features, norm.normalized_shape, weight, bias, norm.eps)
