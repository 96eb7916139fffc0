"""MLVF's external direct fusion: the authors' choices of layers as numbers."""

import pytest
import torch

from ccra_patch.baselines import MLVFExternalDirect, MLVFExternalDirectSettings

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
