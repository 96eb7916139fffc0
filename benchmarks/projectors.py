"""Time and peak memory of CCRA's attention stack beside its line-by-line reference, mlp2x_gelu and the read bound.

    python benchmarks/projectors.py                      # LLaVA-1.5's sizes, 4 images, one thread
    python benchmarks/projectors.py --images 1 --layers 12 --patches 49 --vision-dim 384 --text-dim 256

    CCRA_KERNELS=torch python benchmarks/projectors.py   # without compiled kernels

The read bound is summing up the layer stack twice, the least that any implementation has to read. Arms take turns,
and of each the fastest run counts: whatever else runs only adds. One thread on a CPU is timed by the processor's clock,
which stands still while other processes have it. Memory is the tensors that one pass holds on top of weights and
inputs, gradients included.
"""

import argparse
import itertools
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks"), str(ROOT / "tests" / "ccra_patch")]

from reference import ReferencePAI  # noqa: E402
from turns import take_turns  # noqa: E402

from ccra_patch.lean import kernels_for  # noqa: E402
from ccra_patch.pai import PAIStack  # noqa: E402
from ccra_patch.settings import INTEGRATIONS, NORM_ORDERS  # noqa: E402

ARMS = ("read bound", "attention stack", "reference", "mlp2x_gelu")
PASSES = ("forward", "forward + backward")
Run = Callable[[], None]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=4, help="B (default 4)")
    parser.add_argument("--layers", type=int, default=24, help="L (default 24)")
    parser.add_argument("--patches", type=int, default=576, help="N (default 576)")
    parser.add_argument("--tokens", type=int, default=32, help="T (default 32)")
    parser.add_argument("--vision-dim", type=int, default=1024, help="d (default 1024)")
    parser.add_argument("--text-dim", type=int, default=4096, help="D (default 4096)")
    parser.add_argument("--hidden-dim", type=int, default=128, help="h (default 128)")
    parser.add_argument("--norm-order", choices=NORM_ORDERS, default="pre")
    parser.add_argument("--integration", choices=INTEGRATIONS, default="pai")
    parser.add_argument("--dtypes", nargs="+", choices=("float32", "bfloat16"), default=["float32", "bfloat16"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=7)
    return parser.parse_args()


def build(arm: str, kind: str, dtype: torch.dtype, sizes: argparse.Namespace) -> Run:
    """One arm's weights and inputs, and the function that makes one pass over them."""
    torch.set_num_threads(sizes.threads)
    torch.manual_seed(0)
    backward = kind == "forward + backward"
    with torch.device(sizes.device):
        stack = torch.randn(sizes.images, sizes.layers, sizes.patches, sizes.vision_dim, dtype=dtype)
        query = torch.randn(sizes.images, sizes.tokens, sizes.text_dim, dtype=dtype).requires_grad_(backward)
        mask = torch.ones(sizes.images, sizes.tokens, dtype=torch.bool)
        torch.set_default_dtype(dtype)
        module, arguments = _module(arm, sizes, stack, query, mask)
        torch.set_default_dtype(torch.float32)

    def run() -> None:
        with torch.set_grad_enabled(backward):
            result = module(*arguments)
            if backward and result is not None:
                (result[0] if isinstance(result, tuple) else result).sum().backward()

    return run


def _module(
    arm: str, sizes: argparse.Namespace, stack: Tensor, query: Tensor, mask: Tensor
) -> tuple[Callable, tuple[Tensor, ...]]:
    settings = {"hidden_dim": sizes.hidden_dim, "norm_order": sizes.norm_order, "integration": sizes.integration}
    match arm:
        case "read bound":
            return _read_twice, (stack,)
        case "attention stack":
            return PAIStack(sizes.vision_dim, sizes.text_dim, **settings), (stack, query, mask)
        case "reference":
            return ReferencePAI(sizes.vision_dim, sizes.text_dim, **settings), (stack, query, mask)
        case "mlp2x_gelu":
            layers = [nn.Linear(sizes.vision_dim, sizes.text_dim), nn.GELU(), nn.Linear(sizes.text_dim, sizes.text_dim)]
            return nn.Sequential(*layers), (stack[:, -1],)
        case _:
            raise ValueError(f"the arm is {arm!r}; it must be one of {', '.join(ARMS)}")


def _read_twice(stack: Tensor) -> None:
    stack.sum(dim=-1)
    stack.sum(dim=-1)


def least_times(dtype: torch.dtype, sizes: argparse.Namespace) -> dict[tuple[str, str], float]:
    """Milliseconds of every arm and pass."""
    runs = {(arm, kind): build(arm, kind, dtype, sizes) for arm in ARMS for kind in PASSES}
    seconds = take_turns(runs, sizes.repeats, sizes.device, sizes.threads)
    return {key: 1000 * min(taken) for key, taken in seconds.items()}


def peak_memory(arm: str, kind: str, dtype: torch.dtype, sizes: argparse.Namespace) -> float:
    """MB of tensors that one pass holds at most, on top of weights and inputs."""
    run = build(arm, kind, dtype, sizes)
    if torch.device(sizes.device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(sizes.device)
        before = torch.cuda.memory_allocated(sizes.device)
        run()
        return (torch.cuda.max_memory_allocated(sizes.device) - before) / 2**20

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    changes = sorted((event["ts"], event["args"]["Bytes"]) for event in events if event["name"] == "[memory]")
    return max(itertools.accumulate((size for _, size in changes), initial=0)) / 2**20


def main() -> None:
    sizes = parse_arguments()
    print(
        f"B={sizes.images} L={sizes.layers} N={sizes.patches} d={sizes.vision_dim} D={sizes.text_dim} "
        f"T={sizes.tokens} h={sizes.hidden_dim}, {sizes.integration}, norm order {sizes.norm_order}, {sizes.device}, "
        f"{sizes.threads} thread(s), fastest of {sizes.repeats}"
    )
    for name in sizes.dtypes:
        dtype = getattr(torch, name)
        times = least_times(dtype, sizes)
        kernels = kernels_for(torch.empty(1, 1, 1, 1, dtype=dtype, device=sizes.device))
        print(f"\n{name} stack, read by {kernels.__name__ if kernels else 'torch operations'}")
        print(f"{'':18}{'pass':20}{'ms':>9}{'x bound':>9}{'x shipped':>11}{'peak MB':>9}")
        for arm in ARMS:
            for kind in PASSES:
                if arm == "read bound" and kind != "forward":
                    continue
                ms = times[arm, kind]
                bound, shipped = ms / times["read bound", "forward"], ms / times["attention stack", kind]
                memory = peak_memory(arm, kind, dtype, sizes)
                print(f"{arm:18}{kind:20}{ms:9.1f}{bound:9.1f}{shipped:11.2f}{memory:9.0f}")


if __name__ == "__main__":
    main()
