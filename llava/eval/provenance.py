"""Where answers come from: a JSON beside every answers file, from which a score can be traced and repeated."""

import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HFValidationError
from tqdm import tqdm

from llava.errors import UserError

# Weights, tokenizer and settings; not what training leaves beside them (optimizer states are in subfolders).
CHECKPOINT_SUFFIXES = {".safetensors", ".bin", ".json", ".model"}
NOT_THE_MODEL = {"training_args.bin", "trainer_state.json"}
READ_BYTES = 1 << 22
DIGEST_MODULUS = 1 << 256
PACKAGES = ("llava", "torch", "transformers", "tokenizers", "sentencepiece", "accelerate", "peft", "pillow", "numpy")


def provenance_path(answers: Path) -> Path:
    """The JSON that belongs to an answers file."""
    return answers.with_name(answers.name + ".provenance.json")


def write_provenance(answers: Path, provenance: dict[str, Any]) -> None:
    """Replaces the JSON in one step: a killed run leaves the old one or the new one."""
    path = provenance_path(answers)
    partial = path.with_name(path.name + ".part")
    partial.write_text(json.dumps(provenance, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(partial, path)


def close_record(answers: Path, provenance: dict[str, Any]) -> None:
    """Writes the provenance of answers that are complete, with the digest by which they are known again."""
    write_provenance(answers, provenance | {"status": "complete", "answers_sha256": file_digest(answers)})


def read_provenance(answers: Path) -> dict[str, Any] | None:
    """What is written beside an answers file; None when nothing is. Raises UserError when it is damaged."""
    path = provenance_path(answers)
    if not path.exists():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}); delete it and evaluate anew") from error


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def fingerprint(name: str) -> dict[str, str]:
    """What a checkpoint is: the SHA-256 of ``sha256sum``'s list of its files for a folder, the hub's commit for a name.

    A folder that moved keeps its fingerprint; a file that is renamed, added or changed gives another.
    Raises UserError for a name that is neither.
    """
    folder = Path(name).expanduser()
    if not folder.is_dir():
        try:
            return {"commit": Path(hf_hub_download(name, "config.json")).parent.name}
        except (OSError, HFValidationError) as error:
            raise UserError(
                f"checkpoint {name} is neither a folder here nor to be had from the hub; give a trained model's path"
            ) from error
    files = sorted(
        file
        for file in folder.iterdir()
        if file.is_file() and file.suffix in CHECKPOINT_SUFFIXES and file.name not in NOT_THE_MODEL
    )
    total = sum(file.stat().st_size for file in files)
    with (
        tqdm(total=total, unit="B", unit_scale=True, desc=f"Hashing {folder.name}", delay=2) as progress,
        ThreadPoolExecutor() as threads,  # hashing lets go of the interpreter's lock: a thread per shard
    ):
        digests = list(threads.map(lambda file: _hash_file(file, progress), files))
    listing = "".join(f"{digest}  {file.name}\n" for digest, file in zip(digests, files, strict=True))
    return {"sha256": hashlib.sha256(listing.encode()).hexdigest()}


def _hash_file(file: Path, progress: tqdm) -> str:
    sha = hashlib.sha256()
    with file.open("rb") as content:
        while block := content.read(READ_BYTES):
            sha.update(block)
            progress.update(len(block))
    return sha.hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of one small file. Raises UserError when it is not there."""
    if not path.is_file():
        raise UserError(f"{path} is not there; check the path")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def add_digests(digests: Sequence[int]) -> int:
    """One number for many inputs. A sum, so that chunks add up to the digest of the undivided run, in any order."""
    return sum(digests) % DIGEST_MODULUS


def environment() -> dict[str, Any]:
    """Code and library versions."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {"commit": _commit(), "versions": versions, "platform": platform.platform()}


def _commit() -> str | None:
    """The git commit this package runs from, ``+changes`` when files differ from it; None outside its repository."""
    here = Path(__file__)

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here.parent), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    try:
        # An installed copy may lie inside some other project's repository: only one that tracks this file counts.
        git("ls-files", "--error-unmatch", here.name)
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def refuse_other_settings(answers: Path, theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    """Raises UserError naming the first setting in which the answers of a file differ from ``ours``."""
    for key in sorted(theirs.keys() | ours.keys()):
        if theirs.get(key) != ours.get(key):
            raise UserError(
                f"{answers} was made with {key} {theirs.get(key)!r}, not {ours.get(key)!r}; settings must not mix: "
                "start over without resuming, or choose another --answers-file"
            )


def add_score(answers: Path, name: str, score: dict[str, Any]) -> None:
    """Notes a score and its standard error beside the answers it was computed from.

    Raises UserError when there is no provenance to add to.
    """
    provenance = read_provenance(answers)
    if provenance is None:
        raise UserError(f"{provenance_path(answers)} is not there; only answers with a provenance can be given a score")
    provenance.setdefault("scores", {})[name] = score
    write_provenance(answers, provenance)
