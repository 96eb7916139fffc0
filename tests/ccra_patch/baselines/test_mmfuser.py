"""MMFuser against deformable attention written as loops over heads, levels and points."""

import math

import pytest
import torch
from torch.nn import functional as F

from ccra_patch.baselines import MMFuser
from ccra_patch.baselines.mmfuser import DeformableAttention

SIDE, D, TEXT, HEADS, POINTS = 3, 8, 12, 4, 2
N = SIDE * SIDE


def value_at(grid: torch.Tensor, x: float, y: float) -> torch.Tensor:
    """Bilinear value of a map ``[H, W, c]`` at a point in [0, 1] x [0, 1]; nothing lies outside the map."""
    height, width, _ = grid.shape
    column, row = x * width - 0.5, y * height - 0.5
    total = torch.zeros(grid.shape[2], dtype=grid.dtype)
    for r in (math.floor(row), math.floor(row) + 1):
        for c in (math.floor(column), math.floor(column) + 1):
            if 0 <= r < height and 0 <= c < width:
                total = total + (1 - abs(row - r)) * (1 - abs(column - c)) * grid[r, c]
    return total


def by_loops(module: DeformableAttention, queries: torch.Tensor, layers: torch.Tensor) -> torch.Tensor:
    levels = layers.shape[0]
    width = queries.shape[-1] // module.heads
    offsets = module.offsets(queries).view(N, module.heads, levels, module.points, 2)
    scores = module.weights(queries).view(N, module.heads, levels * module.points)
    weights = scores.softmax(dim=-1).view(N, module.heads, levels, module.points)
    values = module.value(layers).view(levels, SIDE, SIDE, module.heads, width)
    rows = []
    for n in range(N):
        x, y = (n % SIDE + 0.5) / SIDE, (n // SIDE + 0.5) / SIDE
        heads = []
        for m in range(module.heads):
            head = torch.zeros(width, dtype=queries.dtype)
            for level in range(levels):
                for k in range(module.points):
                    dx, dy = offsets[n, m, level, k].tolist()
                    seen = value_at(values[level, :, :, m], x + dx / SIDE, y + dy / SIDE)
                    head = head + weights[n, m, level, k] * seen
            heads.append(head)
        rows.append(torch.cat(heads))
    return module.output(torch.stack(rows))


def randomised(module: torch.nn.Module) -> torch.nn.Module:
    """Nothing at its start: far and crooked offsets, uneven weights, open gates."""
    generator = torch.Generator().manual_seed(3)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.7, generator=generator)
    return module.double()


@pytest.mark.parametrize("levels", [1, 3])
def test_deformable_attention_is_its_definition(levels):
    module = randomised(DeformableAttention(D, levels, HEADS, POINTS))
    queries = torch.randn(2, N, D, dtype=torch.float64)
    layers = torch.randn(2, levels, N, D, dtype=torch.float64)
    expected = torch.stack([by_loops(module, queries[i], layers[i]) for i in range(2)])
    torch.testing.assert_close(module(queries, layers), expected, rtol=0, atol=1e-10)


def test_it_starts_by_looking_into_all_directions():
    module = DeformableAttention(dim=16, levels=2, heads=8, points=3)
    assert not module.offsets.weight.any()
    assert not module.weights.weight.any()
    assert not module.weights.bias.any()
    bias = module.offsets.bias.view(8, 2, 3, 2)
    assert torch.equal(bias[:, 0], bias[:, 1])
    compass = torch.tensor([(1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1)], dtype=torch.float32)
    for k in range(3):
        torch.testing.assert_close(bias[:, 0, k], (k + 1) * compass)


def test_the_whole_block():
    fuser = randomised(MMFuser(D, TEXT, num_layers=2, heads=HEADS, points=POINTS))
    features = torch.randn(N, D, dtype=torch.float64)
    layers = torch.randn(2, N, D, dtype=torch.float64)

    def norm(x, module):
        return F.layer_norm(x, (D,), module.weight, module.bias, 1e-6)

    details = by_loops(fuser.cross, norm(features, fuser.query_norm), norm(layers, fuser.layer_norm))
    normed = norm(details, fuser.self_norm)
    details = details + fuser.self_gate * by_loops(fuser.self_attention, normed, normed[None])
    expected = features + fuser.gate * details
    torch.testing.assert_close(fuser.fuse(features[None], layers[None])[0], expected, rtol=0, atol=1e-10)


def test_the_gates_let_nothing_through_at_the_start_and_learn_first():
    fuser = MMFuser(D, TEXT, num_layers=2, heads=HEADS, points=POINTS)
    features, layers = torch.randn(2, N, D), torch.randn(2, 2, N, D)
    assert torch.equal(fuser(features, layers), fuser.mlp(features))
    fuser(features, layers).square().sum().backward()
    assert fuser.gate.grad.abs().min() > 0
    assert not fuser.self_gate.grad.any()
    assert not fuser.cross.value.weight.grad.any()


def test_half_precision_samples_in_full():
    fuser = randomised(MMFuser(D, TEXT, num_layers=2, heads=HEADS, points=POINTS))
    features, layers = torch.randn(2, N, D), torch.randn(2, 2, N, D)
    exact = fuser.float()(features, layers)
    half = fuser.bfloat16()(features.bfloat16(), layers.bfloat16())
    assert half.dtype == torch.bfloat16
    assert (half.float() - exact).norm() / exact.norm() < 0.05


def test_what_it_refuses():
    with pytest.raises(ValueError, match=r"^mm_mmfuser_heads is 3; it must divide the vision width, which is 8$"):
        MMFuser(D, TEXT, heads=3)
    fuser = MMFuser(D, TEXT, num_layers=1, heads=HEADS)
    with pytest.raises(ValueError, match=r"^mmfuser got 8 patches; it needs those of a square picture"):
        fuser(torch.randn(1, 8, D), torch.randn(1, 1, 8, D))
