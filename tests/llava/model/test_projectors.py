"""Every registered projector, by iterating the register: a new one is a new row here, not a new file."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from llava.errors import UserError
from llava.model.multimodal_projector.builder import IdentityMap, SimpleResBlock, build_vision_projector
from llava.model.multimodal_projector.registry import (
    find_projector,
    load_exactly,
    register_projector,
    registered_projectors,
    setting_names,
    take_auxiliary_loss,
)

B, L, N, T, D = 3, 5, 9, 4, 24
EXAMPLES = {"mlp<N>x_gelu": "mlp2x_gelu"}  # what to build for a name that stands for a pattern
NAMES = [EXAMPLES.get(spec.name, spec.name) for spec in registered_projectors()]
SMALL = {
    "mm_ccra_hidden_dim": 8,
    "mm_dense_connector_sti_strip": 2,
    "mm_dense_connector_dci_layers": [0, 1, 2, 3],
    "mm_dense_connector_dci_group_size": 2,
    "mm_mmfuser_layers": [1, 3],
    "mm_mmfuser_heads": 4,
    "mm_igva_layers": [1, 2, 3, 4, 5, 6],
    "mm_igva_group_size": 2,
    "mm_igva_hidden_dim": 8,
}
TOKENS = {"dense_connector_sti": N + 2 * (N // 2)}  # where it is not one per patch
FUSING = [name for name in NAMES if find_projector(name).settings is not None]


def config(name: str, **changes) -> SimpleNamespace:
    width = D if name == "identity" else 16
    settings = {"mm_projector_type": name, "mm_hidden_size": width, "hidden_size": D, **SMALL}
    return SimpleNamespace(**(settings | changes))


def build(name: str, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return build_vision_projector(config(name))


def inputs(projector: nn.Module, name: str, dtype=torch.float32, batch: int = B) -> dict[str, torch.Tensor]:
    """Exactly what the projector says it needs."""
    random = torch.Generator().manual_seed(1)
    width = config(name).mm_hidden_size
    given = {"features": torch.randn(batch, N, width, generator=random).to(dtype)}
    if projector.needs.layers:
        count = L if projector.needs.layers == "all" else len(projector.needs.layers)
        rows = N + projector.needs.class_token
        given["layers"] = torch.randn(batch, count, rows, width, generator=random).to(dtype)
    if projector.needs.query is not None:
        given["query"] = torch.randn(batch, T, D, generator=random).to(dtype)
        given["query_mask"] = torch.ones(batch, T, dtype=torch.bool)
    return given


def call(projector: nn.Module, given: dict[str, torch.Tensor]) -> torch.Tensor:
    features = given["features"]
    return projector(features, **{name: value for name, value in given.items() if name != "features"})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", NAMES)
def test_shape_and_dtype(name, dtype):
    projector = build(name).to(dtype)
    out = call(projector, inputs(projector, name, dtype))
    assert out.shape == (B, TOKENS.get(name, N), D)
    assert out.dtype == dtype
    assert out.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_gets_gradient(name):
    projector = build(name)
    for gate in projector.parameters():
        if not gate.any():  # a gate that starts shut: what is behind it gets its gradient once it has moved
            torch.nn.init.normal_(gate)
    call(projector, inputs(projector, name)).square().sum().backward() if list(projector.parameters()) else None
    without = [n for n, p in projector.named_parameters() if p.grad is None or not p.grad.any()]
    # A bias that shifts all scores of a softmax alike changes nothing, so its gradient is zero by nature.
    assert [n for n in without if not n.endswith("bias")] == []


@pytest.mark.parametrize("name", NAMES)
def test_weights_survive_a_round_trip(name):
    projector, again = build(name), build_vision_projector(config(name))
    find_projector(name).load_adapter(again, projector.state_dict())
    for key, value in projector.state_dict().items():
        assert torch.equal(again.state_dict()[key], value), key
    given = inputs(projector, name)
    assert torch.equal(call(projector, given), call(again, given))


@pytest.mark.parametrize("name", NAMES)
def test_order_of_the_batch_does_not_matter(name):
    projector = build(name)
    given = inputs(projector, name)
    turned = {key: value.flip(0) for key, value in given.items()}
    torch.testing.assert_close(call(projector, turned), call(projector, given).flip(0))


@pytest.mark.parametrize("name", NAMES)
def test_no_parameter_name_that_transformers_renames(name):
    assert not [n for n, _ in build(name).named_parameters() if "gamma" in n or "beta" in n]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", FUSING)
def test_from_a_plain_adapter_patches_are_its_bits(name, dtype):
    """Step 0 is LLaVA's: the tokens of the patches equal the plain adapter's (one projector adds others behind)."""
    plain, projector = build("mlp2x_gelu", seed=1).to(dtype), build(name).to(dtype)
    given = inputs(projector, name, dtype)
    expected = plain(given["features"])
    assert not torch.equal(call(projector, given)[:, :N], expected)
    find_projector(name).load_adapter(projector, plain.state_dict())
    assert torch.equal(call(projector, given)[:, :N], expected)


@pytest.mark.parametrize("name", FUSING)
def test_a_plain_adapter_of_other_sizes_is_refused(name):
    wider = build_vision_projector(config("mlp2x_gelu", mm_hidden_size=17))
    with pytest.raises(UserError, match=r"0\.weight has the shape \[24, 17\], this model needs \[24, 16\]; use an ada"):
        find_projector(name).load_adapter(build(name), wider.state_dict())


@pytest.mark.parametrize("name", FUSING)
def test_settings_carry_the_projectors_name(name):
    """So that every flag says whose it is, and the scripts find a projector's variables by its name."""
    others = [f"mm_{other}_" for other in FUSING if other != name]
    for setting in setting_names(find_projector(name)):
        assert setting.startswith(f"mm_{name}_")
        assert not setting.startswith(tuple(others))


