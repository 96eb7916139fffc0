"""PAIStack against the line-by-line reference, and what the design promises about it."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from reference import VARIANTS, ReferencePAI
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ccra_patch import lean
from ccra_patch.pai import AttentionMaps, PAIStack, num_attention_parameters

VISION, TEXT, HIDDEN = 48, 32, 16

ALL_VARIANTS = pytest.mark.parametrize("variant", VARIANTS)

# A constant added to every score of a softmax: mathematically without gradient.
NO_GRADIENT = {"importance.key.bias", "importance.value.bias", "importance.score.bias", "lwca.key.bias"}
THE_SIX = [f"{name}.{part}.weight" for name in ("lpwca", "lwca", "pwca") for part in ("query", "key")]


def lively(module: nn.Module) -> nn.Module:
    """Weights large enough that every map varies, norms away from 1 and 0."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.15 * torch.randn(parameter.shape, generator=generator))
    return module


def pair(dtype: torch.dtype, **settings) -> tuple[PAIStack, ReferencePAI]:
    torch.manual_seed(0)
    shipped = lively(PAIStack(VISION, TEXT, HIDDEN, **settings))
    reference = ReferencePAI(VISION, TEXT, HIDDEN, **settings)
    reference.load_state_dict(shipped.state_dict())
    return shipped.to(dtype), reference.to(dtype)


