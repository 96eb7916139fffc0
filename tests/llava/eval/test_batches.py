import pytest
import torch

from llava.eval.batches import BATCHES_IN_WINDOW, Sample, collate, plan_batches
from llava.eval.items import Item


class Lengths:
    """As much of a data set as planning looks at."""

    def __init__(self, lengths: list[int], text_only: set[int]) -> None:
        self.items = [Item({"question_id": i}, "", () if i in text_only else ("a.png",)) for i in range(len(lengths))]
        self.prompt_ids = [torch.zeros(length) for length in lengths]

    def __len__(self) -> int:
        return len(self.items)


def test_batches_hold_neighbours_of_similar_length_and_keep_text_only_apart() -> None:
    plan = plan_batches(Lengths([9, 2, 8, 3, 7, 1], text_only={1, 4}), 2)
    assert plan == [[1, 4], [5, 3], [2, 0]]


def test_batch_size_one_keeps_the_order() -> None:
    assert plan_batches(Lengths([9, 2, 8, 3], text_only={1}), 1) == [[0], [1], [2], [3]]


@pytest.mark.parametrize("batch_size", [2, 3, 8])
def test_every_item_is_planned_once_and_never_far_from_its_place(batch_size: int) -> None:
    count = 3 * BATCHES_IN_WINDOW * batch_size + 1
    dataset = Lengths([i * 7919 % 101 for i in range(count)], text_only=set(range(0, count, 3)))
    plan = plan_batches(dataset, batch_size)
    assert sorted(index for batch in plan for index in batch) == list(range(count))
    assert max(map(len, plan)) == batch_size
    windows = [{index // (BATCHES_IN_WINDOW * batch_size) for index in batch} for batch in plan]
    assert all(len(window) == 1 for window in windows)
    assert [min(window) for window in windows] == sorted(min(window) for window in windows)


def test_collate_pads_on_the_left_and_lines_the_pictures_up() -> None:
    picture = torch.ones(3, 2, 2)
    samples = [
        Sample(torch.tensor([1, -200, 5]), [picture], [(4, 3)], 10),
        Sample(torch.tensor([1, -200, 6, -200, 7]), [picture * 2, picture * 3], [(2, 2), (8, 8)], 20),
    ]
    batch = collate(samples)
    assert batch.input_ids.tolist() == [[0, 0, 1, -200, 5], [1, -200, 6, -200, 7]]
    assert batch.attention_mask.tolist() == [[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]]
    assert batch.images[:, 0, 0, 0].tolist() == [1, 2, 3]
    assert batch.image_sizes == [(4, 3), (2, 2), (8, 8)]
    assert batch.digests == [10, 20]


def test_pictures_of_different_tiling_stay_a_list_and_text_has_none() -> None:
    def sample(*pixels: torch.Tensor) -> Sample:
        return Sample(torch.tensor([1]), list(pixels), [(1, 1)] * len(pixels), 0)

    images = collate([sample(torch.ones(2, 3, 2, 2)), sample(torch.ones(5, 3, 2, 2))]).images
    assert [tuple(image.shape) for image in images] == [(2, 3, 2, 2), (5, 3, 2, 2)]
    batch = collate([sample(), sample()])
    assert batch.images is None
    assert batch.image_sizes is None
