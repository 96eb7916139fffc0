"""The paper's attention modules: token importance, LPWCA, LWCA and PWCA.

All three attentions compare the question with something visual, ``X``, in the same way (Eq. 3, 7, 11):

    alpha^T Q(F_t) K(X)^T / sqrt(h)

Both projections are linear, so this is ``X @ direction + offset`` with one vector per image, a :class:`Probe`.
Nothing of the size of tokens x patches exists, and X itself is never projected. The paper prints 1/sqrt(d) in Eq. 3
and 1/sqrt(d_h) in Appendix C.1; the product lives in the h-space, so it is sqrt(h) here.

LPWCA's result has the size of the whole stack, so it is not written down either: see :mod:`ccra_patch.stack`.

Shapes: B images, L layers, N patches, T query tokens, d vision width, D LLM width, h hidden width.
"""

import math
from dataclasses import replace
from typing import NamedTuple

import torch
from einops import einsum, rearrange, reduce, repeat
from torch import Tensor, nn
from torch.nn import functional as F

from ccra_patch.depth_groups import group_shares, mix_groups
from ccra_patch.grounding import contrast
from ccra_patch.lean import Moments, read_stack, work_dtype
from ccra_patch.settings import NORM_ORDERS, require_choice
from ccra_patch.smoothing import GaussianSmoothing
from ccra_patch.stack import PlainStack, Stack, modulate


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
        direction: ``[B, 1, d]``.
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
        return Probe((asked @ self.key.weight.to(dtype))[:, None], asked @ self.key.bias.to(dtype))


class LPWCA(QuestionAttention):
    """Layer-patch-wise cross attention (Eq. 3-5): every patch of every layer is modulated by a score of its own.

    With ``normalize_keys``, which goes beyond the paper, K sees every patch after a LayerNorm without parameters. The
    layers of a tower differ in size (40 times, shallow blocks of DINOv2 and its last), and so do raw scores: those of
    shallow layers are near 0. LWCA and PWCA read normalised features anyway.

    In training with a ``grounding`` above 0, which goes beyond the paper too, ``auxiliary_loss`` holds that many times
    the loss of :mod:`ccra_patch.grounding` of the latest call.
    """

    auxiliary_loss: Tensor

    def __init__(
        self,
        vision_dim: int,
        text_dim: int,
        hidden_dim: int,
        norm_order: str = "pre",
        normalize_keys: bool = False,
        grounding: float = 0.0,
    ) -> None:
        super().__init__(vision_dim, text_dim, hidden_dim)
        require_choice("mm_ccra_norm_order", norm_order, NORM_ORDERS)
        self.norm = nn.LayerNorm(vision_dim)
        self.norm_order = norm_order
        self.normalize_keys = normalize_keys
        self.grounding = grounding

    def probe(self, question: Question) -> Probe:
        """What to multiply features with; :meth:`score` makes scores of the products.

        LayerNorm first takes a patch's mean off; where keys are normalised, the direction's is taken off instead, which
        gives the same product.
        """
        probe = super().probe(question)
        if not self.normalize_keys:
            return probe
        return probe._replace(direction=probe.direction - probe.direction.mean(dim=-1, keepdim=True))

    def score(self, products: Tensor, moments: Moments | None, probe: Probe) -> Tensor:
        """``X @ probe.direction [B, L, N]``, and X's moments where keys are normalised -> the scores of X."""
        if self.normalize_keys:
            assert moments is not None
            products = products * torch.rsqrt(moments.variance + self.norm.eps)
        return products + probe.offset[:, None, None]

    def forward(
        self, stack: Tensor, question: Question, directions: Tensor, moments: bool = False
    ) -> tuple[Tensor, Stack, Tensor]:
        """Score and modulate the stack, in one read of it.

        Args:
            stack: ``F_stack [B, L, N, d]``.
            question: what is asked.
            directions: ``[B, K, d]``, vectors that later steps multiply F_lp with.
            moments: whether a later step normalises F_lp again.

        Returns:
            the map ``W_lp [B, L, N]``, ``F_lp [B, L, N, d]``, and ``F_lp @ directions [B, K, L, N]``.
        """
        probe = self.probe(question)
        if self.grounding and self.training:
            self.auxiliary_loss = self.grounding * self._contrast(stack, question, probe)
        weight, bias = self.norm.weight.to(directions.dtype), self.norm.bias.to(directions.dtype)
        if moments:  # its mean over d, and the product with the bias that its variance takes
            averages = torch.stack([torch.ones_like(bias), bias]) / len(bias)
            directions = torch.cat([directions, averages.expand(len(directions), -1, -1)], dim=1)
        asked = torch.cat([probe.direction, weight * directions], dim=1)
        reading = read_stack(stack, asked, weight if moments else None)

        scores = self.score(reading.products[:, 0], reading.moments, probe)
        modulated = modulate(PlainStack(stack, reading.moments), 1 + scores, self.norm, self.norm_order)
        products = modulated.products(reading.products[:, 1:], directions)
        if reading.weighted is None:
            return scores, modulated, products

        products, mean, along_bias = products[:, :-2], products[:, -2], products[:, -1]
        # the mean over d of (scale * weight * (stack - mean) + shift * bias)^2
        square = modulated.scale.square() * reading.weighted + modulated.shift * (
            2 * along_bias - modulated.shift * bias.square().mean()
        )
        return scores, replace(modulated, moments=Moments(mean, square - mean.square())), products

    def _contrast(self, stack: Tensor, question: Question, probe: Probe) -> Tensor:
        """The grounding loss, from what every question of the batch would score in every picture of it."""
        reading = read_stack(stack, repeat(probe.direction, "q 1 width -> p q width", p=len(stack)))
        moments = Moments(*(rearrange(moment, "p l n -> p 1 l n") for moment in reading.moments))
        scores = reduce(self.score(reading.products, moments, probe), "p q l n -> q p n", "mean")
        return contrast(scores, question.pooled, question.mass[:, 0] > 0)


