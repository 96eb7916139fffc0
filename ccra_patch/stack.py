"""The layer stack between the steps: ``F_stack`` itself, or normalised and modulated, without ever writing that down.

A step asks three things of a stack: its products with vectors, a weighted sum of its layers, or one of its layers. For
a modulated stack all three follow from those of its source, so a chain of steps comes down to two reads of ``F_stack``.

Shapes: B images, L layers, N patches, d vision width.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from einops import rearrange
from torch import Tensor, nn

from ccra_patch.lean import Moments, mix_layers, work_dtype


class Stack(Protocol):
    """``[B, L, N, d]`` as the steps see it; ``moments`` are those of its patches over d, None where nobody asked."""

    @property
    def moments(self) -> Moments | None: ...

    @property
    def patches(self) -> int: ...

    def mix(self, coefficients: Tensor) -> Tensor:
        """``sum_l coefficients[b, l, n] * stack[b, l, n]``: ``[B, L, N]`` -> ``[B, N, d]``, in one read."""

    def layer(self, index: int) -> Tensor:
        """One layer, ``[B, N, d]``."""

    def span(self, layers: slice) -> "Stack":
        """Neighbouring layers as a stack, nothing copied."""


@dataclass(frozen=True)
class PlainStack:
    """``F_stack [B, L, N, d]`` as the vision tower gives it."""

    features: Tensor
    moments: Moments | None = None

    @property
    def patches(self) -> int:
        return self.features.shape[2]

    def mix(self, coefficients: Tensor) -> Tensor:
        return mix_layers(self.features, coefficients)

    def layer(self, index: int) -> Tensor:
        return self.features[:, index].to(work_dtype(self.features))

    def span(self, layers: slice) -> "PlainStack":
        return PlainStack(self.features[:, layers], _span_of_moments(self.moments, layers))


@dataclass(frozen=True)
class ModulatedStack:
    """``scale * (source - mean) * weight + shift * bias``.

    Attributes:
        source: ``[B, L, N, d]``.
        mean, scale, shift: ``[B, L, N]``.
        weight, bias: ``[d]``, LayerNorm's.
        moments: of the result.
    """

    source: Stack
    mean: Tensor
    scale: Tensor
    shift: Tensor
    weight: Tensor
    bias: Tensor
    moments: Moments | None = None

    @property
    def patches(self) -> int:
        return self.source.patches

    def products(self, raw: Tensor, directions: Tensor) -> Tensor:
        """``stack @ directions``: ``[B, K, L, N]``, from ``raw = source @ (weight * directions)``."""
        of_weight, of_bias = (rearrange(directions @ part, "b k -> b k 1 1") for part in (self.weight, self.bias))
        mean, scale, shift = (each[:, None] for each in (self.mean, self.scale, self.shift))
        return scale * (raw - mean * of_weight) + shift * of_bias

    def mix(self, coefficients: Tensor) -> Tensor:
        scaled = coefficients * self.scale
        mean = (scaled * self.mean).sum(dim=1)
        shift = (coefficients * self.shift).sum(dim=1)
        # In place where nothing else needs what was there: a new tensor of this size costs more than the arithmetic.
        mixed = self.source.mix(scaled).sub_(mean[..., None])
        return (mixed * self.weight).addcmul_(shift[..., None], self.bias)

    def layer(self, index: int) -> Tensor:
        mean, scale, shift = (each[:, index, :, None] for each in (self.mean, self.scale, self.shift))
        return torch.addcmul(scale * (self.source.layer(index) - mean) * self.weight, shift, self.bias)

    def span(self, layers: slice) -> "ModulatedStack":
        mean, scale, shift = (each[:, layers] for each in (self.mean, self.scale, self.shift))
        moments = _span_of_moments(self.moments, layers)
        return ModulatedStack(self.source.span(layers), mean, scale, shift, self.weight, self.bias, moments)


def _span_of_moments(moments: Moments | None, layers: slice) -> Moments | None:
    return moments and Moments(*(each[:, layers] for each in moments))


def modulate(source: Stack, gain: Tensor, norm: nn.LayerNorm, norm_order: str) -> ModulatedStack:
    """``norm(source) * gain`` (``pre``) or ``norm(source * gain)`` (``post``), patch by patch.

    Args:
        source: ``[B, L, N, d]``, with its moments.
        gain: ``[B, L, N]``.
        norm: over d.
        norm_order: ``pre`` or ``post``.
    """
    assert source.moments is not None
    mean, variance = source.moments
    weight, bias = norm.weight.to(gain.dtype), norm.bias.to(gain.dtype)
    if norm_order == "pre":
        return ModulatedStack(source, mean, gain * torch.rsqrt(variance + norm.eps), gain, weight, bias)
    # mean and variance of source * gain follow from those of source
    scale = gain * torch.rsqrt(gain.square() * variance + norm.eps)
    return ModulatedStack(source, mean, scale, torch.ones_like(gain), weight, bias)
