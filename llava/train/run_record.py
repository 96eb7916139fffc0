"""``run.json``: what a run is made of, written into its output folder before the first step.

It lets anyone reproduce the run, and keeps a second run of another configuration from mixing its files in.
"""

import hashlib
import importlib.metadata
import json
import platform
import shutil
import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from llava.errors import UserError
from llava.train.validation import validation_sources

RECORD = "run.json"
# What may change between a run and its resumption without making it another run.
INCIDENTAL = {
    "logging_steps", "logging_dir", "report_to", "run_name", "save_steps", "save_total_limit", "dataloader_num_workers",
    "overwrite_output_dir", "resume_from_checkpoint", "disable_tqdm", "local_rank", "deepspeed", "lazy_preprocess",
    "output_dir", "cache_dir", "tf32", "dry_run", "log_consistency",
}  # fmt: skip
VERSIONED = ("torch", "transformers", "accelerate", "peft", "deepspeed", "tokenizers", "sentencepiece")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def git_commit() -> str | None:
    """The commit of the source tree this package runs from, with ``+changes`` when it is not clean."""
    root = Path(__file__).resolve().parents[2]

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            return None
        return done.stdout.strip()

    commit = git("rev-parse", "HEAD")
    return commit and commit + ("+changes" if git("status", "--porcelain", "--untracked-files=no") else "")


def versions() -> dict[str, str | None]:
    """Versions of Python and of the libraries that decide results."""
    return {"python": platform.python_version(), **{package: _version(package) for package in VERSIONED}}


def file_hash(path: str) -> str:
    """sha256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def given_settings(*arguments: Any) -> dict[str, Any]:
    """The argument dataclasses as one JSON-able dict."""
    merged: dict[str, Any] = {}
    for group in arguments:
        merged |= group.to_dict() if hasattr(group, "to_dict") else asdict(group)
    return json.loads(json.dumps(merged, default=str))


def _deepspeed_config(given: Any) -> Any:
    """The settings behind ``--deepspeed``, which may be a file or its content."""
    return json.loads(Path(given).read_text(encoding="utf-8")) if isinstance(given, str) else given


def describe_run(model_args: Any, data_args: Any, training_args: Any) -> dict[str, Any]:
    """The record: settings, data hash, versions, commit, seed."""
    return {
        "settings": given_settings(model_args, data_args, training_args),
        "data_sha256": file_hash(data_args.data_path),
        "eval_data_sha256": {name: file_hash(path) for name, path in validation_sources(data_args).items()},
        "seed": training_args.seed,
        "data_seed": training_args.seed if training_args.data_seed is None else training_args.data_seed,
        "deepspeed_config": _deepspeed_config(training_args.deepspeed),
        "versions": versions(),
        "commit": git_commit(),
        "machine": {"cuda": torch.version.cuda, "processes": training_args.world_size},
    }


def refuse_foreign_output(output_dir: str, record: dict[str, Any], overwrite: bool) -> None:
    """UserError when ``output_dir`` holds weights or checkpoints of another configuration; nothing is touched."""
    folder = Path(output_dir)
    if overwrite or not folder.exists():
        return
    weights = [p for pattern in ("*.safetensors", "*.bin") for p in folder.glob(pattern)]
    checkpoints = list(folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*"))
    if not weights and not checkpoints:  # a run that ended before its first save: only its record is there
        return
    file = folder / RECORD
    if not file.exists():
        if not checkpoints:
            raise UserError(
                f"--output_dir {output_dir} holds {weights[0].name} of a run without {RECORD}; "
                "choose another folder, or add --overwrite_output_dir to replace it"
            )
        return
    try:
        before = json.loads(file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise UserError(f"{file} is not readable ({error}); move the folder away or delete it") from error
    old, new = before["settings"], record["settings"]
    changed = sorted(key for key in old.keys() | new.keys() if key not in INCIDENTAL and old.get(key) != new.get(key))
    contents = {"data_sha256": "the data file's content", "eval_data_sha256": "the validation data's content"}
    changed += [name for key, name in contents.items() if before.get(key) != record[key]]
    if changed:
        example = changed[0]
        detail = f" (there {old.get(example)!r}, here {new.get(example)!r})" if example in old else ""
        raise UserError(
            f"--output_dir {output_dir} holds another run: {', '.join(changed)} differ{detail}; "
            "choose another folder, or add --overwrite_output_dir to replace that run"
        )


def finished(output_dir: str) -> str | None:
    """How the run in ``output_dir`` ended, in words; None when it has not, or when that is not known."""
    file = Path(output_dir) / TRAINER_STATE_NAME  # written behind the last step; checkpoints have one of their own
    if not file.exists() or not (Path(output_dir) / RECORD).exists():
        return None
    state = json.loads(file.read_text(encoding="utf-8"))
    step, planned = state["global_step"], state["max_steps"]
    return f"finished after {planned} steps" if step >= planned else f"stopped early, after {step} of {planned} steps"


def forget(output_dir: str) -> None:
    """Take away what another run would go on from. Its weights stay until new ones are written over them."""
    for checkpoint in Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        shutil.rmtree(checkpoint)
    Path(output_dir, TRAINER_STATE_NAME).unlink(missing_ok=True)


def write_record(output_dir: str, record: dict[str, Any]) -> None:
    """Write the record; an interrupted write leaves no half file."""
    folder = Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"{RECORD}.partial"
    partial.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    partial.replace(folder / RECORD)
