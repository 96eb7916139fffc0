"""Gaussian smoothing of the layer scores along depth."""

import torch
from torch import Tensor, nn


class GaussianSmoothing(nn.Module):
    """Replace each layer's score by a Gaussian average over its neighbours in depth (between Eq. 7 and its softmax).

    A kernel of size k covers k neighbouring layers. An odd one reaches ``(k - 1) / 2`` layers to either side; an even
    one reaches ``k / 2`` towards the shallow end and ``k / 2 - 1`` towards the deep end. In both cases the Gaussian's
    peak lies on the layer itself. Where the kernel leaves the stack, the remaining taps are rescaled to sum to 1: no
    layer is invented or counted twice, and constant scores stay constant.

    Args:
        kernel_size: k, at least 1; 1 leaves the scores as they are.
        sigma: standard deviation in layers, above 0.
    """

    def __init__(self, kernel_size: int = 5, sigma: float = 1.0) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.sigma = sigma

    def forward(self, scores: Tensor) -> Tensor:
        """``[B, L]`` -> ``[B, L]``."""
        # a sum of products, not a matmul: TF32 would round the taps to ten bits
        return (scores[:, None, :] * self.matrix(scores.shape[1], scores)).sum(dim=-1)

    def matrix(self, layers: int, like: Tensor) -> Tensor:
        """``[L, L]``, row i holding the taps that make smoothed score i; dtype and device of ``like``."""
        depth = torch.arange(layers, device=like.device)
        offset = depth[None, :] - depth[:, None]
        first = -(self.kernel_size // 2)
        inside = (offset >= first) & (offset < first + self.kernel_size)
        taps = torch.exp(-0.5 * (offset.to(like.dtype) / self.sigma) ** 2) * inside
        return taps / taps.sum(dim=1, keepdim=True)

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, sigma={self.sigma}"
