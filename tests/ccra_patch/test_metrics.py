"""Table 2's metrics against cases worked out by hand, and where their maps come from."""

import math

import pytest
import torch
from reference import VARIANTS, ReferencePAI
from torch import Tensor

from ccra_patch.metrics import COLUMNS, Consistency, consistency
from ccra_patch.pai import PAIStack

LN2, LN3 = math.log(2), math.log(3)

# Two by two patches; the first has its centroid at (0, 0), the last at (1, 1), as (row, column).
CORNER, OPPOSITE = [1.0, 0, 0, 0], [0, 0, 0, 1.0]
TOP, EVEN = [0.5, 0.5, 0, 0], [0.25] * 4

HAND = {
    "two layers that look at opposite corners": (
        {"patches": [CORNER, OPPOSITE], "final": CORNER, "layers": [0.25, 0.75]},
        {
            "js_avg": LN2,  # disjoint
            "cos_avg": 0.0,
            "drift": math.sqrt(2),  # from (0, 0) to (1, 1)
            "std_patch": (0.5 + 0 + 0 + 0.5) / 4,  # 1 and 0 deviate by 1/2
            "js_to_final": LN2 / 2,  # 0 and ln 2
            "cos_to_final": 0.5,
            "tv": 0.5,
            "entropy": 0.25 * math.log(4) + 0.75 * math.log(4 / 3),
        },
    ),
    "three layers that agree": (
        {"patches": [TOP] * 3, "final": TOP, "layers": [1 / 3] * 3},
        {
            "js_avg": 0.0,
            "cos_avg": 1.0,
            "drift": 0.0,
            "std_patch": 0.0,
            "js_to_final": 0.0,
            "cos_to_final": 1.0,
            "tv": 0.0,
            "entropy": LN3,
        },
    ),
    "three layers that widen": (
        {"patches": [CORNER, TOP, EVEN], "final": EVEN, "layers": [0.0, 1.0, 0.0]},
        {
            # mixtures (3/4, 1/4): H = 2 ln 2 - 3/4 ln 3; (3/8, 3/8, 1/8, 1/8): 3 ln 2 - 3/4 ln 3; (5/8, 1/8, 1/8, 1/8)
            "js_avg": (
                (2 * LN2 - 0.75 * LN3 - 0.5 * LN2)
                + (3 * LN2 - 0.75 * LN3 - 1.5 * LN2)
                + (3 * LN2 - 0.625 * math.log(5) - LN2)
            )
            / 3,
            "cos_avg": (1 / math.sqrt(2) + 1 / math.sqrt(2) + 1 / 2) / 3,
            "drift": (0.5 + 0.5) / 2,  # (0, 0), (0, 1/2), (1/2, 1/2)
            # deviations of (1, 1/2, 1/4), (0, 1/2, 1/4) and twice (0, 0, 1/4)
            "std_patch": (math.sqrt(7 / 72) + math.sqrt(1 / 24) + 2 * math.sqrt(1 / 72)) / 4,
            "js_to_final": ((3 * LN2 - 0.625 * math.log(5) - LN2) + (3 * LN2 - 0.75 * LN3 - 1.5 * LN2)) / 3,
            "cos_to_final": (1 / 2 + 1 / math.sqrt(2) + 1) / 3,
            "tv": 2.0,
            "entropy": 0.0,
        },
    ),
}


def of(patches, final, layers) -> Consistency:
    return Consistency.of(*(torch.tensor([each], dtype=torch.float64) for each in (patches, final, layers)))


@pytest.mark.parametrize("case", HAND)
def test_hand_computed_cases(case):
    maps, expected = HAND[case]
    found = {name: value.item() for name, value in vars(of(**maps)).items()}
    assert found == pytest.approx(expected, abs=1e-12)


