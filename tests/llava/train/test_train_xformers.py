"""Memory-efficient attention and FlashAttention under upstream's names: the same numbers, chosen where asked for."""

import runpy
import sys
from pathlib import Path

import pytest
import torch
from transformers import AttentionInterface, LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaPreTrainedModel

from llava.errors import UserError
from llava.train import llama_flash_attn_monkey_patch as flash
from llava.train import llama_xformers_attn_monkey_patch as xformers

TRAINER = str(Path(__file__).parents[3] / "llava" / "train" / "train_xformers.py")


@pytest.fixture
def sdpa_as_it_was():
    before = AttentionInterface._global_mapping["sdpa"]
    yield
    AttentionInterface.register("sdpa", before)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(**sizes, vocab_size=50)).eval()


def test_logits_stay_what_they_are(model, sdpa_as_it_was, monkeypatch):
    ids, mask = torch.tensor([[1, 5, 9, 3], [0, 0, 7, 8]]), torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1]])
    expected = model(ids, attention_mask=mask).logits
    calls = []
    inner = xformers.sdpa_attention_forward
    monkeypatch.setattr(xformers, "sdpa_attention_forward", lambda *a, **k: calls.append(1) or inner(*a, **k))
    xformers.replace_llama_attn_with_xformers_attn()
    torch.testing.assert_close(model(ids, attention_mask=mask).logits[mask.bool()], expected[mask.bool()])
    assert calls == [1]


def test_the_trainer_patches_before_it_trains(sdpa_as_it_was, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [TRAINER, "--output_dir", "out"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(TRAINER, run_name="__main__")
    assert stop.value.code == 2
    assert "--data_path is missing" in capsys.readouterr().err
    assert AttentionInterface._global_mapping["sdpa"] is xformers.xformers_forward


def test_flash_attention_as_the_default(monkeypatch):
    chosen = []
    monkeypatch.setattr(
        LlamaPreTrainedModel,
        "_check_and_adjust_attn_implementation",
        lambda self, wanted, *a, **k: chosen.append(wanted),
    )
    monkeypatch.setattr(flash, "is_flash_attn_2_available", lambda: True)
    flash.replace_llama_attn_with_flash_attn()
    choose = LlamaPreTrainedModel._check_and_adjust_attn_implementation
    choose(None, None, is_init_check=True)
    choose(None, "eager", is_init_check=True)
    assert chosen == ["flash_attention_2", "eager"]


def test_without_flash_attention_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(flash, "is_flash_attn_2_available", lambda: False)
    with pytest.raises(UserError, match="flash-attn is not installed; install it with: pip install flash-attn"):
        flash.replace_llama_attn_with_flash_attn()
