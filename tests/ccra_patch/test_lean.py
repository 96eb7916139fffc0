"""The two reads of the stack against plain torch, values and derivatives."""

import pytest
import torch

from ccra_patch import lean
from ccra_patch.lean import mix_layers, read_stack


@pytest.fixture(params=[2**20, 30], ids=["one block", "many blocks"])
def _blocks(request, monkeypatch):
    monkeypatch.setattr(lean, "CPU_BLOCK", request.param)


def random(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


@pytest.mark.usefixtures("_blocks")
def test_read_stack_takes_products_mean_and_variance():
    stack, directions = random(2, 3, 7, 6), random(2, 2, 6, seed=1)
    products, (mean, variance), weighted = read_stack(stack, directions)
    torch.testing.assert_close(products, torch.einsum("blnd,bkd->bkln", stack, directions))
    torch.testing.assert_close(mean, stack.mean(-1))
    torch.testing.assert_close(variance, stack.var(-1, correction=0))
    assert weighted is None


@pytest.mark.usefixtures("_blocks")
@pytest.mark.parametrize("mean", [0.0, 50.0])
def test_read_stack_weighs_what_lies_around_the_mean(mean):
    stack, weight = random(2, 3, 7, 6) + mean, random(6, seed=2)
    reading = read_stack(stack, random(2, 1, 6, seed=1), weight)
    expected = (weight * (stack - stack.mean(-1, keepdim=True))).square().mean(-1)
    torch.testing.assert_close(reading.weighted, expected)


@pytest.mark.usefixtures("_blocks")
def test_read_stack_has_exact_derivatives_for_directions_and_a_trained_tower():
    stack, directions, weight = random(2, 2, 5, 6), random(2, 2, 6, seed=1), random(6, seed=2)
    inputs = tuple(each.requires_grad_() for each in (stack, directions, weight))

    def numbers(*given: torch.Tensor) -> tuple[torch.Tensor, ...]:
        products, moments, weighted = read_stack(*given)
        return (products, *moments) if weighted is None else (products, *moments, weighted)

    assert torch.autograd.gradcheck(numbers, inputs[:2])
    assert torch.autograd.gradcheck(numbers, inputs)


@pytest.mark.usefixtures("_blocks")
def test_mix_layers_sums_with_one_coefficient_per_patch_and_layer():
    stack, coefficients = random(2, 3, 7, 6).requires_grad_(), random(2, 3, 7, seed=1).requires_grad_()
    torch.testing.assert_close(mix_layers(stack, coefficients), torch.einsum("blnd,bln->bnd", stack, coefficients))
    assert torch.autograd.gradcheck(mix_layers, (stack, coefficients))


def test_a_stack_that_is_a_view_is_read_as_it_is():
    hidden_states = random(2, 3, 8, 6)
    stack = hidden_states[:, :, 1:]
    coefficients = random(2, 3, 7, seed=1)
    torch.testing.assert_close(read_stack(stack, random(2, 1, 6)).moments.mean, stack.mean(-1))
    torch.testing.assert_close(mix_layers(stack, coefficients), torch.einsum("blnd,bln->bnd", stack, coefficients))


def test_with_a_frozen_tower_only_the_products_are_part_of_the_graph():
    reading = read_stack(random(1, 2, 3, 4), random(1, 1, 4).requires_grad_())
    assert reading.products.requires_grad
    assert not reading.moments.mean.requires_grad
    assert not reading.moments.variance.requires_grad


@pytest.mark.parametrize("kernels", ["auto", "torch"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stacks_are_added_up_in_float32(dtype, kernels, monkeypatch):
    monkeypatch.setenv("CCRA_KERNELS", kernels)
    stack, directions, coefficients = random(1, 4, 9, 512).to(dtype), random(1, 1, 512, seed=1), random(1, 4, 9, seed=2)
    reading = read_stack(stack, directions)
    mixed = mix_layers(stack, coefficients)
    assert {each.dtype for each in (reading.products, *reading.moments, mixed)} == {torch.float32}
    exact = stack.double()
    torch.testing.assert_close(reading.products[:, 0].double(), (exact * directions[0, 0]).sum(-1), atol=2e-5, rtol=0)
    torch.testing.assert_close(reading.moments.variance.double(), exact.var(-1, correction=0), atol=0, rtol=2e-6)
    expected = torch.einsum("blnd,bln->bnd", exact, coefficients)
    torch.testing.assert_close(mixed.double(), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kernels", ["auto", "torch"])
@pytest.mark.parametrize("mean", [0.0, 1.0, 1.9, 2.1, 4.0, 10.0, 100.0, 3000.0])
def test_the_variance_holds_its_bound_however_far_the_mean_lies(mean, kernels, monkeypatch):
    monkeypatch.setenv("CCRA_KERNELS", kernels)
    stack = (random(1, 4, 64, 1024) + mean).float()
    variance = read_stack(stack, stack.new_zeros(1, 1, 1024)).moments.variance
    torch.testing.assert_close(variance.double(), stack.double().var(-1, correction=0), atol=0, rtol=2e-6)


@pytest.mark.parametrize("kernels", ["auto", "torch"])
def test_the_variance_of_a_constant_patch_is_zero(kernels, monkeypatch):
    monkeypatch.setenv("CCRA_KERNELS", kernels)
    stack = torch.full((1, 1, 3, 1024), 7.3)
    assert read_stack(stack, stack.new_zeros(1, 1, 1024)).moments.variance.abs().max() < 1e-10
