"""What is picked out of a model to be saved."""

import json
from types import SimpleNamespace

import pytest
import torch
from transformers import LlamaConfig

from llava.train.checkpoint import (
    count_parameters,
    get_mm_adapter_state_maybe_zero_3,
    get_peft_state_maybe_zero_3,
    get_peft_state_non_lora_maybe_zero_3,
    maybe_zero_3,
    save_config,
)


@pytest.fixture
def named():
    names = ("q.lora_A.weight", "q.lora_B.weight", "q.bias", "norm.bias", "mm_projector.0.weight", "k.weight")
    named = {name: torch.nn.Parameter(torch.full((2,), float(i))) for i, name in enumerate(names)}
    named["k.weight"].requires_grad_(False)
    return named


@pytest.mark.parametrize(
    ("bias", "more"), [("none", set()), ("all", {"q.bias", "norm.bias"}), ("lora_only", {"q.bias"})]
)
def test_biases_of_an_adapter(bias, more, named):
    """``lora_only`` raises in upstream (defect T6)."""
    state = get_peft_state_maybe_zero_3(named.items(), bias)
    assert set(state) == {"q.lora_A.weight", "q.lora_B.weight"} | more
    assert all(torch.equal(value, named[name]) and not value.requires_grad for name, value in state.items())


def test_an_unknown_kind_of_bias(named):
    with pytest.raises(NotImplementedError, match="lora_bias 'some': must be none, all or lora_only"):
        get_peft_state_maybe_zero_3(named.items(), "some")


def test_what_trains_beside_an_adapter(named):
    assert set(get_peft_state_non_lora_maybe_zero_3(named.items())) == {"q.bias", "norm.bias", "mm_projector.0.weight"}
    whole = get_peft_state_non_lora_maybe_zero_3(named.items(), require_grad_only=False)
    assert set(whole) == {name for name in named if "lora_" not in name}
    assert set(get_mm_adapter_state_maybe_zero_3(named.items(), ["mm_projector"])) == {"mm_projector.0.weight"}


def test_a_saved_value_is_a_copy(named):
    value = maybe_zero_3(named["k.weight"])
    value += 1
    assert named["k.weight"][0] == 5


def test_how_training_packed_the_base_is_not_saved(tmp_path):
    config = LlamaConfig(quantization_config={"load_in_4bit": True, "quant_method": "bitsandbytes"})
    save_config(config, tmp_path)
    assert "quantization_config" not in json.loads((tmp_path / "config.json").read_text())
    assert config.quantization_config["load_in_4bit"]  # the model in training goes by it


def test_packed_weights_are_counted_whole():
    layer = torch.nn.Linear(6, 4)
    layer.weight = torch.nn.Parameter(torch.zeros(12, 1, dtype=torch.uint8), requires_grad=False)
    layer.weight.quant_state = SimpleNamespace(shape=torch.Size([4, 6]))  # as bitsandbytes keeps it
    assert count_parameters(layer) == (28, 4)
