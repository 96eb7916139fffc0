"""config.json for readers of transformers 4: old spellings beside the new ones, the same values to transformers 5."""

import json

import pytest
import torch
from transformers import AutoConfig

from llava.model import LlavaConfig, LlavaMistralConfig, LlavaMptConfig

LLAMA_3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 1024,
}


@pytest.mark.parametrize(
    ("config", "old"),
    [
        (LlavaConfig(), {"rope_theta": 10000.0}),
        (LlavaMistralConfig(rope_theta=1e6), {"rope_theta": 1e6}),
        (
            LlavaConfig(rope_theta=5e5, rope_scaling={"type": "linear", "factor": 2.0}),
            {"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2.0}},
        ),
        (LlavaConfig(rope_theta=5e5, rope_scaling=dict(LLAMA_3)), {"rope_theta": 5e5, "rope_scaling": LLAMA_3}),
        (LlavaMptConfig(dtype=torch.bfloat16), {"torch_dtype": "bfloat16"}),
    ],
)
def test_old_spellings(config, old, tmp_path):
    config.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert {key: saved[key] for key in ("rope_theta", "rope_scaling", "torch_dtype") if key in saved} == old
    again = AutoConfig.from_pretrained(tmp_path)
    assert type(again) is type(config)
    assert getattr(again, "rope_parameters", None) == getattr(config, "rope_parameters", None)
    assert {**again.to_dict(), "_name_or_path": ""} == {**config.to_dict(), "_name_or_path": ""}