class LWCA(QuestionAttention):
    """Layer-wise cross attention (Eq. 6-10): one weight per layer, smoothed along depth; the layers become one.

    With ``depth_groups`` G > 1, which goes beyond the paper, they become G: see :mod:`ccra_patch.depth_groups`.
    """

    def __init__(
        self,
        vision_dim: int,
        text_dim: int,
        hidden_dim: int,
        kernel_size: int = 5,
        sigma: float = 1.0,
        depth_groups: int = 1,
    ) -> None:
        super().__init__(vision_dim, text_dim, hidden_dim)
        self.depth_groups = depth_groups
        self.smoothing = GaussianSmoothing(kernel_size, sigma)
        self.norm = nn.LayerNorm(vision_dim)

    def weigh(self, products: Tensor, probe: Probe) -> LayerWeights:
        """``F_lp @ probe.direction [B, 1, L, N]`` -> layer weights.

        The products' mean over N is that of the layer descriptor, ``F_layer = mean_N(F_lp)``.
        """
        scores = products[:, 0].mean(dim=2) + probe.offset[:, None]
        smoothed = self.smoothing(scores)
        return LayerWeights(scores, smoothed, smoothed.softmax(dim=1))

    def forward(self, stack: Stack, products: Tensor, probe: Probe) -> tuple[LayerWeights, Tensor]:
        """Weigh the layers and add them up.

        Args:
            stack: ``F_lp [B, L, N, d]``.
            products: ``F_lp @ probe.direction``, ``[B, 1, L, N]``.
            probe: the question's, of this module.

        Returns:
            the layer weights, and ``F_semantic [B, G, N, d]``.
        """
        layers = self.weigh(products, probe)
        mixed = mix_groups(stack, layers.smoothed, self.depth_groups)
        semantic = layer_norm(mixed + mixed.mean(dim=2, keepdim=True), self.norm)
        if self.depth_groups == 1:
            return layers, semantic
        shares = self.depth_groups * group_shares(layers.smoothed, self.depth_groups)
        return layers, semantic * shares[:, :, None, None]


class PWCA(QuestionAttention):
    """Patch-wise cross attention (Eq. 11-13): every patch of the fused layer is modulated by a score of its own."""

    def __init__(self, vision_dim: int, text_dim: int, hidden_dim: int, norm_order: str = "pre") -> None:
        super().__init__(vision_dim, text_dim, hidden_dim)
        require_choice("mm_ccra_norm_order", norm_order, NORM_ORDERS)
        self.norm = nn.LayerNorm(vision_dim)
        self.norm_order = norm_order

    def forward(self, semantic: Tensor, question: Question) -> tuple[Tensor, Tensor]:
        """``F_semantic [B, G, N, d]`` -> the map ``w_p [B, N]`` and ``F_regional [B, G, N, d]``.

        Where there are several depth groups, a patch is scored by its mean over them.
        """
        probe = self.probe(question)
        scores = torch.linalg.vecdot(semantic, probe.direction[:, None]).mean(dim=1)
        scores = scores + probe.offset[:, None]
        gain = (1 + scores)[:, None, :, None]
        if self.norm_order == "pre":
            return scores, layer_norm(semantic, self.norm) * gain
        return scores, layer_norm(semantic * gain, self.norm)

    def asks(self, probe: Probe, directions: Tensor) -> Tensor:
        """What :meth:`on_stack` needs products with: ``[B, 1 + K, d]``, for its own score and K directions."""
        return torch.cat([probe.direction, self.norm.weight.to(directions.dtype) * directions], dim=1)

    def on_stack(
        self, stack: Stack, products: Tensor, probe: Probe, directions: Tensor
    ) -> tuple[Tensor, Stack, Tensor]:
        """The same before the layers are one: a patch is scored by its mean over the layers, and modulated in each.

        Args:
            stack: ``F_lp [B, L, N, d]``, with its moments.
            products: ``F_lp @ asks(probe, directions)``, ``[B, 1 + K, L, N]``.
            probe: the question's, of this module.
            directions: ``[B, K, d]``, vectors that later steps multiply the result with.

        Returns:
            the map ``w_p [B, N]``, the modulated stack ``[B, L, N, d]``, and its products with ``directions``.
        """
        scores = products[:, 0].mean(dim=1) + probe.offset[:, None]
        gain = repeat(1 + scores, "b n -> b l n", l=products.shape[2])
        modulated = modulate(stack, gain, self.norm, self.norm_order)
        return scores, modulated, modulated.products(products[:, 1:], directions)


def layer_norm(features: Tensor, norm: nn.LayerNorm) -> Tensor:
    """``norm(features)`` in the precision of ``features``, whatever that of the weights."""
    weight, bias = norm.weight.to(features.dtype), norm.bias.to(features.dtype)
    return F.layer_norm(features, norm.normalized_shape, weight, bias, norm.eps)
