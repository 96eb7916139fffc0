"""The merge as a plan: where vectors stand, how copies get in between, cutting and padding."""

import pytest
import torch

from llava.constants import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from llava.model.merge import ImageSlots, Layout, lay_out, pack

IMAGE = IMAGE_TOKEN_INDEX
PAD = 0


def plan(rows: list[list[int]], block_lengths: list[int]) -> Layout:
    """Rows of ids, 0 is padding. Token i of row r is the vector [r, i], feature j of block b is [100 + b, j]."""
    ids = torch.tensor(rows)
    valid = ids != PAD
    tokens = torch.stack(torch.meshgrid(torch.arange(len(rows)), torch.arange(ids.shape[1]), indexing="ij"), dim=-1)
    blocks = [torch.tensor([[100 + b, j] for j in range(n)]).float().view(n, 2) for b, n in enumerate(block_lengths)]
    patches = [torch.arange(n) for n in block_lengths]
    slots = ImageSlots.assign(valid & (ids == IMAGE), len(blocks))
    return lay_out(tokens.float(), ids, valid, blocks, patches, slots)


def shown(layout: Layout) -> list[list[tuple[int, int]]]:
    """What stands in every row, by the names of :func:`plan`."""
    rows = layout.vectors[layout.source].int().tolist()
    real = (layout.source != layout.nothing).tolist()
    return [[tuple(v) for v, r in zip(row, mask, strict=True) if r] for row, mask in zip(rows, real, strict=True)]


def labels_like(rows: list[list[int]]) -> torch.Tensor:
    """Labels that name their place: 10 times the row, plus the column."""
    return torch.arange(len(rows)).unsqueeze(1) * 10 + torch.arange(len(rows[0]))


def test_blocks_take_the_place_of_their_images():
    layout = plan([[5, IMAGE, 6, PAD], [PAD, 7, 8, PAD], [IMAGE, 9, IMAGE, 4]], [2, 3, 0, 1])
    assert shown(layout) == [
        [(0, 0), (100, 0), (100, 1), (0, 2)],
        [(1, 1), (1, 2)],
        [(2, 1), (103, 0), (2, 3)],
    ]
    assert layout.is_image.tolist() == [[False, True, True, False], [False] * 4, [False, True, False, False]]


def test_values_of_tokens_go_where_the_tokens_are():
    rows = [[5, IMAGE, 6, PAD], [PAD, 7, 8, 9]]
    layout = plan(rows, [2, 1])
    assert layout.of_tokens(labels_like(rows)).tolist() == [[0, 0, 0, 2], [11, 12, 13, 0]]


def test_copies_follow_their_places_in_the_order_given():
    layout = plan([[5, IMAGE, 6], [7, 8, PAD]], [2, 1])
    copies = torch.tensor([[2, 0, 2, 0], [3, 4, 4, 4]])  # the first three vectors are row 0's tokens
    behind = torch.tensor([[2, 2, 0, -1], [-1, 1, 0, -1]])
    merged = layout.with_copies(copies, behind)
    assert shown(merged) == [
        [(0, 0), (0, 2), (100, 0), (100, 1), (0, 2), (0, 0), (0, 2)],
        [(1, 0), (1, 1), (1, 1), (1, 1)],
    ]
    assert merged.copied[0].nonzero().flatten().tolist() == [1, 4, 5]
    assert merged.copied[1].nonzero().flatten().tolist() == [1, 3]


def test_no_copies_no_change():
    rows = [[5, IMAGE, 6, 3], [7, 8, PAD, PAD]]
    layout = plan(rows, [2, 1])
    same = layout.with_copies(torch.zeros(2, 3, dtype=torch.long), torch.full((2, 3), -1))
    for one, other in zip(*(vars(each.arrange(labels_like(rows))).values() for each in (layout, same)), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("side", ["right", "left"])
def test_arranged_rows_are_cut_padded_and_labelled(side):
    rows = [[5, IMAGE, 6, 3], [7, 8, PAD, PAD]]
    layout = plan(rows, [2, 1])
    layout = layout.with_copies(torch.tensor([[0], [4]]), torch.tensor([[1], [1]]))
    merged = layout.arrange(labels_like(rows), max_length=5, padding_side=side)
    full = [(0, 0), (100, 0), (0, 0), (100, 1), (0, 2)]
    short, nothing = [(1, 0), (1, 1), (1, 0)], [(0, 0)] * 2
    assert merged.inputs_embeds.int().tolist() == [
        [list(v) for v in full],
        [list(v) for v in (nothing + short if side == "left" else short + nothing)],
    ]
    none = IGNORE_INDEX
    assert merged.labels.tolist() == [
        [0, none, none, none, 2],
        [none, none, 10, 11, none] if side == "left" else [10, 11, none, none, none],
    ]
    lengths = [5, 3]
    for row, length in enumerate(lengths):
        place = slice(5 - length, 5) if side == "left" else slice(0, length)
        assert merged.valid[row].nonzero().flatten().tolist() == list(range(5))[place]
        assert merged.position_ids[row, place].tolist() == list(range(length))


def test_gradients_reach_everything_that_stands_somewhere_and_nothing_from_padding():
    layout = plan([[5, IMAGE, 6], [7, 8, PAD]], [2, 1])
    vectors = layout.vectors.clone().requires_grad_()
    layout = Layout(vectors, layout.patch, layout.source, layout.copied, layout.num_tokens)
    layout = layout.with_copies(torch.tensor([[2, 2], [3, 3]]), torch.tensor([[1, 1], [-1, -1]]))
    layout.arrange(torch.zeros(2, 3, dtype=torch.long)).inputs_embeds.sum().backward()
    # tokens 5, <image>, 6, 7, 8, padding; features of block 0; the unused block; the zero vector
    assert vectors.grad[:, 0].tolist() == [1, 0, 3, 1, 1, 0, 1, 1, 0, 0]


def test_pack():
    places, real = pack(torch.tensor([[False, True, True], [True, False, False], [False, False, False]]))
    assert places[real].tolist() == [1, 2, 0]
    assert real.tolist() == [[True, True], [True, False], [False, False]]
    assert pack(torch.zeros(2, 3, dtype=torch.bool))[1].tolist() == [[False], [False]]
