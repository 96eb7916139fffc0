"""``--dry_run``: one real step and one whole save, what they cost, and then nothing of it is left."""

import shutil
from pathlib import Path
from typing import Any

import torch

FOLDER = ".dry_run"
GB = 10**9


def settle(training_args: Any) -> None:
    """Turn the arguments of a run into those of its dry run: one step, into a folder of its own inside the output.

    What the run itself would do is still checked against the output folder, which is left as it was.
    """
    training_args.max_steps = 1
    training_args.save_strategy = "no"
    training_args.eval_strategy = "no"
    training_args.load_best_model_at_end = False
    training_args.report_to = []
    training_args.output_dir = str(Path(training_args.output_dir, FOLDER))


def report(trainer: Any, seconds: float) -> str:
    """Memory, time and disk of the step and the save that were made."""
    written = sum(file.stat().st_size for file in Path(trainer.args.output_dir).rglob("*") if file.is_file())
    samples = trainer.args.train_batch_size * trainer.args.gradient_accumulation_steps
    return (
        f"dry run: one step of {samples} samples a device took {seconds:.1f} s (the first is the slowest), "
        f"{peak_memory()}; the save wrote {written / GB:.2f} GB; everything is removed again"
    )


def peak_memory() -> str:
    """The most memory this process has held, on its GPU if it has one."""
    if torch.cuda.is_available():
        return f"{torch.cuda.max_memory_allocated() / GB:.2f} GB of GPU memory at the most"
    status = Path("/proc/self/status")
    if not status.exists():
        return "memory is not measured on this system"
    peak = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
    return f"{int(peak.split()[1]) * 1024 / GB:.2f} GB of memory at the most"


def undo(output_dir: str, existed: bool) -> None:
    """Remove the dry run's folder, and the output folder if it was made for it."""
    folder = Path(output_dir)
    shutil.rmtree(folder, ignore_errors=True)
    if not existed and not any(folder.parent.iterdir()):
        folder.parent.rmdir()
