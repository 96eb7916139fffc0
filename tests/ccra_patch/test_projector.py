"""CCRAProjector: the fusion, and starting as a plain LLaVA adapter."""

import pytest
import torch
from reference import VARIANTS
from torch import nn

from ccra_patch.pai import AttentionMaps, num_attention_parameters
from ccra_patch.projector import CCRAProjector

VISION, TEXT, HIDDEN = 24, 40, 8


def sample(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 9, VISION, generator=generator)
    layers = torch.randn(2, 4, 9, VISION, generator=generator)
    query = torch.randn(2, 5, TEXT, generator=generator)
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    return features.to(dtype), layers.to(dtype), query.to(dtype), mask


def plain_adapter() -> nn.Sequential:
    return nn.Sequential(nn.Linear(VISION, TEXT), nn.GELU(), nn.Linear(TEXT, TEXT))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("norm_order", ["pre", "post"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_plain_adapter_gives_the_same_bits(norm_order, dtype, variant):
    torch.manual_seed(0)
    plain = plain_adapter().to(dtype)
    projector = CCRAProjector(VISION, TEXT, HIDDEN, norm_order=norm_order, **VARIANTS[variant]).to(dtype)
    features, layers, query, mask = sample(dtype)
    assert not torch.equal(projector(features, layers, query, mask), plain(features))
    projector.load_plain_adapter(plain.state_dict())
    assert torch.equal(projector(features, layers, query, mask), plain(features))


def test_from_a_plain_adapter_regional_is_the_first_to_learn():
    projector = CCRAProjector(VISION, TEXT, HIDDEN)
    projector.load_plain_adapter(plain_adapter().state_dict())
    projector(*sample()).square().sum().backward()
    assert projector.regional.weight.grad.abs().max() > 0
    assert projector.attention.lpwca.key.weight.grad.abs().max() == 0  # until regional has moved


def test_the_fusion_is_one_mlp_over_both_features():
    projector = CCRAProjector(VISION, TEXT, HIDDEN)
    features, layers, query, mask = sample()
    regional, _ = projector.attention(layers, query, mask)
    first = nn.Linear(2 * VISION, TEXT)
    with torch.no_grad():
        first.weight.copy_(torch.cat([projector.regional.weight, projector.selected.weight], dim=1))
        first.bias.copy_(projector.selected.bias)
    expected = projector.output(nn.functional.gelu(first(torch.cat([regional, features], dim=-1))))
    torch.testing.assert_close(projector(features, layers, query, mask), expected)


def test_parameters_are_the_attention_stack_and_the_widened_mlp():
    with torch.device("meta"):
        projector = CCRAProjector(1024, 4096)
    total = sum(parameter.numel() for parameter in projector.parameters())
    assert num_attention_parameters(projector) == 3_546_369
    assert total - num_attention_parameters(projector) == (2 * 1024 * 4096 + 4096) + (4096 * 4096 + 4096)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_shape_dtype_and_a_gradient_for_every_parameter(dtype, variant):
    projector = CCRAProjector(VISION, TEXT, HIDDEN, **VARIANTS[variant]).to(dtype)
    tokens, maps = projector(*sample(dtype), return_maps=True)
    assert tokens.shape == (2, 9, TEXT)
    assert tokens.dtype == dtype
    assert isinstance(maps, AttentionMaps)
    assert maps.lpwca.shape == (2, 4, 9)
    tokens.float().square().mean().backward()
    assert [name for name, parameter in projector.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_saved_projector_comes_back(tmp_path, variant):
    projector, other = (CCRAProjector(VISION, TEXT, HIDDEN, **VARIANTS[variant]) for _ in range(2))
    torch.save(projector.state_dict(), tmp_path / "projector.bin")
    other.load_state_dict(torch.load(tmp_path / "projector.bin", weights_only=True))
    assert torch.equal(projector(*sample()), other(*sample()))


def test_an_adapter_that_does_not_fit_is_refused_and_nothing_is_copied():
    projector = CCRAProjector(VISION, TEXT, HIDDEN)
    before = {name: value.clone() for name, value in projector.state_dict().items()}
    state = plain_adapter().state_dict()
    with pytest.raises(
        ValueError, match=r"the adapter's 2\.weight has the shape \[3, 3\], this model needs \[40, 40\]; use"
    ):
        projector.load_plain_adapter(state | {"2.weight": torch.zeros(3, 3)})
    with pytest.raises(ValueError, match=r"keys \['weight'\]; an mlp2x_gelu adapter has \['0\.bias', '0\.weight', "):
        projector.load_plain_adapter({"weight": torch.zeros(1)})
    assert all(torch.equal(value, before[name]) for name, value in projector.state_dict().items())
