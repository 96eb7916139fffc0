"""How layers fall into groups by depth; what becomes of the groups is in test_pai.py, against the reference."""

import pytest
import torch

from ccra_patch.depth_groups import depth_spans, group_shares, mix_groups
from ccra_patch.stack import PlainStack


@pytest.mark.parametrize(
    ("layers", "groups", "sizes"), [(12, 1, [12]), (12, 3, [4, 4, 4]), (24, 5, [4, 5, 5, 5, 5]), (3, 3, [1, 1, 1])]
)
def test_groups_are_neighbours_and_leave_no_layer_out(layers, groups, sizes):
    spans = depth_spans(layers, groups)
    assert [span.stop - span.start for span in spans] == sizes
    assert [index for span in spans for index in range(span.start, span.stop)] == list(range(layers))


def test_each_group_is_averaged_by_itself():
    stack = torch.arange(4.0).reshape(1, 4, 1, 1).expand(1, 4, 2, 3)
    scores = torch.tensor([[0.0, 0.0, -1000.0, 1000.0]])
    mixed = mix_groups(PlainStack(stack), scores, 2)
    assert mixed.shape == (1, 2, 2, 3)
    assert mixed[0, :, 0, 0].tolist() == [0.5, 3.0]
    assert mix_groups(PlainStack(stack), scores[:, :2].repeat(1, 2), 1)[0, 0, 0, 0] == 1.5


def test_shares_add_up():
    scores = torch.tensor([[0.1, 0.2, 0.3, 0.4]]).log() + 5
    torch.testing.assert_close(group_shares(scores, 2), torch.tensor([[0.3, 0.7]]))
    torch.testing.assert_close(group_shares(scores, 1), torch.tensor([[1.0]]))
