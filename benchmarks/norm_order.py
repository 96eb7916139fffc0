"""What is left of CCRA's modulation when LayerNorm follows it, as Eq. 5 and 13 are printed: docs/norm_order.md.

    python benchmarks/norm_order.py                        # LLaVA-1.5's sizes, float32, seconds on one core
    python benchmarks/norm_order.py --layers 12 --patches 49 --vision-dim 384

Features are standard normal, and so is the direction of the loss; maps are drawn as the first column says.
"""

import argparse
import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ccra_patch.pai import PAIStack

MAPS = {
    "W = 1 everywhere": lambda shape: torch.ones(shape),
    "W normal, deviation 0.1": lambda shape: 0.1 * torch.randn(shape),
    "W uniform in [0, 10]": lambda shape: 10 * torch.rand(shape),
    "W normal, deviation 1 (16% below -1)": lambda shape: torch.randn(shape),
}
ATTENTIONS = ("lpwca", "lwca", "pwca")


def modulate(features: Tensor, scores: Tensor, order: str) -> Tensor:
    """Eq. 5: ``LN(F * (1 + W))`` (``post``), or ``LN(F) * (1 + W)`` (``pre``). ``[L, N, d]``, ``[L, N]``."""
    width, gain = features.shape[-1:], 1 + scores[..., None]
    return F.layer_norm(features * gain, width) if order == "post" else F.layer_norm(features, width) * gain


def moved(features: Tensor, scores: Tensor, order: str) -> float:
    """How far the map moves the output from ``LN(F)``, relative to its norm."""
    without = F.layer_norm(features, features.shape[-1:])
    return ((modulate(features, scores, order) - without).norm() / without.norm()).item()


def gradient_norm(features: Tensor, scores: Tensor, direction: Tensor, order: str) -> float:
    """Of the loss ``sum(output * direction)``, with respect to W."""
    scores = scores.clone().requires_grad_()
    (modulate(features, scores, order) * direction).sum().backward()
    assert scores.grad is not None
    return scores.grad.norm().item()


def weight_gradients(stack: Tensor, query: Tensor, direction: Tensor, order: str) -> dict[str, float]:
    """Gradient norm of Q and K of each attention, in a freshly initialised attention stack."""
    torch.manual_seed(1)
    module = PAIStack(stack.shape[-1], query.shape[-1], norm_order=order)
    output, _ = module(stack[None], query[None], torch.ones(1, len(query), dtype=torch.bool))
    (output[0] * direction).sum().backward()
    weights = {name: (getattr(module, name).query.weight, getattr(module, name).key.weight) for name in ATTENTIONS}
    return {name: nn.utils.get_total_norm([w.grad for w in pair]).item() for name, pair in weights.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=24, help="L (default 24)")
    parser.add_argument("--patches", type=int, default=576, help="N (default 576)")
    parser.add_argument("--vision-dim", type=int, default=1024, help="d (default 1024)")
    parser.add_argument("--text-dim", type=int, default=4096, help="D (default 4096)")
    parser.add_argument("--tokens", type=int, default=16, help="T (default 16)")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()

    torch.set_num_threads(1)
    torch.manual_seed(given.seed)
    stack = torch.randn(given.layers, given.patches, given.vision_dim)
    direction = torch.randn(stack.shape)
    query = torch.randn(given.tokens, given.text_dim)
    print(f"L={given.layers} N={given.patches} d={given.vision_dim} D={given.text_dim}, float32, seed {given.seed}\n")

    print("| map | output moved, post | output moved, pre | gradient at W, post | pre | pre / post |")
    print("|---|---|---|---|---|---|")
    for name, draw in MAPS.items():
        scores = draw(stack.shape[:2])
        post, pre = (moved(stack, scores, order) for order in ("post", "pre"))
        at_post, at_pre = (gradient_norm(stack, scores, direction, order) for order in ("post", "pre"))
        print(f"| {name} | {post:.1e} | {pre:.2f} | {at_post:.1e} | {at_pre:.1e} | {at_pre / at_post:,.1f} |")

    print("\n| gradient at Q and K of | post | pre | pre / post |\n|---|---|---|---|")
    gradients = {order: weight_gradients(stack, query, direction[0], order) for order in ("post", "pre")}
    for name in ATTENTIONS:
        post, pre = gradients["post"][name], gradients["pre"][name]
        print(f"| {name.upper()} | {post:.1e} | {pre:.1e} | {pre / post:,.1f} |")


if __name__ == "__main__":
    main()
