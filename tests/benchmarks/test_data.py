"""The data path's benchmark: what it waits for, and that it runs."""

import importlib.util
import re
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "data.py"


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("data_benchmark", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


class Slow:
    """Samples that take a while each, all in the main process (no workers)."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> int:
        time.sleep(0.01)
        return index


def test_waits_are_the_loaders_without_the_steps(benchmark):
    sizes = SimpleNamespace(batch=2, steps=4, workers=0)
    batches = []
    start = time.perf_counter()
    waited = benchmark.waits(Slow(), batches.append, sizes, step=0.05)
    spent = time.perf_counter() - start
    assert batches == [[0, 1], [2, 0], [1, 2], [0, 1], [2, 0]]  # the first one and one per step, over and over
    assert all(wait >= 0.02 for wait in waited)
    assert spent - sum(waited) >= 5 * 0.05


@pytest.mark.slow
def test_it_runs():
    sizes = {"width": 64, "height": 48, "samples": 2, "batch": 2, "repeats": 1, "workers": 1, "rate": 200, "steps": 2}
    flags = [f"--{name}={value}" for name, value in sizes.items()]
    done = subprocess.run([sys.executable, SCRIPT, *flags], capture_output=True, text=True, check=True)
    assert re.search(r"ratio to the stand-in +[\d.]+, pixels equal to the last bit", done.stdout)
    assert re.search(r"loader of 1 workers, 2 batches of 2, 200 samples/s trained", done.stdout)
    assert re.search(r"waited for data +[\d.]+% of the time", done.stdout)
