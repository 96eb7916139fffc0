import json
from itertools import chain
from pathlib import Path

import pytest
import torch

from llava.errors import UserError
from llava.train.sampler import (
    LengthGroupedSampler,
    get_length_grouped_indices,
    get_modality_length_grouped_indices,
    split_to_even_chunks,
)


@pytest.fixture(scope="module")
def recorded(goldens: Path) -> dict:
    return json.loads((goldens / "sampler.json").read_text())


def run_case(function, lengths: list[int], case: dict) -> list[int]:
    torch.manual_seed(case["global_seed"])
    seed = case["generator_seed"]
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    return function(lengths, case["batch_size"], case["world_size"], generator=generator)


def test_chunks_equal_upstream(recorded):
    for case in recorded["chunks"]:
        assert split_to_even_chunks(case["indices"], case["lengths"], case["num_chunks"]) == case["out"]


def test_length_grouping_equals_upstream(recorded):
    for case in recorded["plain"]:
        lengths = [abs(length) for length in recorded["lengths"][case["lengths"]]]
        assert run_case(get_length_grouped_indices, lengths, case) == case["indices"], case


def test_modality_grouping_equals_upstream(recorded):
    for case in recorded["modality"]:
        lengths = recorded["lengths"][case["lengths"]]
        assert run_case(get_modality_length_grouped_indices, lengths, case) == case["indices"], case


def test_sampler_equals_upstream_and_reshuffles_every_epoch(recorded):
    lengths = recorded["lengths"]["mixed50"]
    torch.manual_seed(1)
    sampler = LengthGroupedSampler(4, 2, lengths=lengths, group_by_modality=True)
    assert [list(sampler), list(sampler)] == recorded["LengthGroupedSampler_modality_seed1_two_epochs"]
    torch.manual_seed(1)
    sampler = LengthGroupedSampler(4, 2, lengths=[abs(length) for length in lengths])
    assert list(sampler) == recorded["LengthGroupedSampler_plain_seed1"]
    assert len(sampler) == 50


def test_unmerged_groups_are_the_megabatches():
    lengths = list(range(1, 12))
    torch.manual_seed(0)
    groups = get_length_grouped_indices(lengths, 2, 2, merge=False)
    assert [len(group) for group in groups] == [4, 4, 3]
    torch.manual_seed(0)
    assert list(chain.from_iterable(groups)) == get_length_grouped_indices(lengths, 2, 2)


def test_full_megabatches_hold_one_modality(recorded):
    lengths = recorded["lengths"]["mixed50"]
    torch.manual_seed(3)
    order = get_modality_length_grouped_indices(lengths, 2, 2)
    assert sorted(order) == list(range(50))
    image_samples = sum(length > 0 for length in lengths)
    pure = (image_samples - 1) // 4 + (50 - image_samples - 1) // 4
    for start in range(0, pure * 4, 4):
        assert len({lengths[index] > 0 for index in order[start : start + 4]}) == 1


def test_no_samples_is_no_order():
    assert get_modality_length_grouped_indices([], 2, 2) == []


def test_zero_length_names_the_sample():
    with pytest.raises(UserError, match=r"sample 2 has length 0; a length must be positive \(with image\) or negative"):
        get_modality_length_grouped_indices([3, -1, 0, 5], 1, 1)


def test_missing_lengths_are_refused():
    with pytest.raises(UserError, match="lengths is None; grouping by length needs one length per sample"):
        LengthGroupedSampler(2, 1)