def inputs(images=3, layers=5, patches=6, tokens=7, dtype=torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """A stack, a query padded right, not at all and left, and its mask."""
    generator = torch.Generator().manual_seed(1)
    stack = torch.randn(images, layers, patches, VISION, generator=generator, dtype=torch.float64)
    query = torch.randn(images, tokens, TEXT, generator=generator, dtype=torch.float64)
    mask = torch.ones(images, tokens, dtype=torch.bool)
    if tokens > 2:
        mask[0, tokens // 2 :] = False
        mask[-1, :2] = False
    return stack.to(dtype), query.to(dtype), mask


def gradients(module: nn.Module, stack: Tensor, query: Tensor, mask: Tensor) -> tuple[Tensor, dict, dict[str, Tensor]]:
    """Output, maps, and the gradients of a loss that looks at the output and at every map."""
    stack, query = stack.clone().requires_grad_(), query.clone().requires_grad_()
    module.zero_grad()
    output, maps = module(stack, query, mask)
    maps = {name: getattr(maps, name) for name in AttentionMaps.__annotations__} if not isinstance(maps, dict) else maps
    loss = 0.0
    for index, value in enumerate([output, *maps.values()]):
        generator = torch.Generator().manual_seed(index)
        loss = loss + (value * torch.randn(value.shape, generator=generator, dtype=torch.float64)).sum()
    loss.backward()
    grads = {name: parameter.grad for name, parameter in module.named_parameters()}
    return output.detach(), maps, grads | {"query": query.grad, "stack": stack.grad}


def assert_near(got: Tensor, expected: Tensor, tolerance: float, what: str, scale: Tensor | None = None) -> None:
    scale = (expected if scale is None else scale).double().abs().max().clamp(min=1e-30)
    error = ((got.double() - expected.double()).abs().max() / scale).item()
    assert error <= tolerance, f"{what} is off by {error:.2e} of its scale"


def away_from_the_jump(maps: dict[str, Tensor]) -> Tensor:
    """``[B, N]``, patches whose every ``1 + W`` is well above or below 0.

    A norm that follows the modulation keeps the factor's sign alone, so around 0 the last digit of a score decides.
    """
    clear = ((1 + maps["lpwca"]).abs().amin(dim=1) > 0.02) & ((1 + maps["pwca"]).abs() > 0.02)
    assert clear.double().mean() > 0.7
    return clear


SHAPES = {
    "usual": {},
    "one layer": {"layers": 1},
    "one patch": {"patches": 1},
    "one of each": {"images": 1, "layers": 1, "patches": 1, "tokens": 1},
    "one token": {"tokens": 1, "images": 2},
}


@ALL_VARIANTS
@pytest.mark.parametrize("norm_order", ["pre", "post"])
@pytest.mark.parametrize("shape", SHAPES)
def test_in_float64_outputs_maps_and_all_gradients_are_the_references(norm_order, shape, variant):
    shipped, reference = pair(torch.float64, norm_order=norm_order, **VARIANTS[variant])
    sample = inputs(**SHAPES[shape])
    if sample[0].shape[1] < shipped.depth_groups:
        with pytest.raises(ValueError, match="each group needs one at least"):
            shipped(*sample)
        return
    output, maps, grads = gradients(shipped, *sample)
    expected_output, expected_maps, expected_grads = gradients(reference, *sample)
    assert_near(output, expected_output, 1e-11, "output")
    for name, expected in expected_maps.items():
        assert_near(maps[name], expected, 1e-11, name)
    largest = max(grad.abs().max() for grad in expected_grads.values())
    for name, expected in expected_grads.items():
        scale = torch.maximum(expected.abs().max(), 1e-5 * largest)
        assert_near(grads[name], expected, 1e-9, f"gradient of {name}", scale)


@pytest.mark.parametrize("kernel_size", range(1, 8))
def test_every_kernel_size_is_the_references(kernel_size):
    shipped, reference = pair(torch.float64, kernel_size=kernel_size, sigma=1.3)
    sample = inputs(layers=6)
    assert_near(shipped(*sample)[0], reference(*sample)[0], 1e-11, "output")


@pytest.mark.parametrize("hidden_dim", [1, 64, 96, 128, 160, 192, 256, 320, 384])
def test_every_hidden_width_is_the_references(hidden_dim):
    """Those of Figure 7, and the least."""
    torch.manual_seed(0)
    shipped, reference = PAIStack(VISION, TEXT, hidden_dim).double(), ReferencePAI(VISION, TEXT, hidden_dim).double()
    reference.load_state_dict(shipped.state_dict())
    sample = inputs()
    assert_near(shipped(*sample)[0], reference(*sample)[0], 1e-11, "output")


@ALL_VARIANTS
@pytest.mark.parametrize("norm_order", ["pre", "post"])
def test_in_float32_outputs_and_gradients_hold_to_1e_5(norm_order, variant):
    """Or to ten times what the equations themselves are off in float32, line by line: some gradients are cancellations.

    Those are, under ``post``, what Q and K of LPWCA and PWCA get, and through them the question.
    """
    shipped, reference = pair(torch.float32, norm_order=norm_order, **VARIANTS[variant])
    sample = inputs(layers=12, patches=20, dtype=torch.float32)
    output, maps, grads = gradients(shipped, *sample)
    _, _, by_the_book = gradients(reference, *sample)
    reference.double()
    expected_output, expected_maps, expected_grads = gradients(
        reference, sample[0].double(), sample[1].double(), sample[2]
    )
    clear = away_from_the_jump(expected_maps)
    assert_near(output[clear], expected_output[clear], 1e-5, "output")
    for name, expected in expected_maps.items():
        assert_near(maps[name], expected, 1e-5, name)
    largest = max(grad.abs().max() for grad in expected_grads.values())
    for name, expected in expected_grads.items():
        scale = largest if name in NO_GRADIENT else expected.abs().max()
        noise = (by_the_book[name] - expected).abs().max() / scale
        assert_near(grads[name], expected, max(1e-5, 10 * noise.item()), f"gradient of {name}", scale=scale)


@ALL_VARIANTS
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.02), (torch.float16, 0.002)])
def test_half_precision_stays_within_its_own_rounding_of_the_exact_result(dtype, tolerance, variant):
    """2% and 0.2% of the output's scale: about five roundings of the type, most of them in token importance."""
    shipped, reference = pair(dtype, **VARIANTS[variant])
    sample = inputs(layers=12, patches=20, dtype=dtype)
    output, maps = shipped(*sample)
    expected, expected_maps = reference.double()(sample[0].double(), sample[1].double(), sample[2])
    assert output.dtype == dtype
    clear = away_from_the_jump(expected_maps)
    assert_near(output[clear], expected[clear], tolerance, "output")
    for name, value in expected_maps.items():
        assert_near(getattr(maps, name), value, tolerance, name)
    output.float().square().mean().backward()
    assert all(parameter.grad.isfinite().all() for parameter in shipped.parameters())


@ALL_VARIANTS
def test_autocast_changes_nothing_in_a_float32_stack(variant):
    shipped, _ = pair(torch.float32, **VARIANTS[variant])
    sample = inputs(dtype=torch.float32)
    plain = shipped(*sample)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(shipped(*sample)[0], plain)


