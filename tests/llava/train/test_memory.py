"""The memory estimate: against measured peaks, and on sizes one can check by hand."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from llava.train.memory import GB, Recipe, Shapes, estimate, mlp_parameters

VICUNA_7B = Shapes(
    hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=32,
    vocab_size=32000, vision_hidden_size=1024, vision_intermediate_size=4096, vision_layers=24, vision_patches=576,
)  # fmt: skip
PAPER = Recipe(
    batch_size=16, sequence_length=2048, projector_parameters=mlp_parameters(VICUNA_7B), zero_stage=2, processes=8
)


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags",
    [
        ["--gradient_checkpointing", "False"],
        ["--gradient_checkpointing", "True", "--bf16", "True"],
        ["--lora_enable", "True", "--lora_r", "16"],
        ["--tune_mm_mlp_adapter", "True", "--bf16", "True"],
    ],
    ids=["full", "checkpointing-bf16", "lora", "stage1-bf16"],
)
def test_estimate_is_just_above_the_measured_peak(flags, assets, tmp_path):
    """Stated error: 0 to 50 percent too much. Large blocks go to the system at once, so that RSS follows tensors."""
    script = Path(__file__).with_name("measure_memory.py")
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path), str(assets / "tokenizer_legacy"), *flags],
        capture_output=True, text=True, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("MEASURED"))[9:])
    assert 1.0 <= result["estimate"] / result["measured"] <= 1.5, result


def test_parameters_of_real_models():
    assert VICUNA_7B.language_parameters == 6_738_415_616
    assert abs(VICUNA_7B.vision_parameters - 303_179_776) < 1_500_000  # CLIP ViT-L/14-336's vision model
    assert mlp_parameters(VICUNA_7B) == 20_979_712
    assert VICUNA_7B.lora_parameters(128) == 319_815_680


def test_the_papers_recipe_fits_its_cards():
    """Table 5: 76 GB a card at the peak, of 80."""
    total = sum(estimate(VICUNA_7B, PAPER).values()) / GB
    assert 45 < total < 80


def test_what_each_setting_does():
    base = estimate(VICUNA_7B, PAPER)
    one = estimate(VICUNA_7B, replace(PAPER, processes=1))
    assert one["optimizer"] == 8 * base["optimizer"]
    third = estimate(VICUNA_7B, replace(PAPER, zero_stage=3))
    assert third["weights that train"] == base["weights that train"] / 8
    assert estimate(VICUNA_7B, replace(PAPER, gradient_checkpointing=False))["activations"] > 5 * base["activations"]
    lora = estimate(VICUNA_7B, replace(PAPER, trains="lora", lora_rank=128))
    assert lora["optimizer"] < base["optimizer"] / 15
    four_bits = estimate(VICUNA_7B, replace(PAPER, trains="lora", base_bits=4))
    assert four_bits["frozen weights"] < lora["frozen weights"] / 3
    stacked = estimate(VICUNA_7B, replace(PAPER, stacked_layers=24))
    assert stacked["vision features"] - base["vision features"] == 23 * 16 * 576 * 1024 * 2
