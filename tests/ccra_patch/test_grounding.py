"""The loss on LPWCA's scores: what it is, whom it leaves out, and that a question learns from it where to look."""

import math

import pytest
import torch
from einops import repeat

from ccra_patch.grounding import TEMPERATURE, contrast
from ccra_patch.pai import PAIStack

VISION, TEXT, HIDDEN, LAYERS, PATCHES = 24, 16, 8, 3, 5


def batch(rows: int, tokens: int = 4) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A stack whose deeper layers are larger, a query padded right in its first row, and its mask."""
    stack = torch.randn(rows, LAYERS, PATCHES, VISION) * torch.tensor([0.1, 1.0, 3.0])[:, None, None] + 0.5
    mask = torch.ones(rows, tokens, dtype=torch.bool)
    mask[0, 2:] = False
    return stack, torch.randn(rows, tokens, TEXT), mask


def test_the_loss_of_two_rows_is_what_the_docstring_says():
    scores = torch.tensor([[[0.5, 0.1], [0.2, -0.3]], [[0.4, 0.4], [0.9, 0.0]]])
    s = [[math.log(sum(math.exp(w / TEMPERATURE) for w in row)) for row in rows] for rows in scores.tolist()]
    to_pictures = [math.log(math.exp(s[q][0]) + math.exp(s[q][1])) - s[q][q] for q in (0, 1)]
    to_questions = [math.log(math.exp(s[0][p]) + math.exp(s[1][p])) - s[p][p] for p in (0, 1)]
    loss = contrast(scores, torch.eye(2), torch.tensor([True, True]))
    assert loss.item() == pytest.approx((sum(to_pictures) + sum(to_questions)) / 4, rel=1e-5)


def test_rows_that_ask_the_same_or_nothing_are_not_told_apart():
    torch.manual_seed(0)
    scores = torch.randn(5, 5, PATCHES)
    pooled = torch.randn(5, TEXT)
    pooled[3] = pooled[0]
    asked = torch.tensor([True, False, True, True, True])
    loss = contrast(scores, pooled, asked)
    changed = scores.clone()
    changed[1], changed[:, 1], changed[0, 3], changed[3, 0] = 9.0, 9.0, 9.0, 9.0
    assert contrast(changed, pooled, asked) == loss
    changed[0, 2] = 9.0
    assert contrast(changed, pooled, asked) > loss


@pytest.mark.parametrize("asked", [[True], [False], [True, False], [False, False]])
def test_without_two_questions_there_is_nothing_to_learn(asked):
    scores = torch.randn(len(asked), len(asked), PATCHES, requires_grad=True)
    loss = contrast(scores, torch.randn(len(asked), TEXT), torch.tensor(asked))
    loss.backward()
    assert loss == 0
    assert not scores.grad.any()


@pytest.mark.parametrize("normalize", [[], ["query", "keys"]])
@pytest.mark.parametrize("integration", ["pai", "decoupled", "shuffled"])
def test_training_takes_the_scores_that_each_question_would_give_each_picture(integration, normalize):
    torch.manual_seed(0)
    stack, query, mask = batch(4)
    module = PAIStack(VISION, TEXT, HIDDEN, integration=integration, normalize=normalize, grounding=0.3)
    trained, maps = module(stack, query, mask)
    loss = module.lpwca.auxiliary_loss

    del module.lpwca.auxiliary_loss
    module.eval()
    scores = [module(repeat(picture, "... -> q ...", q=4), query, mask)[1].lpwca.mean(dim=1) for picture in stack]
    pooled = torch.einsum("bt,btd->bd", maps.alpha, module.tokens(query))
    expected = 0.3 * contrast(torch.stack(scores, dim=1), pooled, torch.ones(4, dtype=torch.bool))
    torch.testing.assert_close(loss, expected)
    assert "auxiliary_loss" not in vars(module.lpwca)
    # What comes out is not touched by the loss.
    torch.testing.assert_close(module(stack, query, mask)[0], trained)


def test_it_reaches_question_and_keys_of_lpwca_and_token_importance_and_no_one_else():
    torch.manual_seed(0)
    module = PAIStack(VISION, TEXT, HIDDEN, normalize=["query", "keys"], grounding=1.0)
    module(*batch(4))
    module.lpwca.auxiliary_loss.backward()
    reached = {name for name, parameter in module.named_parameters() if parameter.grad is not None}
    assert {name.split(".")[0] for name in reached} == {"lpwca", "importance"}
    for name in ("lpwca.query.weight", "lpwca.key.weight", "importance.score.weight"):
        assert module.get_parameter(name).grad.abs().max() > 1e-6, name


def test_questions_find_what_they_name_by_pictures_and_questions_alone():
    """Every picture shows one of eight things on one patch; a question names it among words that mean nothing."""
    torch.manual_seed(0)
    things, words, fillers = torch.randn(8, VISION), torch.randn(8, TEXT), torch.randn(3, TEXT)
    module = PAIStack(VISION, TEXT, HIDDEN, normalize=["query", "keys"], grounding=1.0)
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-2)

    def draw(rows: int = 8) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        named, place = torch.randperm(8)[:rows], torch.randint(PATCHES, (rows,))
        stack = torch.randn(rows, LAYERS, PATCHES, VISION)
        stack[torch.arange(rows), :, place] += 2 * things[named, None]
        query = torch.cat([repeat(fillers, "t d -> b t d", b=rows), words[named, None]], dim=1)
        return stack, query, place

    everything = torch.ones(8, 4, dtype=torch.bool)
    for _ in range(150):
        stack, query, _ = draw()
        module(stack, query, everything)
        optimizer.zero_grad()
        module.lpwca.auxiliary_loss.backward()
        optimizer.step()

    hits = []
    for _ in range(10):
        stack, query, place = draw()
        # Another thing on the next patch, which the question does not name.
        stack[torch.arange(8), :, (place + 1) % PATCHES] += 2 * things[torch.randint(8, (8,)), None]
        _, maps = module.eval()(stack, query, everything)
        hits.append(maps.lpwca.mean(dim=1).argmax(dim=1) == place)
    assert torch.cat(hits).float().mean() > 0.7  # a map that only finds things: 0.5, chance 0.2
    assert maps.alpha[:, 3].mean() > 0.5  # and it is the name that counts, of four tokens