def test_autocast_takes_float32_weights_with_a_bfloat16_tower():
    shipped, _ = pair(torch.float32)
    stack, query, mask = inputs(dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output, _ = shipped(stack.bfloat16(), query.bfloat16(), mask)
        output.float().square().mean().backward()
    assert_near(output, shipped(stack, query, mask)[0], 0.03, "output")
    assert all(parameter.grad.isfinite().all() for parameter in shipped.parameters())


def set_positive_map(attention: nn.Module, seed: int) -> None:
    """Make ``W = 0.8 + something small`` whatever the question, another something for every seed."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        attention.query.weight.zero_()
        attention.query.bias.fill_(1.0)
        attention.key.weight.copy_(0.02 * torch.randn(attention.key.weight.shape, generator=generator))
        attention.key.bias.fill_(0.8 / HIDDEN**0.5)


@pytest.mark.parametrize("name", ["lpwca", "pwca"])
def test_as_printed_the_norm_undoes_any_positive_map_and_before_it_does_not(name):
    moved = {}
    for norm_order in ("pre", "post"):
        shipped, _ = pair(torch.float32, norm_order=norm_order)
        sample = inputs(dtype=torch.float32)
        results = []
        for seed in (1, 2):
            set_positive_map(getattr(shipped, name), seed)
            results.append(shipped(*sample))
        (first, first_maps), (second, second_maps) = results
        first_map, second_map = getattr(first_maps, name), getattr(second_maps, name)
        assert min(first_map.min(), second_map.min()) > 0
        assert (first_map - second_map).abs().max() > 0.2
        moved[norm_order] = ((first - second).abs().max() / first.abs().max()).item()
    assert moved["post"] < 1e-5
    assert moved["pre"] > 1e-2


@ALL_VARIANTS
def test_with_the_norm_first_the_loss_reaches_q_and_k_of_every_step(variant):
    shipped, _ = pair(torch.float64, **VARIANTS[variant])
    output, _ = shipped(*inputs())
    (
        output * torch.randn(output.shape, generator=torch.Generator().manual_seed(0), dtype=output.dtype)
    ).sum().backward()
    steps = [name for name in THE_SIX if name.split(".")[0] not in VARIANTS[variant].get("disable", ())]
    for name in steps:
        assert shipped.get_parameter(name).grad.norm() > 1e-3, name
    without = [name for name, parameter in shipped.named_parameters() if parameter.grad is None]
    assert without == []


@pytest.mark.parametrize("norm_order", ["pre", "post"])
def test_shuffled_a_positive_layer_patch_map_acts_through_the_patch_map_alone(norm_order):
    """PWCA's norm follows LPWCA directly, under either order, and undoes its factors."""
    shipped, _ = pair(torch.float32, norm_order=norm_order, integration="shuffled")
    with torch.no_grad():
        shipped.pwca.key.weight.zero_()  # w_p no longer depends on F_lp
    sample = inputs(dtype=torch.float32)
    outputs = []
    for seed in (1, 2):
        set_positive_map(shipped.lpwca, seed)
        outputs.append(shipped(*sample)[0])
    assert_near(outputs[0], outputs[1], 1e-5, "output")


def test_the_loss_reaches_q_and_k_of_all_three_attentions_only_with_the_norm_first():
    norms = {}
    for norm_order in ("pre", "post"):
        shipped, _ = pair(torch.float64, norm_order=norm_order)
        for name in ("lpwca", "pwca"):
            set_positive_map(getattr(shipped, name), 3)
        output, _ = shipped(*inputs())
        (
            output * torch.randn(output.shape, generator=torch.Generator().manual_seed(0), dtype=output.dtype)
        ).sum().backward()
        norms[norm_order] = {name: shipped.get_parameter(name).grad.norm().item() for name in THE_SIX}
    for name in THE_SIX:
        assert norms["pre"][name] > 1e-3
        if not name.startswith("lwca"):
            assert norms["post"][name] < norms["pre"][name] / 1000


@ALL_VARIANTS
def test_padding_its_side_and_its_contents_do_not_matter(variant):
    shipped, _ = pair(torch.float64, **VARIANTS[variant])
    stack, query, _ = inputs(tokens=4)
    whole = shipped(stack, query, torch.ones(3, 4, dtype=torch.bool))[0]
    junk = 10 * torch.randn(3, 5, TEXT, dtype=torch.float64)
    blank, text = torch.zeros(3, 5, dtype=torch.bool), torch.ones(3, 4, dtype=torch.bool)
    for parts in ([(query, text), (junk, blank)], [(junk, blank), (query, text)]):
        tokens, mask = (torch.cat(column, dim=1) for column in zip(*parts, strict=True))
        output, maps = shipped(stack, tokens, mask)
        torch.testing.assert_close(output, whole)
        assert maps.alpha[~mask].abs().max() == 0
        torch.testing.assert_close(maps.alpha.sum(1), torch.ones(3, dtype=torch.float64))


@ALL_VARIANTS
def test_the_order_of_the_batch_does_not_matter(variant):
    shipped, _ = pair(torch.float64, **VARIANTS[variant])
    stack, query, mask = inputs()
    order = torch.tensor([2, 0, 1])
    output, maps = shipped(stack, query, mask)
    shuffled, shuffled_maps = shipped(stack[order], query[order], mask[order])
    torch.testing.assert_close(shuffled, output[order])
    for name, value in vars(maps).items():
        torch.testing.assert_close(getattr(shuffled_maps, name), value[order])


@ALL_VARIANTS
def test_the_order_of_the_patches_is_kept(variant):
    shipped, _ = pair(torch.float64, **VARIANTS[variant])
    stack, query, mask = inputs()
    order = torch.tensor([5, 3, 0, 1, 2, 4])
    torch.testing.assert_close(shipped(stack[:, :, order], query, mask)[0], shipped(stack, query, mask)[0][:, order])


@ALL_VARIANTS
@pytest.mark.parametrize("norm_order", ["pre", "post"])
def test_an_empty_query_gives_uniform_maps_and_finite_gradients(norm_order, variant):
    shipped, _ = pair(torch.float32, norm_order=norm_order, **VARIANTS[variant])
    stack, query, mask = inputs(dtype=torch.float32)
    mask[1] = False
    query.requires_grad_()
    output, maps = shipped(stack, query, mask)
    for value in (maps.alpha[1], maps.lpwca[1], maps.layer_scores[1], maps.smoothed_scores[1], maps.pwca[1]):
        assert value.abs().max() == 0
    torch.testing.assert_close(maps.layer_weights[1], torch.full((5,), 0.2))
    assert output.isfinite().all()

    output.square().mean().backward()
    assert all(parameter.grad.isfinite().all() for parameter in shipped.parameters())
    assert query.grad.isfinite().all()
    assert query.grad[1].abs().max() == 0
    shipped.double()
    alone, beside = (shipped(stack[:n].double(), query[:n].double(), mask[:n])[0][0] for n in (1, 3))
    torch.testing.assert_close(alone, beside)


@ALL_VARIANTS
def test_a_batch_without_any_query_token_at_all(variant):
    shipped, _ = pair(torch.float32, **VARIANTS[variant])
    stack, _, _ = inputs(dtype=torch.float32)
    output, maps = shipped(stack, torch.zeros(3, 0, TEXT), torch.zeros(3, 0, dtype=torch.bool))
    padded, _ = shipped(stack, torch.randn(3, 2, TEXT), torch.zeros(3, 2, dtype=torch.bool))
    assert maps.alpha.shape == (3, 0)
    assert torch.equal(output, padded)
    output.sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in shipped.parameters() if parameter.grad is not None)


