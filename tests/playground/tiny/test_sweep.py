"""``playground/tiny/sweep.sh``: the sweep's own command on the demo's parts."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from ccra_patch.studies import STUDIES
from llava.train.arguments import parse_arguments

ROOT = Path(__file__).parents[3]
PARTS = "data=d\\ntokenizer=t\\nclip=c\\nlanguage_model=m\\n"


@pytest.fixture
def dry_run(tmp_path):
    """Runs the script with built parts of these names, a list of commands for its result."""
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text(
        f'#!/bin/sh\n[ "$*" = "-m playground.tiny.build" ] && exec printf "{PARTS}"\nexec {sys.executable} "$@"\n'
    )
    python.chmod(0o755)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": f"{python.parent}:/usr/bin:/bin", "VIRTUAL_ENV": "kept", "RUNS": str(tmp_path)}
        command = ["bash", str(ROOT / "playground/tiny/sweep.sh"), *arguments, "--dry-run"]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    return run


def stage_one(folder: Path, model: str) -> None:
    folder.mkdir()
    (folder / "run.json").write_text(f'{{"settings": {{"model_name_or_path": "{model}", "vision_tower": "c"}}}}')
    (folder / ".finished").touch()


def test_it_wants_a_stage_one_of_the_same_parts(dry_run, tmp_path):
    stage_one(tmp_path / "llava-tiny-pretrain-1", model="another")
    result = dry_run("--study", "table4", "--seeds", "1", "--out", str(tmp_path / "out"))
    assert result.returncode == 2
    assert result.stderr == f"error: {tmp_path} has no stage 1 of m; train it with: make demo\n"


def test_arms_start_from_the_demos_parts_and_have_layers_of_its_tower(dry_run, tmp_path):
    stage_one(tmp_path / "llava-tiny-pretrain-1", model="another")
    stage_one(tmp_path / "llava-tiny-pretrain-2", model="m")
    result = dry_run("--study", "projectors", "--seeds", "1", "--out", str(tmp_path / "out"), "--train", "EPOCHS=2")
    assert result.returncode == 0, result.stderr
    training = [line for line in result.stdout.splitlines() if line.endswith("finetune_ccra.sh")]
    assert len(training) == len(STUDIES["projectors"].arms)
    for line in training:
        variables = dict(word.split("=", 1) for word in shlex.split(line) if "=" in word)
        assert variables["ADAPTER"] == f"{tmp_path}/llava-tiny-pretrain-2/mm_projector.bin"
        assert variables["EPOCHS"] == "2"
        command = subprocess.run(
            ["bash", "scripts/v1_5/finetune_ccra.sh"],
            cwd=ROOT,
            env={"PATH": "/usr/bin:/bin", "VIRTUAL_ENV": "kept", "DRY_RUN": "1"} | variables,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()
        model_args, _, _ = parse_arguments(command[command.index("llava/train/train_mem.py") + 1 :])
        layers = getattr(model_args, f"mm_{variables['PROJECTOR']}_layers", [])
        assert all(0 <= layer <= 6 for layer in layers)
