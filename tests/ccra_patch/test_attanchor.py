"""AttAnchor's settings, its matching, and where turns end."""

import math

import pytest
import torch

from ccra_patch.attanchor import AttAnchorSettings, best_matches, turn_ends


def settings(**given) -> AttAnchorSettings:
    return AttAnchorSettings(**{f"mm_attanchor_{name}": value for name, value in given.items()})


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"direction": "text_into_image"},
        {"direction": "image_into_text", "tau": 1, "think_tokens": 8, "think_token": "<pause>", "query": "last"},
        {"direction": "text_into_image", "tau": -1.0},
    ],
)
def test_settings_that_work(given):
    settings(**given).validate()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"direction": "text_to_image"},
            r"mm_attanchor_direction is 'text_to_image'; it must be one of off, .*; did you mean 'text_into_image'\?",
        ),
        ({"direction": "image_into_text", "query": "all"}, r"mm_attanchor_query is 'all'; it must be one of human"),
        ({"tau": 1.5}, r"mm_attanchor_tau is 1\.5; a cosine similarity must be a number from -1 to 1"),
        ({"tau": math.nan}, r"mm_attanchor_tau is nan"),
        ({"tau": "0.1"}, r"mm_attanchor_tau is '0\.1'; a cosine"),
        ({"think_tokens": -1}, r"mm_attanchor_think_tokens is -1; it must be a whole number of at least 0"),
        ({"think_tokens": 2.0}, r"mm_attanchor_think_tokens is 2\.0; it must be a whole number"),
        ({"think_token": ""}, r"mm_attanchor_think_token is empty; give a text"),
        (
            {"tau": 0.2},
            r"mm_attanchor_tau is 0\.2, but mm_attanchor_direction is off; set it to text_into_image or image_into_",
        ),
        ({"query": "last"}, r"mm_attanchor_query is 'last', but mm_attanchor_direction is off"),
        (
            {"direction": "text_into_image", "think_tokens": 4},
            r"mm_attanchor_think_tokens is 4, but mm_attanchor_direction is text_into_image; think mode belongs to",
        ),
    ],
)
def test_settings_that_cannot_be(given, message):
    with pytest.raises(ValueError, match=message) as error:
        settings(**given).validate()
    assert "\n" not in str(error.value)


def test_each_finds_its_nearest_by_angle_not_by_length():
    texts = torch.tensor([[[1.0, 0.1], [0.0, -3.0]]])
    images = torch.tensor([[[100.0, 100.0], [0.5, 0.0], [0.1, -0.2]]])
    similarity, index = best_matches(texts, images, torch.ones(1, 3, dtype=torch.bool))
    assert index.tolist() == [[1, 2]]
    torch.testing.assert_close(similarity, torch.tensor([[1 / math.hypot(1, 0.1), 0.2 / math.hypot(0.1, 0.2)]]))


def test_masked_ones_are_not_found_and_the_first_of_equals_is():
    texts = torch.tensor([[[1.0, 0.0]]]).repeat(3, 1, 1)
    images = torch.tensor([[1.0, 0.0], [1.0, 1.0], [2.0, 2.0]]).repeat(3, 1, 1)
    mask = torch.tensor([[True, True, True], [False, True, True], [False, False, False]])
    similarity, index = best_matches(texts, images, mask)
    assert index[:2].tolist() == [[0], [1]]
    assert similarity.flatten().tolist() == pytest.approx([1, math.sqrt(0.5), -math.inf])


def test_zero_vectors_are_like_nothing():
    zero, one = torch.zeros(1, 1, 4), torch.ones(1, 1, 4)
    there = torch.ones(1, 1, dtype=torch.bool)
    for texts, images in ((zero, one), (one, zero), (zero, zero)):
        assert best_matches(texts, images, there)[0].item() == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_similarity_is_float32_even_under_autocast(dtype):
    random = torch.Generator().manual_seed(0)
    texts, images = (torch.randn(2, n, 64, generator=random).to(dtype) for n in (5, 7))
    there = torch.ones(2, 7, dtype=torch.bool)
    expected = best_matches(texts.float(), images.float(), there)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        similarity, index = best_matches(texts, images, there)
    assert similarity.dtype == torch.float32
    assert torch.equal(similarity, expected[0])
    assert torch.equal(index, expected[1])


def test_long_half_precision_vectors_do_not_overflow():
    texts = torch.full((1, 1, 4096), 300.0, dtype=torch.float16)
    similarity, _ = best_matches(texts, -texts, torch.ones(1, 1, dtype=torch.bool))
    assert similarity.item() == pytest.approx(-1)


def test_matching_leaves_no_trace_for_backward():
    texts = torch.randn(1, 2, 4, requires_grad=True)
    assert not best_matches(texts, texts, torch.ones(1, 2, dtype=torch.bool))[0].requires_grad


def test_a_turn_ends_at_its_last_question_token():
    turns = torch.tensor([[0, 1, 0, 1, 0, 0, 3, 3, 0], [2, 0, 0, 0, 4, 4, 5, 0, 6], [0] * 9])
    ends = [row.nonzero().flatten().tolist() for row in turn_ends(turns)]
    assert ends == [[3, 7], [0, 5, 6, 8], []]