@pytest.mark.parametrize("variant", ["pai", "decoupled", "shuffled", "keys normalised", "shuffled, keys normalised"])
@pytest.mark.parametrize("norm_order", ["pre", "post"])
@pytest.mark.parametrize("kind", ["shifted", "outlier channels"])
def test_large_means_and_outlier_channels_cost_what_float32_must(norm_order, kind, variant):
    """1e-5, or 2 eps |mean| / std where that is more: what the mean's own rounding costs any implementation."""
    shipped, reference = pair(torch.float32, norm_order=norm_order, **VARIANTS[variant])
    stack, query, mask = inputs(layers=8, patches=20, dtype=torch.float32)
    if kind == "shifted":
        stack = stack + 100.0
        with torch.no_grad():  # keep the scores in range: they see the mean too
            for attention in (shipped.lpwca, reference.lpwca):
                attention.key.weight.mul_(0.01)
    else:
        stack[..., [5, 11]] = stack[..., [5, 11]] * 3 + 60.0
    ratio = (stack.mean(-1) / stack.std(-1)).abs().max().item()
    expected = reference.double()(stack.double(), query.double(), mask)[0]
    tolerance = max(1e-5, 2 * torch.finfo(torch.float32).eps * ratio)
    assert_near(shipped(stack, query, mask)[0], expected, tolerance, "output")


