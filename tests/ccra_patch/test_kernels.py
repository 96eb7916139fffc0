"""Triton's kernels beside the loops of lean.py, in Triton's interpreter (or on a GPU, where there is one)."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ccra_patch import lean

ROOT = Path(__file__).parents[2]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def in_another_process(program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Triton decides once in a process whether it interprets."""
    interpret = {"TRITON_INTERPRET": "1"} if DEVICE == "cpu" else {}
    return subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | interpret | environment,
        capture_output=True,
        text=True,
    )


PARITY = f"""
import os
import torch
from ccra_patch import kernels, lean

device, calls = "{DEVICE}", []
for name in ("read", "read_backward", "mix", "mix_backward"):
    kernel = getattr(kernels, name)
    setattr(kernels, name, lambda *given, name=name, kernel=kernel: calls.append(name) or kernel(*given))

def results(stack, directions, coefficients, choice):
    os.environ["CCRA_KERNELS"] = choice
    directions, coefficients = (each.clone().requires_grad_() for each in (directions, coefficients))
    reading = lean.read_stack(stack, directions)
    mixed = lean.mix_layers(stack, coefficients)
    generator = torch.Generator().manual_seed(3)
    for output in (reading.products, mixed):
        (output * torch.randn(output.shape, generator=generator).to(device)).sum().backward()
    return reading.products, *reading.moments, mixed, directions.grad, coefficients.grad

generator = torch.Generator().manual_seed(0)
for shape in [(2, 3, 7, 12), (1, 1, 1, 1), (1, 2, 33, 300)]:
    images, layers, patches, width = shape
    for dtype in (torch.float32, torch.bfloat16):
        for view in (False, True):
            whole = torch.randn(images, layers, patches + 1, width, generator=generator) + 0.5
            stack = whole.to(device, dtype)[:, :, 1:] if view else whole[:, :, 1:].contiguous().to(device, dtype)
            directions = torch.randn(images, 3, width, generator=generator).to(device)
            coefficients = torch.randn(images, layers, patches, generator=generator).to(device)
            calls.clear()
            loops = results(stack, directions, coefficients, "torch")
            assert calls == []
            ours = results(stack, directions, coefficients, "triton")
            assert calls == ["read", "mix", "read_backward", "mix_backward"]
            for expected, got in zip(loops, ours, strict=True):
                assert got.dtype == torch.float32
                torch.testing.assert_close(got, expected, atol=1e-5 * (1 + expected.abs().max().item()), rtol=1e-5)
print("equal")
"""

WHOLE = f"""
import os
import torch
from ccra_patch.pai import PAIStack

outputs = []
for choice in ("torch", "triton"):
    os.environ["CCRA_KERNELS"] = choice
    torch.manual_seed(0)
    module = PAIStack(24, 16, 8).to("{DEVICE}")
    given = torch.randn(2, 3, 9, 24), torch.randn(2, 4, 16), torch.ones(2, 4).bool()
    output, maps = module(*(each.to("{DEVICE}") for each in given))
    output.square().sum().backward()
    outputs.append([output, *vars(maps).values(), *(parameter.grad for parameter in module.parameters())])
for expected, got in zip(*outputs, strict=True):
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)

os.environ["CCRA_KERNELS"] = "triton"  # a trained tower, shuffled steps and float64 take the loops
stack = given[0].to("{DEVICE}").requires_grad_()
module(stack, *(each.to("{DEVICE}") for each in given[1:]))[0].sum().backward()
assert stack.grad is not None
PAIStack(24, 16, 8, integration="shuffled").double()(given[0].double(), given[1].double(), given[2])[0].sum().backward()
print("equal")
"""


@pytest.mark.parametrize("program", [PARITY, WHOLE], ids=["reads", "attention stack"])
def test_kernels_and_loops_agree(program):
    pytest.importorskip("triton")
    done = in_another_process(program)
    assert done.stdout.strip() == "equal", done.stderr[-2000:]


def test_a_wrong_choice_is_refused(monkeypatch):
    monkeypatch.setenv("CCRA_KERNELS", "tritn")
    with pytest.raises(ValueError, match="CCRA_KERNELS is 'tritn'; it must be one of torch, triton; did you mean 'tri"):
        lean.mix_layers(torch.ones(1, 1, 1, 1), torch.ones(1, 1, 1))


def test_without_triton_it_says_what_to_install(monkeypatch):
    monkeypatch.setenv("CCRA_KERNELS", "triton")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "ccra_patch.kernels", raising=False)
    monkeypatch.delattr("ccra_patch.kernels", raising=False)
    with pytest.raises(ValueError, match="CCRA_KERNELS is triton, which is not installed; run: pip install triton"):
        lean.mix_layers(torch.ones(1, 1, 1, 1), torch.ones(1, 1, 1))


def test_without_being_asked_for_triton_is_not_imported():
    program = (
        "import sys, torch; from ccra_patch.lean import mix_layers; "
        "mix_layers(torch.ones(1, 1, 1, 1), torch.ones(1, 1, 1)); print('ccra_patch.kernels' in sys.modules)"
    )
    assert in_another_process(program).stdout.strip() == "False"
