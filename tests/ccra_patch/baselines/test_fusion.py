"""The two MLPs that all baselines end in."""

import torch
from torch import nn
from torch.nn import functional as F

from ccra_patch.baselines.fusion import PlainMLP, WideMLP

D, E, TEXT = 6, 10, 8


def plain_adapter() -> nn.Sequential:
    return nn.Sequential(nn.Linear(D, TEXT), nn.GELU(), nn.Linear(TEXT, TEXT))


def test_the_plain_one_is_mlp2x_gelu():
    adapter, mlp = plain_adapter(), PlainMLP(D, TEXT)
    mlp.load_plain_adapter(adapter.state_dict())
    features = torch.randn(2, 5, D)
    assert torch.equal(mlp(features), adapter(features))


def test_the_wide_one_is_one_mlp_over_both_features():
    mlp = WideMLP(D, E, TEXT)
    features, extra = torch.randn(2, 5, D), torch.randn(2, 5, E)
    weight = torch.cat([mlp.selected.weight, mlp.fused.weight], dim=1)
    hidden = F.linear(torch.cat([features, extra], dim=-1), weight, mlp.selected.bias)
    torch.testing.assert_close(mlp(features, extra), mlp.output(F.gelu(hidden)))


def test_the_wide_one_starts_like_one_linear_layer():
    torch.manual_seed(0)
    mlp, one = WideMLP(600, 1000, 32), nn.Linear(1600, 32)
    for ours, theirs in (
        (mlp.selected.weight, one.weight), (mlp.fused.weight, one.weight), (mlp.selected.bias, one.bias),
    ):  # fmt: skip
        assert ours.abs().max() <= 1600**-0.5
        assert 0.75 < ours.std() / theirs.std() < 1.25


def test_from_a_plain_adapter_the_new_channels_are_the_first_to_learn():
    mlp = WideMLP(D, E, TEXT)
    mlp.load_plain_adapter(plain_adapter().state_dict())
    assert not mlp.fused.weight.any()
    mlp(torch.randn(2, 5, D), torch.randn(2, 5, E)).square().sum().backward()
    assert mlp.fused.weight.grad.abs().max() > 0
