"""The whole-model benchmark: what it calculates, and that it runs."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from ccra_patch.pai import PAIStack
from ccra_patch.projector import CCRAProjector

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def overhead():
    spec = importlib.util.spec_from_file_location("overhead", ROOT / "benchmarks" / "overhead.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_parameters_are_the_models(overhead):
    sizes = overhead.Sizes()
    with torch.device("meta"):
        projector = CCRAProjector(1024, 4096)
    _, language = sizes.language_model()
    biases = 2 * 4096  # the calculation leaves those of the MLP out
    assert sizes.ccra().parameters - language == sum(p.numel() for p in projector.parameters()) - biases
    assert language == pytest.approx(6.738e9, rel=1e-3)  # Vicuna-7B, without its norms
    attention = sizes.ccra().parameters - sizes.mlp2x_gelu().parameters - 1024 * 4096
    with torch.device("meta"):
        assert attention == sum(p.numel() for p in PAIStack(1024, 4096).parameters())


def test_matrix_products_are_counted_as_torch_counts_them(overhead):
    """The products with matrices; those with vectors and the element-wise work come on top."""
    sizes = overhead.Sizes(layers=4, patches=50, vision_dim=32, text_dim=64, hidden_dim=16, question=8)
    projector = CCRAProjector(32, 64, 16)
    given = torch.randn(1, 50, 32), torch.randn(1, 4, 50, 32), torch.randn(1, 8, 64), torch.ones(1, 8).bool()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        projector(*given)
    language, _ = sizes.language_model()
    calculated = sizes.ccra().prompt - sizes.tower(4) - language
    assert 0 <= calculated - counter.get_total_flops() < 0.2 * calculated


def test_ccra_costs_one_more_block_of_the_tower_and_little_else(overhead):
    plain, ccra = overhead.Sizes().mlp2x_gelu(), overhead.Sizes().ccra()
    block = overhead.Sizes().tower(1)
    assert block < ccra.prompt - plain.prompt < 2 * block
    assert ccra.training / plain.training < 1.002


def test_it_prints_both_projectors_and_the_calculation():
    small = ["--text-dim", "128", "--depth", "1", "--vision-dim", "64", "--vision-depth", "3", "--side", "2"]
    command = [sys.executable, str(ROOT / "benchmarks" / "overhead.py"), *small, "--repeats", "2", "--tokens", "4"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for row in ("training step", "generation of 16", "prompt, GFLOP", "half of the rounds", "trained parameters, M"):
        assert row in printed
    assert "6,766" in printed
