"""Timing of things that are compared: they take turns, so that whatever else runs on the machine meets all of them."""

import time
from collections.abc import Callable, Hashable
from typing import TypeVar

import torch

K = TypeVar("K", bound=Hashable)


def take_turns(
    runs: dict[K, Callable[[], object]], repeats: int, device: str = "cpu", threads: int = 1
) -> dict[K, list[float]]:
    """Seconds of ``repeats`` rounds of all runs, after one round that warms up; every other round goes backwards.

    One thread on a CPU is timed by the processor's clock, which stands still while other processes have it; more
    threads, and a GPU, by the clock on the wall.
    """
    clock = time.process_time if device == "cpu" and threads == 1 else time.perf_counter
    seconds: dict[K, list[float]] = {key: [] for key in runs}
    for turn in range(repeats + 1):
        for key in list(runs)[:: 1 if turn % 2 else -1]:
            start = clock()
            runs[key]()
            if device != "cpu":
                torch.cuda.synchronize()
            seconds[key].append(clock() - start)
    return {key: taken[1:] for key, taken in seconds.items()}