def test_every_image_is_measured_alone():
    cases = [maps for maps, _ in list(HAND.values())[1:]]
    both = Consistency.of(*(torch.tensor([case[name] for case in cases]) for name in ("patches", "final", "layers")))
    for index, case in enumerate(cases):
        for name, value in vars(of(**case)).items():
            assert getattr(both, name)[index].item() == pytest.approx(value.item(), abs=1e-6)


def test_centroids_span_the_picture_whatever_the_grid():
    for side in (2, 3, 24):
        patches = torch.zeros(1, 2, side * side)
        patches[0, 0, 0] = patches[0, 1, side - 1] = 1  # from the left end of the first row to its right end
        assert Consistency.of(patches, patches[:, 0], torch.ones(1, 2) / 2).drift.item() == pytest.approx(1)


def test_one_layer_has_no_pairs():
    found = of([TOP], EVEN, [1.0])
    assert [name for name, value in vars(found).items() if value.isnan()] == ["js_avg", "cos_avg", "drift"]


def test_a_grid_that_is_no_square_is_refused():
    with pytest.raises(ValueError, match="a map has 3 patches; centroids need a square grid"):
        of([[1.0, 0, 0], [0, 1.0, 0]], [1.0, 0, 0], [0.5, 0.5])


def sample() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    stack = torch.randn(2, 5, 9, 12, generator=generator, dtype=torch.float64)
    query = torch.randn(2, 4, 10, generator=generator, dtype=torch.float64)
    mask = torch.tensor([[True] * 4, [True, True, False, False]])
    return stack, query, mask


@pytest.mark.parametrize("norm_order", ["pre", "post"])
@pytest.mark.parametrize("variant", [name for name in VARIANTS if "lpwca" not in VARIANTS[name].get("disable", ())])
def test_the_maps_are_those_of_the_equations(variant, norm_order):
    torch.manual_seed(0)
    attention = PAIStack(12, 10, 8, norm_order=norm_order, **VARIANTS[variant]).double()
    reference = ReferencePAI(12, 10, 8, norm_order=norm_order, **VARIANTS[variant]).double()
    with torch.no_grad():
        for parameter in attention.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    reference.load_state_dict(attention.state_dict())
    stack, query, mask = sample()
    with torch.no_grad():
        _, maps = attention(stack, query, mask)
        found = consistency(attention, stack, query, maps)
        asked = (reference.tokens(query), maps.alpha)
        _, f_lp = reference.layer_patch_wise(*asked, stack)
        rows = {"F_stack": stack, "LN(F_stack)": reference.lpwca.norm(stack), "F_lp": f_lp}
        for name, features in rows.items():
            patches = reference.layer_patch_scores(*asked, features).softmax(-1)
            layers = reference.layer_wise(*asked, features)[0]["layer_weights"]
            expected = Consistency.of(patches, maps.pwca.softmax(-1), layers)
            for column in COLUMNS:
                torch.testing.assert_close(getattr(found[name], column), getattr(expected, column))
    assert list(found) == list(rows)


def test_as_printed_a_positive_map_leaves_the_normalised_layers_as_they_are():
    """The finding about the norm, in Table 2's terms: under ``post`` the last two rows are the same."""
    for norm_order, differs in (("post", False), ("pre", True)):
        torch.manual_seed(0)
        attention = PAIStack(12, 10, 8, norm_order=norm_order)
        stack, query, mask = sample()
        stack, query = stack.float(), query.float()
        _, maps = attention(stack, query, mask)
        assert maps.lpwca.min() > -1
        found = consistency(attention, stack, query, maps)
        moved = max((getattr(found["F_lp"], c) - getattr(found["LN(F_stack)"], c)).abs().max() for c in COLUMNS)
        assert (moved > 1e-4) == differs


def test_without_lpwca_there_is_no_before_and_after():
    attention = PAIStack(12, 10, 8, disable=["lpwca"]).double()
    stack, query, mask = sample()
    _, maps = attention(stack, query, mask)
    with pytest.raises(ValueError, match="mm_ccra_disable leaves out lpwca; consistency before and after it needs"):
        consistency(attention, stack, query, maps)