@pytest.mark.parametrize("name", FUSING)
def test_class_tokens_have_no_place_among_patches(name):
    message = rf"mm_vision_select_feature is 'cls_patch'; {name} fuses layers patch by patch and needs 'patch'"
    with pytest.raises(UserError, match=message):
        build_vision_projector(config(name, mm_vision_select_feature="cls_patch"))


def test_an_auxiliary_loss_is_taken_once():
    projector = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    assert take_auxiliary_loss(projector) is None
    projector.auxiliary_loss, projector[1].auxiliary_loss = torch.tensor(1.5), torch.tensor(2.0)
    assert take_auxiliary_loss(projector) == 3.5
    assert take_auxiliary_loss(projector) is None


def test_upstreams_table():
    shapes = {
        kind: {n: list(p.shape) for n, p in build_vision_projector(config(kind)).named_parameters()}
        for kind in ("linear", "identity", "mlp1x_gelu", "mlp3x_gelu", "mlp0x_gelu")
    }
    one = {"0.weight": [D, 16], "0.bias": [D]}
    assert shapes == {
        "linear": {"weight": [D, 16], "bias": [D]},
        "identity": {},
        "mlp1x_gelu": one,
        "mlp3x_gelu": one | {"2.weight": [D, D], "2.bias": [D], "4.weight": [D, D], "4.bias": [D]},
        "mlp0x_gelu": one,
    }
    assert IdentityMap().config == {"mm_projector_type": "identity"}
    assert isinstance(build_vision_projector(SimpleNamespace(mm_hidden_size=4, hidden_size=6)), nn.Linear)
    assert SimpleResBlock(6)(torch.randn(2, 6)).shape == (2, 6)


@pytest.mark.parametrize("wrong", ["mlpx_gelu", "mlp2x_relu", "xmlp2x_gelu", "mlp<N>x_gelu", ""])
def test_unknown_types_list_what_exists(wrong):
    with pytest.raises(UserError, match=r"Unknown projector type: .*known: linear, mlp<N>x_gelu, identity, ccra"):
        find_projector(wrong)


def test_a_typing_error_finds_its_neighbour():
    with pytest.raises(UserError, match="did you mean 'ccra'"):
        find_projector("cra")


def test_a_name_is_registered_once():
    with pytest.raises(ValueError, match=r"'ccra' is registered twice: by ccra_patch\.register and .*test_projectors"):
        register_projector("ccra", build)


def test_settings_that_cannot_be():
    with pytest.raises(UserError, match=r"mm_ccra_kernel_size is 0; it must be at least 1 \(1 = no smoothing\)"):
        build_vision_projector(config("ccra", mm_ccra_kernel_size=0))


def test_an_adapter_of_another_type_is_named():
    linear, mlp = build("linear"), build("mlp2x_gelu")
    with pytest.raises(UserError, match=r"the adapter lacks '0\.bias'"):
        load_exactly(mlp, linear.state_dict())
    with pytest.raises(UserError, match=r"the adapter holds '4\.bias', which this projector does not have"):
        load_exactly(mlp, build("mlp3x_gelu").state_dict())
    wider = nn.Linear(17, D)
    with pytest.raises(
        UserError, match=r"the adapter's 'weight' has the shape \[24, 17\], this model needs \[24, 16\]"
    ):
        load_exactly(linear, wider.state_dict())
