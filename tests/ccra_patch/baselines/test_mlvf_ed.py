"""MLVF's external direct fusion: the authors' choices of layers as numbers."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

import ccra_patch.register  # noqa: F401
from ccra_patch.baselines import MLVFExternalDirect, MLVFExternalDirectSettings
from llava.model.multimodal_projector.builder import build_vision_projector

B, N, D, TEXT = 2, 9, 6, 8


def test_layers_by_themselves():
    projector = MLVFExternalDirect(D, TEXT)
    selected, layers = torch.randn(B, N, D), torch.randn(B, 2, N, D)
    expected = projector.mlp(selected, torch.cat([layers[:, 0], layers[:, 1]], dim=-1))
    torch.testing.assert_close(projector(selected, layers), expected)


@pytest.mark.parametrize(
    ("layers", "group_size"),
    [([18], 1), ([3, 18], 1), (list(range(1, 13)), 12), (list(range(13, 25)), 12), (list(range(1, 25)), 12)],
)
def test_the_authors_choices(layers, group_size):
    MLVFExternalDirectSettings(mm_mlvf_ed_layers=layers, mm_mlvf_ed_group_size=group_size).validate()
    groups = len(layers) // group_size
    projector = MLVFExternalDirect(D, TEXT, groups, group_size)
    selected, stack = torch.randn(B, N, D), torch.randn(B, len(layers), N, D)
    means = [stack[:, i * group_size : (i + 1) * group_size].sum(dim=1) / group_size for i in range(groups)]
    torch.testing.assert_close(projector(selected, stack), projector.mlp(selected, torch.cat(means, dim=-1)))


def one_size(layer):
    """Each patch less its mean, over its standard deviation."""
    return (layer - layer.mean(dim=-1, keepdim=True)) / layer.std(dim=-1, keepdim=True, correction=0)


def test_normalised_layers_are_all_of_one_size_and_the_selected_one_stays():
    projector = MLVFExternalDirect(D, TEXT, normalize=True)
    selected, layers = torch.randn(B, N, D), 20 * torch.randn(B, 2, N, D)
    expected = projector.mlp(selected, torch.cat([one_size(layers[:, 0]), one_size(layers[:, 1])], dim=-1))
    torch.testing.assert_close(projector(selected, layers), expected)
    sizes = torch.tensor([0.5, 30])[:, None, None]
    torch.testing.assert_close(projector(selected, sizes * layers), expected)
    assert not torch.allclose(projector(30 * selected, layers), expected, atol=0.1)


def test_groups_are_normalised_as_they_are_handed_on():
    projector = MLVFExternalDirect(D, TEXT, num_groups=2, group_size=2, normalize=True)
    layers = 20 * torch.randn(B, 4, N, D)
    expected = torch.stack([one_size(layers[:, :2].mean(dim=1)), one_size(layers[:, 2:].mean(dim=1))], dim=1)
    torch.testing.assert_close(projector.groups(layers), expected)


def test_half_precision_is_rounded_after_the_norm_only():
    layers = (20 * torch.randn(B, 2, N, D)).bfloat16()
    groups = MLVFExternalDirect(D, TEXT, normalize=True).groups(layers)
    expected = one_size(layers.double())
    assert groups.dtype == torch.bfloat16
    torch.testing.assert_close(groups.double(), expected, rtol=2**-8, atol=1e-4)


def test_normalised_it_starts_as_the_plain_adapter_and_has_no_parameter_more():
    adapter = nn.Sequential(nn.Linear(D, TEXT), nn.GELU(), nn.Linear(TEXT, TEXT))
    projector = MLVFExternalDirect(D, TEXT, normalize=True)
    projector.load_plain_adapter(adapter.state_dict())
    selected, layers = torch.randn(B, N, D), torch.randn(B, 2, N, D)
    assert torch.equal(projector(selected, layers), adapter(selected))
    assert projector.state_dict().keys() == MLVFExternalDirect(D, TEXT).state_dict().keys()


@pytest.mark.parametrize(("given", "normalize"), [({}, False), ({"mm_mlvf_ed_normalize": True}, True)])
def test_the_config_says_whether_to_normalise(given, normalize):
    config = SimpleNamespace(mm_projector_type="mlvf_ed", mm_hidden_size=D, hidden_size=TEXT, **given)
    assert build_vision_projector(config).normalize is normalize