@contextmanager
def saved_for_backward() -> Iterator[list[Tensor]]:
    saved: list[Tensor] = []

    def remember(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(remember, lambda tensor: tensor):
        yield saved


class LargestOutput(TorchDispatchMode):
    """Remembers the largest tensor that any operation made, other than views of ``known``."""

    def __init__(self, known: Tensor):
        super().__init__()
        self.known = known.untyped_storage().data_ptr()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and leaf.untyped_storage().data_ptr() != self.known:
                self.numel = max(self.numel, leaf.numel())
        return result


@ALL_VARIANTS
@pytest.mark.parametrize("norm_order", ["pre", "post"])
@pytest.mark.parametrize("kernels", ["auto", "torch"])
def test_nothing_of_the_stacks_size_is_kept_or_made(kernels, norm_order, variant, monkeypatch):
    monkeypatch.setenv("CCRA_KERNELS", kernels)
    monkeypatch.setattr(lean, "CPU_BLOCK", 30 * VISION)
    shipped, _ = pair(torch.float32, norm_order=norm_order, **VARIANTS[variant])
    stack, query, mask = inputs(images=2, layers=24, patches=30, tokens=60, dtype=torch.float32)
    with saved_for_backward() as saved, LargestOutput(stack) as largest:
        shipped(stack, query, mask)[0].sum().backward()

    storage = stack.untyped_storage().data_ptr()
    kept = [tensor for tensor in saved if tensor.untyped_storage().data_ptr() != storage]
    if variant != "pwca alone":  # the average of the layers has nothing to learn
        assert len(kept) < len(saved), "the stack itself is needed for backward"
    one_layer = shipped.depth_groups * 2 * 30 * VISION
    scores_of_one_image = 60 * 24 * 30
    products = (5 if variant.startswith("shuffled") else 2) * 2 * 24 * 30
    assert max(tensor.numel() for tensor in kept) <= max(one_layer, products, 2 * 60 * TEXT)
    assert largest.numel <= max(one_layer, products, 2 * 60 * 60) < scores_of_one_image < stack.numel()


@ALL_VARIANTS
def test_the_stack_is_read_twice(variant, monkeypatch):
    reads = []
    for name in ("_ReadStack", "_MixLayers"):
        apply = getattr(lean, name).apply
        monkeypatch.setattr(
            getattr(lean, name), "apply", lambda *given, name=name, apply=apply: reads.append(name) or apply(*given)
        )
    shipped, _ = pair(torch.float32, **VARIANTS[variant])
    shipped(*inputs(dtype=torch.float32))
    assert reads == ["_ReadStack"] + ["_MixLayers"] * shipped.depth_groups  # each group's layers once


@pytest.mark.parametrize("kernels", ["auto", "torch"])
def test_a_half_precision_stack_is_worked_on_block_by_block(kernels, monkeypatch):
    monkeypatch.setenv("CCRA_KERNELS", kernels)
    monkeypatch.setattr(lean, "CPU_BLOCK", 30 * VISION)
    shipped, _ = pair(torch.bfloat16)
    stack, query, mask = inputs(images=2, layers=24, patches=60, tokens=8, dtype=torch.bfloat16)
    with LargestOutput(stack) as largest:
        shipped(stack, query, mask)[0].sum().backward()
    assert largest.numel <= 2 * 60 * VISION < stack.numel() / 20


@pytest.mark.parametrize("integration", ["pai", "decoupled", "shuffled"])
def test_the_parameter_count_is_the_papers_however_the_steps_go_together(integration):
    with torch.device("meta"):
        assert num_attention_parameters(PAIStack(1024, 4096, 128, integration=integration)) == 3_546_369


@ALL_VARIANTS
def test_a_step_that_is_left_out_leaves_no_parameters_and_no_trace_in_the_maps(variant):
    shipped, _ = pair(torch.float32, **VARIANTS[variant])
    disabled = VARIANTS[variant].get("disable", ())
    steps = {name.split(".")[0] for name, _ in shipped.named_parameters()}
    assert steps == {"importance", "lpwca", "lwca", "pwca"} - set(disabled)
    _, maps = shipped(*inputs(dtype=torch.float32))
    for step, scores in {"lpwca": maps.lpwca, "lwca": maps.layer_scores, "pwca": maps.pwca}.items():
        assert bool(scores.any()) == (step not in disabled)
    assert (maps.layer_weights.std(1).max() > 0.01) == ("lwca" not in disabled)


def test_a_normalised_query_is_seen_whatever_its_size():
    """Embeddings as small as Vicuna's: without the norm, Q is its bias, and another question gets the same maps."""
    stack, query, mask = inputs(dtype=torch.bfloat16)
    small, other = 2.0**-6 * query, [1, 2, 0]
    moved, uniform = {}, 1 / mask.sum(dim=1, keepdim=True)
    for normalize in ((), ("query",)):
        shipped, _ = pair(torch.bfloat16, normalize=normalize)
        maps = shipped(stack, small, mask)[1]
        moved[normalize] = (shipped(stack, small[other], mask[other])[1].lpwca - maps.lpwca).abs().max()
        assert (((maps.alpha - uniform) * mask).abs().max() > 0.01) == bool(normalize)
    assert moved[()] < moved[("query",)] / 20

    usual, asked = shipped(stack, query, mask)[1], shipped(stack, small, mask)[1]
    for name in ("alpha", "lpwca", "layer_weights", "pwca"):
        assert_near(getattr(asked, name), getattr(usual, name), 0.02, f"{name} of a small question")


def test_normalised_keys_are_scored_whatever_the_size_and_mean_of_their_layer():
    shipped, _ = pair(torch.float64, normalize=["keys"])
    stack, query, mask = inputs()
    sizes = torch.tensor([1.0, 3.0, 10.0, 20.0, 40.0], dtype=torch.float64)[:, None, None]
    scores = shipped(stack, query, mask)[1].lpwca
    torch.testing.assert_close(shipped(sizes * stack + 5, query, mask)[1].lpwca, scores, rtol=1e-4, atol=1e-4)
    assert (pair(torch.float64)[0](stack, query, mask)[1].lpwca - scores).abs().max() > 0.01


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_token_and_a_patch_without_any_size_are_normalised_to_nothing(dtype):
    shipped, _ = pair(dtype, normalize=["query", "keys"])
    stack, query, mask = inputs(dtype=dtype)
    query[0, 0], query[2, 0], stack[1, 2, 3] = 0, 0, 0  # a token of the question, one of the padding, and a patch
    query.requires_grad_()
    stack.requires_grad_()
    output, maps = shipped(stack, query, mask)
    assert all(value.isfinite().all() for value in (output, *vars(maps).values()))
    output.float().square().mean().backward()
    assert all(grad.isfinite().all() for grad in (query.grad, stack.grad))
    assert all(parameter.grad.isfinite().all() for parameter in shipped.parameters())
    assert shipped.tokens(query)[0, 0].abs().max() == 0


def test_normalising_adds_no_parameters():
    plain, normalised = (PAIStack(VISION, TEXT, normalize=normalize) for normalize in ([], ["query", "keys"]))
    assert list(normalised.state_dict()) == list(plain.state_dict())


def test_names_are_safe_and_the_buffers_are_none():
    names = [name for name, _ in PAIStack(VISION, TEXT).named_parameters()]
    assert not [name for name in names if "gamma" in name or "beta" in name]
    assert set(PAIStack(VISION, TEXT).state_dict()) == set(names)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"stack": torch.zeros(3, 6, VISION)},
            r"layer stack has the shape \[3, 6, 48\]; .*\[images, layers, patches, 48\]",
        ),
        (
            {"query": torch.zeros(2, 7, TEXT)},
            r"query has the shape \[2, 7, 32\]; it must be \[3, tokens, 32\], one question",
        ),
        ({"mask": torch.ones(3, 8, dtype=torch.bool)}, r"query mask has the shape \[3, 8\]; it must be \[3, 7\]"),
    ],
)
def test_shapes_that_do_not_fit_are_named(change, message):
    stack, query, mask = inputs(dtype=torch.float32)
    sample = {"stack": stack, "query": query, "mask": mask} | change
    with pytest.raises(ValueError, match=message):
        pair(torch.float32)[0](*sample.values())


def test_an_unknown_norm_order_is_refused():
    with pytest.raises(ValueError, match="mm_ccra_norm_order is 'before'; it must be one of pre, post"):
        PAIStack(VISION, TEXT, norm_order="before")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"integration": "serial"}, "mm_ccra_integration is 'serial'; it must be one of pai, decoupled, shuffled"),
        ({"disable": ["lpw"]}, "mm_ccra_disable is 'lpw'; it must be one of lpwca, lwca, pwca; did you mean 'lpwca'"),
        ({"disable": ["lpwca", "lwca", "pwca"]}, "keep one of them, or nothing reads the question"),
        ({"normalize": ["queries"]}, "mm_ccra_normalize is 'queries'; it must be one of query, keys"),
        ({"integration": "shuffled", "disable": ["pwca"]}, "is shuffled, but mm_ccra_disable leaves out pwca"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        PAIStack(VISION, TEXT, **settings)
