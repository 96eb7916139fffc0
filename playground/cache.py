"""Build a folder once for each recipe: a finished one is reused, an unfinished one is never seen."""

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

# Enough of a SHA-256 to tell recipes apart, short enough for a folder name.
KEY_LENGTH = 12


def recipe_key(parameters: Mapping[str, object], sources: Iterable[Path]) -> str:
    """Hash what decides a part's content: its parameters and the bytes of the files that make it.

    ``sources`` are the scripts that build the part and the data that they read, in a fixed order.
    """
    digest = hashlib.sha256(json.dumps(parameters, sort_keys=True).encode())
    for source in sources:
        digest.update(hashlib.sha256(source.read_bytes()).digest())
    return digest.hexdigest()[:KEY_LENGTH]


def cached(cache: Path, name: str, key: str, build: Callable[[Path], None]) -> Path:
    """Return ``cache/<name>-<key>``, calling ``build(folder)`` on an empty folder if it is not there yet.

    The folder gets its name only when ``build`` is through, so a killed build leaves nothing that looks finished.
    ``cache/<name>`` is a link to the latest one, for people; programs keep the keyed path, which never changes meaning.
    """
    finished = cache / f"{name}-{key}"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / f".{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not finished.is_dir():
            # Under the lock, whatever carries this prefix was left by a build that was killed.
            for leftover in cache.glob(f".building-{name}-*"):
                shutil.rmtree(leftover)
            unfinished = Path(tempfile.mkdtemp(prefix=f".building-{name}-", dir=cache))
            try:
                build(unfinished)
                unfinished.chmod(0o755)  # mkdtemp's 0700 would hide the part from other users
                unfinished.rename(finished)
            finally:
                shutil.rmtree(unfinished, ignore_errors=True)
        point(cache / name, finished.name)
    return finished


def point(link: Path, target: str) -> None:
    """Make ``link`` point at ``target`` in one step, whatever it pointed at before."""
    fresh = link.with_name(f".{link.name}.link")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target)
    os.replace(fresh, link)
