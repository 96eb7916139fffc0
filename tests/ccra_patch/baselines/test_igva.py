"""IGVA against its formulas written out, its empty question, and the loss that it adds in training."""

import math

import pytest
import torch
from torch.nn import functional as F

from ccra_patch.baselines import IGVA, IGVASettings

B, K, SIZE, N, T, D, TEXT, HIDDEN, HEADS = 2, 2, 3, 9, 4, 6, 8, 12, 4


def build(**changes) -> IGVA:
    torch.manual_seed(0)
    return IGVA(D, TEXT, **({"num_groups": K, "group_size": SIZE, "hidden_dim": HIDDEN, "heads": HEADS} | changes))


def inputs(dtype=torch.float32) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "features": torch.randn(B, N, D, generator=generator).to(dtype),
        "layers": torch.randn(B, K * SIZE, 1 + N, D, generator=generator).to(dtype),
        "query": torch.randn(B, T, TEXT, generator=generator).to(dtype),
        "query_mask": torch.tensor([[True, True, True, True], [False, True, True, False]]),
    }


def attend(attention: torch.nn.MultiheadAttention, query: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """Four heads of ``softmax(q k^T / sqrt(width)) v`` for one query ``[h]`` over keys ``[K, h]``."""
    to_query, to_key, to_value = attention.in_proj_weight.chunk(3)
    of_query, of_key, of_value = attention.in_proj_bias.chunk(3)
    q, k, v = to_query @ query + of_query, keys @ to_key.T + of_key, keys @ to_value.T + of_value
    width = HIDDEN // HEADS
    heads = []
    for part in (slice(i * width, (i + 1) * width) for i in range(HEADS)):
        heads.append((k[:, part] @ q[part] / math.sqrt(width)).softmax(dim=0) @ v[:, part])
    return attention.out_proj.weight @ torch.cat(heads) + attention.out_proj.bias


def weights_by_hand(aggregator, question: torch.Tensor, class_tokens: torch.Tensor) -> torch.Tensor:
    x = aggregator.question.weight @ question + aggregator.question.bias
    groups = class_tokens @ aggregator.class_token.weight.T + aggregator.class_token.bias
    for block in aggregator.blocks:
        norm, last = block.attention_norm, block.norm
        x = F.layer_norm(x + attend(block.attention, x, groups), (HIDDEN,), norm.weight, norm.bias)
        inner = F.relu(block.wide.weight @ x + block.wide.bias)
        x = F.layer_norm(x + block.narrow.weight @ inner + block.narrow.bias, (HIDDEN,), last.weight, last.bias)
    return (aggregator.score.weight @ x + aggregator.score.bias).softmax(dim=0)


def test_it_is_its_formulas():
    projector, given = build().double(), inputs(torch.float64)
    expected = []
    for i in range(B):
        question = given["query"][i][given["query_mask"][i]].mean(dim=0)
        groups = [given["layers"][i, k * SIZE : (k + 1) * SIZE].sum(dim=0) / SIZE for k in range(K)]
        weights = weights_by_hand(projector.aggregator, question, torch.stack([group[0] for group in groups]))
        assert not torch.allclose(weights, torch.full_like(weights, 1 / K), atol=1e-3)
        fused = sum(weight * group[1:] for weight, group in zip(weights, groups, strict=True))
        expected.append(projector.mlp(given["features"][i], fused))
    torch.testing.assert_close(projector(**given), torch.stack(expected), rtol=0, atol=1e-10)


def test_the_question_changes_what_is_seen_and_its_padding_does_not():
    projector, given = build(), inputs()
    tokens = projector(**given)
    padding = ~given["query_mask"]
    torch.testing.assert_close(projector(**given | {"query": given["query"] + 100 * padding[:, :, None]}), tokens)
    assert not torch.allclose(projector(**given | {"query": given["query"] + 1}), tokens, atol=1e-4)


def test_an_empty_question_is_zeros():
    projector, given = build(), inputs()
    nothing = torch.zeros_like(given["query_mask"])
    tokens = projector(**given | {"query_mask": nothing})
    assert tokens.isfinite().all()
    torch.testing.assert_close(tokens, projector(**given | {"query": torch.zeros_like(given["query"])}))


def test_the_average_reads_no_question():
    projector, given = build(average=True), inputs()
    mean = given["layers"][:, :, 1:].mean(dim=1)
    torch.testing.assert_close(projector(given["features"], given["layers"]), projector.mlp(given["features"], mean))
    assert "auxiliary_loss" not in vars(projector.train())
    with pytest.raises(ValueError, match="igva reads the question; pass query and query_mask"):
        build()(given["features"], given["layers"])


class TestBalance:
    def test_even_weights_are_the_least_loss(self):
        projector, given = build(), inputs()
        torch.nn.init.zeros_(projector.aggregator.score.weight)
        torch.nn.init.zeros_(projector.aggregator.score.bias)
        projector(**given)
        assert projector.auxiliary_loss.item() == pytest.approx(-0.02 * math.log(K))

    def test_it_is_the_mean_over_the_images(self):
        projector, given = build(balance=0.5), inputs()
        projector(**given)
        class_tokens = given["layers"][:, :, 0]
        weights = projector.group_weights(class_tokens, given["query"], given["query_mask"])
        entropies = [-sum(w * math.log(w) for w in row) for row in weights.tolist()]
        assert projector.auxiliary_loss.item() == pytest.approx(-0.5 * sum(entropies) / B, rel=1e-5)

    def test_it_reaches_the_aggregator(self):
        projector = build()
        projector(**inputs())
        projector.auxiliary_loss.backward()
        assert projector.aggregator.question.weight.grad.any()

    def test_there_is_none_without_training_or_weight(self):
        for projector in (build().eval(), build(balance=0.0)):
            projector(**inputs())
            assert "auxiliary_loss" not in vars(projector)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mm_igva_heads": 3}, r"^mm_igva_heads is 3; it must divide mm_igva_hidden_dim, which is 1024$"),
        ({"mm_igva_balance": -1.0}, r"^mm_igva_balance is -1\.0; .*at least 0 \(the method uses 0\.02\)$"),
        ({"mm_igva_balance": math.nan}, r"^mm_igva_balance is nan; it must be a finite number"),
        (
            {"mm_igva_group_size": 5},
            r"^mm_igva_layers names 24 hidden states; it must be a multiple of mm_igva_group_s",
        ),
        ({"mm_igva_query": "all"}, r"^mm_igva_query is 'all'; it must be one of human, first, last"),
        (
            {"mm_igva_average": True, "mm_igva_text_encoder": "mpnet"},
            r"^mm_igva_text_encoder is 'mpnet', but mm_igva_average does not read the question; drop one of them$",
        ),
        ({"mm_igva_blocks": 0}, r"^mm_igva_blocks is 0; it must be at least 1 \(the method uses 4\)$"),
    ],
)
def test_settings_that_cannot_be(changes, message):
    with pytest.raises(ValueError, match=message):
        IGVASettings(**changes).validate()
