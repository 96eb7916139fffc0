"""The Makefile's promises that can be checked without building an environment."""

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TARGETS = set(re.findall(r"^\.PHONY: (\S+)", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run make as from a fresh shell, not as a child of the ``make test`` that may be running us."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS"))}
    environment = {key: value for key, value in environment.items() if key not in ("ARGS", "EXTRAS", "TORCH", "VENV")}
    return subprocess.run(["make", *arguments], cwd=ROOT, env=environment, capture_output=True, text=True)


def test_help_is_the_default_and_lists_every_target() -> None:
    result = make()
    assert result.returncode == 0
    listed = set(re.findall(r"^  ([a-z0-9-]+)  +\S", result.stdout, flags=re.MULTILINE))
    assert listed == TARGETS
    assert {"help", "setup", "demo", "test", "lint", "format", "typecheck", "bench", "eval-gqa", "clean"} <= TARGETS


def test_setup_refuses_an_old_python(tmp_path: Path) -> None:
    old = tmp_path / "python3.8"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "Python 3.8.1"\nexit 1\n')
    old.chmod(0o755)
    result = make("setup", f"VENV={tmp_path}/venv", f"PYTHON={old}")
    assert result.returncode == 2
    assert f"error: {old} is Python 3.8.1; Python 3.11 or newer is needed" in result.stderr
    assert not (tmp_path / "venv").exists()


@pytest.mark.parametrize(
    ("target", "command"),
    [
        ("demo", "bash playground/tiny/demo.sh --flag"),
        ("demo-photos", "bash playground/photos/demo.sh --flag"),
        ("chat", "python -m llava.serve.app --flag"),
        ("test", "-m pytest -n 2 --dist loadscope --flag"),
        ("screenshots", "CHAT_FLAGS='--flag' {venv}/bin/python -m pytest tests/llava/serve/test_browser.py"),
        ("bench", "python benchmarks/projectors.py --flag"),
        ("eval-gqa", "bash scripts/v1_5/eval/gqa.sh --flag"),
        ("eval-vqav2", "bash scripts/v1_5/eval/vqav2.sh --flag"),
        ("eval-all", "bash scripts/v1_5/eval/all.sh --flag"),
    ],
)
def test_arguments_reach_the_program(tmp_path: Path, target: str, command: str) -> None:
    result = make("--dry-run", target, f"VENV={tmp_path}/venv", "ARGS=--flag")
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1].endswith(command.format(venv=tmp_path / "venv"))


def test_a_clone_sets_itself_up_before_the_work(tmp_path: Path) -> None:
    """Python environment, then the pinned torch, then this package with the target's extras."""
    steps = make("--dry-run", "demo", f"VENV={tmp_path}/venv").stdout
    order = [steps.index(step) for step in ("-m venv", "pip install torch==2.13.0", '--editable ".[demo]"', "demo.sh")]
    assert order == sorted(order)


def test_another_torch_is_another_installation(tmp_path: Path) -> None:
    stamps = [
        re.findall(r"stamps/torch-\d+", make("--dry-run", "setup", f"VENV={tmp_path}/v", f"TORCH={torch}").stdout)[-1]
        for torch in ("torch==2.13.0", "torch==2.11.0")
    ]
    assert stamps[0] != stamps[1]


def test_an_up_to_date_environment_is_left_alone(tmp_path: Path) -> None:
    """Once the stamps stand, nothing is installed until setup.py changes."""
    venv = tmp_path / "venv"
    first = make("--dry-run", "setup", f"VENV={venv}").stdout
    torch_stamp = re.findall(r"\.stamps/(torch-\d+)", first)[-1]
    (venv / ".stamps").mkdir(parents=True)
    (venv / "bin").mkdir()
    for path in (venv / "bin" / "python", venv / ".stamps" / torch_stamp, venv / ".stamps" / "train"):
        path.touch()
    assert "pip install" not in make("--dry-run", "setup", f"VENV={venv}").stdout

    newer = (ROOT / "setup.py").stat().st_mtime - 10
    os.utime(venv / ".stamps" / "train", (newer, newer))
    os.utime(venv / ".stamps" / torch_stamp, (newer - 10, newer - 10))
    again = make("--dry-run", "setup", f"VENV={venv}").stdout
    assert '--editable ".[train]"' in again
    assert "pip install torch" not in again
