"""What stands in the place of a step that ``mm_ccra_disable`` leaves out (Table 4): it passes its input on.

Maps keep their places and say what happened: scores of 0, and the same weight for all layers.

Shapes: B images, L layers, N patches, d vision width.
"""

import torch
from torch import Tensor, nn

from ccra_patch.attention import LayerWeights, Probe, Question
from ccra_patch.depth_groups import mix_groups
from ccra_patch.lean import read_stack
from ccra_patch.stack import PlainStack, Stack


class NoLPWCA(nn.Module):
    """``F_lp = F_stack``."""

    def forward(
        self, stack: Tensor, question: Question, directions: Tensor, moments: bool = False
    ) -> tuple[Tensor, Stack, Tensor]:
        """As LPWCA's: the map (0), ``F_lp [B, L, N, d]`` and ``F_lp @ directions [B, K, L, N]``."""
        reading = read_stack(stack, directions)
        return torch.zeros_like(reading.moments.mean), PlainStack(stack, reading.moments), reading.products


class NoLWCA(nn.Module):
    """``F_semantic = mean_L(F_lp)``, in each depth group."""

    def __init__(self, vision_dim: int, depth_groups: int = 1) -> None:
        super().__init__()
        self.vision_dim, self.depth_groups = vision_dim, depth_groups

    def probe(self, question: Question) -> Probe:
        """No direction at all."""
        images = len(question.pooled)
        return Probe(question.pooled.new_empty(images, 0, self.vision_dim), question.pooled.new_empty(images))

    def weigh(self, products: Tensor, probe: Probe) -> LayerWeights:
        """The same weight for all layers; products are ``[B, 0, L, N]``."""
        images, _, layers, _ = products.shape
        scores = products.new_zeros(images, layers)
        return LayerWeights(scores, scores, scores.softmax(dim=1))

    def forward(self, stack: Stack, products: Tensor, probe: Probe) -> tuple[LayerWeights, Tensor]:
        """As LWCA's: the layer weights, and ``F_semantic [B, G, N, d]``."""
        layers = self.weigh(products, probe)
        return layers, mix_groups(stack, layers.smoothed, self.depth_groups)


class NoPWCA(nn.Module):
    """``F_regional = F_semantic``."""

    def forward(self, semantic: Tensor, question: Question) -> tuple[Tensor, Tensor]:
        """As PWCA's: the map (0) and ``F_regional [B, G, N, d]``."""
        return semantic.new_zeros(len(semantic), semantic.shape[2]), semantic
