"""Compiled kernels beside the loops of lean.py: numba's on the CPU, Triton's in its interpreter or on a GPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ccra_patch import lean
from ccra_patch.pai import PAIStack

ROOT = Path(__file__).parents[2]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
KERNELS = ("read", "read_backward", "mix", "mix_backward")
SHAPES = [(2, 3, 7, 12), (1, 1, 1, 1), (1, 2, 33, 300), (2, 2, 600, 5)]


def reads(stack, directions, coefficients):
    """What comes of both reads, and of their derivatives."""
    directions, coefficients = (each.clone().requires_grad_() for each in (directions, coefficients))
    reading = lean.read_stack(stack, directions)
    mixed = lean.mix_layers(stack, coefficients)
    generator = torch.Generator().manual_seed(3)
    for output in (reading.products, mixed):
        (output * torch.randn(output.shape, generator=generator).to(stack.device)).sum().backward()
    return reading.products, *reading.moments, mixed, directions.grad, coefficients.grad


def check_reads(library, device, monkeypatch):
    """Kernels and loops agree for every shape and type, and the kernels are what has run."""
    generator = torch.Generator().manual_seed(0)
    kernels, calls = lean._load(library), []
    for name in KERNELS:
        kernel = getattr(kernels, name)
        monkeypatch.setattr(
            kernels, name, lambda *given, name=name, kernel=kernel: calls.append(name) or kernel(*given)
        )
    for images, layers, patches, width in SHAPES:
        for dtype in (torch.float32, torch.bfloat16, torch.float16)[: 3 if library == "triton" else 2]:
            for view in (False, True):
                whole = torch.randn(images, layers, patches + 1, width, generator=generator) + 0.5
                stack = whole.to(device, dtype)[:, :, 1:] if view else whole[:, :, 1:].contiguous().to(device, dtype)
                directions = torch.randn(images, 3, width, generator=generator).to(device)
                coefficients = torch.randn(images, layers, patches, generator=generator).to(device)
                calls.clear()
                monkeypatch.setenv("CCRA_KERNELS", "torch")
                loops = reads(stack, directions, coefficients)
                assert calls == []
                monkeypatch.setenv("CCRA_KERNELS", library)
                ours = reads(stack, directions, coefficients)
                assert calls == ["read", "mix", "read_backward", "mix_backward"]
                for expected, got in zip(loops, ours, strict=True):
                    assert got.dtype == torch.float32
                    torch.testing.assert_close(got, expected, atol=1e-5 * (1 + expected.abs().max().item()), rtol=1e-5)


def check_attention_stack(library, device, monkeypatch):
    """The whole module agrees; shuffled steps read by the loops, a trained tower and float64 do all by them."""
    outputs = []
    given = [torch.randn(2, 3, 9, 24), torch.randn(2, 4, 16), torch.ones(2, 4).bool()]
    given = [each.to(device) for each in given]
    for choice in ("torch", library):
        monkeypatch.setenv("CCRA_KERNELS", choice)
        torch.manual_seed(0)
        module = PAIStack(24, 16, 8).to(device)
        output, maps = module(*given)
        output.square().sum().backward()
        outputs.append([output, *vars(maps).values(), *(parameter.grad for parameter in module.parameters())])
    for expected, got in zip(*outputs, strict=True):
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)

    kernels = lean._load(library)
    for name in ("read", "read_backward"):
        monkeypatch.delattr(kernels, name)
    PAIStack(24, 16, 8, integration="shuffled").to(device)(*given)[0].sum().backward()
    for name in ("mix", "mix_backward"):
        monkeypatch.delattr(kernels, name)
    stack = given[0].clone().requires_grad_()
    module(stack, *given[1:])[0].sum().backward()
    assert stack.grad is not None
    module.double()(given[0].double(), given[1].double(), given[2])[0].sum().backward()


CHECKS = {"reads": check_reads, "attention stack": check_attention_stack}


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("check", CHECKS)
def test_numba_and_loops_agree(check, threads, monkeypatch):
    pytest.importorskip("numba")
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    CHECKS[check]("numba", "cpu", monkeypatch)


def test_threads_do_not_change_what_numba_finds(monkeypatch):
    pytest.importorskip("numba")
    monkeypatch.setenv("CCRA_KERNELS", "numba")
    given = torch.randn(2, 3, 300, 40), torch.randn(2, 3, 40), torch.randn(2, 3, 300)
    found = []
    for threads in (1, 2, 5):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        found.append(reads(*given))
    for other in found[1:]:
        assert all(torch.equal(one, two) for one, two in zip(found[0], other, strict=True))


def test_numbers_that_are_none_stay_so():
    """What a broken tower gives must be seen, not added up to something."""
    stack = torch.ones(1, 1, 3, 40)
    stack[0, 0, 0, 7], stack[0, 0, 1, 7] = torch.nan, torch.inf
    reading = lean.read_stack(stack, torch.ones(1, 1, 40))
    assert reading.products[0, 0, 0].isnan().tolist() == [True, False, False]
    assert reading.products[0, 0, 0].isinf().tolist() == [False, True, False]
    assert lean.mix_layers(stack, torch.ones(1, 1, 3))[0].isfinite().all(dim=-1).tolist() == [False, False, True]


def in_another_process(program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Triton decides once in a process whether it interprets."""
    interpret = {"TRITON_INTERPRET": "1"} if DEVICE == "cpu" else {}
    return subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent)} | interpret | environment,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("check", CHECKS)
