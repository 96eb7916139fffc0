"""Rows that come and go, with the head apart from the embedding or the same weight."""

import pytest
import torch

from llava.model import LlavaConfig, LlavaLlamaForCausalLM
from llava.model.vocabulary import fit_vocabulary


@pytest.fixture(params=[False, True], ids=["untied", "tied"])
def model(request):
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlavaLlamaForCausalLM(LlavaConfig(**sizes, vocab_size=10, tie_word_embeddings=request.param))


def weights(model):
    return model.get_input_embeddings().weight.detach(), model.get_output_embeddings().weight.detach()


def test_new_rows_are_the_mean_of_the_old(model):
    before = [weight.clone() for weight in weights(model)]
    fit_vocabulary(model, 12, 2)
    assert model.config.vocab_size == 12
    for weight, old in zip(weights(model), before, strict=True):
        assert torch.equal(weight[:10], old)
        torch.testing.assert_close(weight[10:], old.mean(dim=0).expand(2, -1))
    embedding, head = weights(model)
    assert (embedding.data_ptr() == head.data_ptr()) is model.config.tie_word_embeddings


def test_a_smaller_vocabulary_keeps_its_rows(model):
    before = [weight.clone() for weight in weights(model)]
    fit_vocabulary(model, 7, 0)
    assert all(torch.equal(weight, old[:7]) for weight, old in zip(weights(model), before, strict=True))


def test_it_comes_back_as_it_was_saved(model, tmp_path):
    fit_vocabulary(model, 12, 2)
    model.save_pretrained(tmp_path)
    again, info = LlavaLlamaForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert all(torch.equal(a, b) for a, b in zip(weights(again), weights(model), strict=True))
    ids = torch.tensor([[1, 11, 3]])
    assert torch.equal(again.eval()(ids).logits, model.eval()(ids).logits)
