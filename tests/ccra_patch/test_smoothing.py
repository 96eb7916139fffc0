"""GaussianSmoothing against its definition."""

import pytest
import torch
from reference import smooth

from ccra_patch.smoothing import GaussianSmoothing


def test_the_default_taps_are_the_gaussians():
    taps = GaussianSmoothing(5, 1.0).matrix(9, torch.zeros(1, dtype=torch.float64))[4]
    expected = torch.tensor([0, 0, 0.0544887, 0.2442013, 0.4026199, 0.2442013, 0.0544887, 0, 0], dtype=torch.float64)
    torch.testing.assert_close(taps, expected, atol=1e-7, rtol=0)


@pytest.mark.parametrize(("kernel_size", "reach"), [(2, (1, 0)), (3, (1, 1)), (4, (2, 1)), (5, (2, 2)), (6, (3, 2))])
def test_an_even_kernel_reaches_one_layer_further_towards_the_shallow_end(kernel_size, reach):
    taps = GaussianSmoothing(kernel_size, 1.0).matrix(11, torch.zeros(1))[5]
    shallow, deep = reach
    assert taps.nonzero().flatten().tolist() == list(range(5 - shallow, 5 + deep + 1))
    assert taps.argmax() == 5


@pytest.mark.parametrize("kernel_size", range(1, 8))
@pytest.mark.parametrize("layers", [1, 2, 5, 24])
def test_it_agrees_with_the_reference_keeps_length_and_constants(kernel_size, layers):
    scores = torch.randn(3, layers, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    smoothing = GaussianSmoothing(kernel_size, 0.8)
    smoothed = smoothing(scores)
    assert smoothed.shape == scores.shape
    torch.testing.assert_close(smoothed, smooth(scores, kernel_size, 0.8))
    torch.testing.assert_close(smoothing(torch.full_like(scores, 2.5)), torch.full_like(scores, 2.5))


def test_kernel_size_1_changes_nothing():
    scores = torch.randn(2, 24)
    assert torch.equal(GaussianSmoothing(1, 1.0)(scores), scores)


def test_a_wider_gaussian_smooths_more():
    spike = torch.eye(9)[4:5]
    narrow, wide = GaussianSmoothing(5, 0.5)(spike), GaussianSmoothing(5, 3.0)(spike)
    assert narrow[0, 4] > 0.7 > 0.3 > wide[0, 4]
