"""The trainer of the words of patches: whose distance it takes, and what the projector wants besides."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from llava.constants import IMAGE_TOKEN_INDEX
from playground.photos.train_on_words import WordsTrainer

PATCHES, WIDTH = 3, 4


@pytest.fixture
def trainer():
    """Two pictures, one with words of 1 on all patches and one without; their variance is given."""
    words = {"a.jpg": torch.ones(PATCHES, WIDTH), "b.jpg": torch.zeros(PATCHES, WIDTH)}
    samples = [{"image": "b.jpg"}, {"image": "a.jpg"}]
    dataset = SimpleNamespace(list_data_dict=samples)
    return SimpleNamespace(train_dataset=dataset, words=words, variance=torch.tensor(0.5))


def model_that_says(embeds: torch.Tensor) -> SimpleNamespace:
    inner = SimpleNamespace(mm_projector=nn.Identity())
    return SimpleNamespace(
        prepare_inputs_labels_for_multimodal=lambda *args: (None, None, None, None, embeds, None),
        get_model=lambda: inner,
    )


def inputs() -> dict:
    """Sample 1, ``a.jpg``, whose picture comes second, and sample 0, whose picture comes first."""
    ids = torch.tensor([[5, IMAGE_TOKEN_INDEX, 6], [IMAGE_TOKEN_INDEX, 7, 8]])
    return {"indices": [1, 0], "input_ids": ids, "attention_mask": None, "labels": None, "images": None}


def test_image_tokens_that_are_their_patches_words_cost_nothing(trainer):
    embeds = torch.full((2, 2 + PATCHES, WIDTH), 9.0)  # what stands around the picture does not count
    embeds[0, 1 : 1 + PATCHES], embeds[1, :PATCHES] = 1.0, 0.0
    assert WordsTrainer.compute_loss(trainer, model_that_says(embeds), inputs()) == 0


def test_the_distance_is_in_the_words_variance_and_the_projectors_own_loss_comes_on_top(trainer):
    embeds = torch.zeros(2, 2 + PATCHES, WIDTH)
    embeds[0, 1 : 1 + PATCHES] = 3.0  # 2 away from its words, the other row not at all
    model = model_that_says(embeds)
    assert WordsTrainer.compute_loss(trainer, model, inputs()).item() == pytest.approx((2**2 / 2) / 0.5)
    model.get_model().mm_projector.auxiliary_loss = torch.tensor(0.25)
    assert WordsTrainer.compute_loss(trainer, model, inputs()).item() == pytest.approx((2**2 / 2) / 0.5 + 0.25)
