"""Dense Connector's three forms against sums written out."""

import pytest
import torch

from ccra_patch.baselines import (
    DenseConnectorDCI,
    DenseConnectorDCISettings,
    DenseConnectorSCI,
    DenseConnectorSTI,
    DenseConnectorSTISettings,
)

B, N, D, TEXT = 2, 9, 6, 8


def features(layers: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(B, N, D), torch.randn(B, layers, N, D)


def test_sti_appends_the_means_of_strips_and_drops_the_rest():
    projector = DenseConnectorSTI(D, TEXT, strip=4)
    selected, layers = features(2)
    shallow, middle = layers.unbind(dim=1)
    pooled = [sum(layer[:, 4 * j + i] for i in range(4)) / 4 for layer in (shallow, middle) for j in (0, 1)]
    expected = torch.cat([selected, torch.stack(pooled, dim=1)], dim=1)  # patch 8 is in no strip
    tokens = projector(selected, layers)
    assert tokens.shape == (B, N + 4, TEXT)
    torch.testing.assert_close(tokens, projector.mlp(expected))


def test_sti_makes_720_tokens_of_576_patches():
    projector = DenseConnectorSTI(D, TEXT)
    assert projector(torch.randn(1, 576, D), torch.randn(1, 2, 576, D)).shape == (1, 720, TEXT)
    assert projector(torch.randn(1, 729, D), torch.randn(1, 2, 729, D)).shape == (1, 911, TEXT)


def test_sti_refuses_a_strip_longer_than_the_picture():
    with pytest.raises(
        ValueError, match=r"mm_dense_connector_sti_strip is 10, but a picture has 9 patches; it must be"
    ):
        DenseConnectorSTI(D, TEXT, strip=10)(*features(2))
    with pytest.raises(
        ValueError, match=r"mm_dense_connector_sti_strip is 0; it must be at least 1 \(the method uses 8"
    ):
        DenseConnectorSTISettings(mm_dense_connector_sti_strip=0).validate()


def test_sci_sets_layers_side_by_side_in_their_order():
    projector = DenseConnectorSCI(D, TEXT, num_layers=2)
    selected, layers = features(2)
    side_by_side = torch.cat([layers[:, 0], layers[:, 1]], dim=-1)
    torch.testing.assert_close(projector(selected, layers), projector.mlp(selected, side_by_side))


def test_dci_averages_consecutive_layers():
    projector = DenseConnectorDCI(D, TEXT, num_groups=2, group_size=3)
    selected, layers = features(6)
    first = (layers[:, 0] + layers[:, 1] + layers[:, 2]) / 3
    second = (layers[:, 3] + layers[:, 4] + layers[:, 5]) / 3
    expected = projector.mlp(selected, torch.cat([first, second], dim=-1))
    torch.testing.assert_close(projector(selected, layers), expected)


@pytest.mark.parametrize(
    ("layers", "size", "message"),
    [
        (
            [1, 2, 3],
            2,
            r"_layers names 3 hidden states; it must be a multiple of mm_dense_connector_dci_group_size, wh",
        ),
        ([1, 1], 2, r"_layers is \[1, 1\]; it must name each hidden state once"),
        ([1, 2], 0, r"_group_size is 0; it must be at least 1 \(1 = each layer by itself\)"),
        ([], 1, r"_layers is \[\]; it must list at least one hidden state"),
    ],
)
def test_groups_that_cannot_be(layers, size, message):
    settings = DenseConnectorDCISettings(mm_dense_connector_dci_layers=layers, mm_dense_connector_dci_group_size=size)
    with pytest.raises(ValueError, match=f"^mm_dense_connector_dci{message}"):
        settings.validate()