def test_triton_and_loops_agree(check):
    pytest.importorskip("triton")
    done = in_another_process(
        "import pytest, test_kernels; "
        f"test_kernels.CHECKS[{check!r}]('triton', {DEVICE!r}, pytest.MonkeyPatch()); print('equal')"
    )
    assert done.stdout.strip() == "equal", done.stderr[-2000:]


def test_a_cpu_takes_numba_unless_told_otherwise(monkeypatch):
    numba = pytest.importorskip("ccra_patch.kernels_numba")
    monkeypatch.delenv("CCRA_KERNELS", raising=False)
    stack = torch.ones(1, 1, 1, 4)
    assert lean.kernels_for(stack) is numba
    assert lean.kernels_for(stack.bfloat16()) is numba
    assert lean.kernels_for(stack.half()) is None
    assert lean.kernels_for(stack.double()) is None
    assert lean.kernels_for(stack.mT) is None
    monkeypatch.setenv("CCRA_KERNELS", "torch")
    assert lean.kernels_for(stack) is None


def test_a_wrong_choice_is_refused(monkeypatch):
    monkeypatch.setenv("CCRA_KERNELS", "tritn")
    message = "CCRA_KERNELS is 'tritn'; it must be one of auto, torch, numba, triton; did you mean 'triton'"
    with pytest.raises(ValueError, match=message):
        lean.mix_layers(torch.ones(1, 1, 1, 1), torch.ones(1, 1, 1))


@pytest.fixture
def _no_libraries(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    for library in ("numba", "triton"):
        monkeypatch.setitem(sys.modules, library, None)
        monkeypatch.delitem(sys.modules, f"ccra_patch.kernels_{library}", raising=False)
    lean._load.cache_clear()
    yield
    lean._load.cache_clear()


@pytest.mark.usefixtures("_no_libraries")
@pytest.mark.parametrize("library", ["numba", "triton"])
def test_without_the_library_it_says_what_to_install(monkeypatch, library):
    monkeypatch.setenv("CCRA_KERNELS", library)
    message = f"CCRA_KERNELS is {library}, which does not work here .*{library}.*; try: pip install {library}"
    with pytest.raises(ValueError, match=message):
        lean.mix_layers(torch.ones(1, 1, 1, 1), torch.ones(1, 1, 1))


@pytest.mark.usefixtures("_no_libraries")
def test_a_cpu_without_numba_takes_the_loops_and_says_so(monkeypatch, caplog):
    monkeypatch.delenv("CCRA_KERNELS", raising=False)
    with caplog.at_level("INFO"):
        assert lean.kernels_for(torch.ones(1, 1, 1, 1)) is None
        assert lean.mix_layers(torch.ones(1, 1, 1, 1), torch.ones(1, 1, 1)).item() == 1
    assert [record.message for record in caplog.records if "numba is faster on a CPU" in record.message]


def test_without_being_asked_for_triton_is_not_imported():
    program = (
        "import sys, torch; from ccra_patch.lean import mix_layers; "
        "mix_layers(torch.ones(1, 1, 1, 1), torch.ones(1, 1, 1)); print('ccra_patch.kernels_triton' in sys.modules)"
    )
    assert in_another_process(program).stdout.strip() == "False"
