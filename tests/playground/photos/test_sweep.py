"""``playground/photos/sweep.sh``: every arm a command that the real scripts take, with layers that the tower has."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from ccra_patch.studies import STUDIES
from llava.train.arguments import parse_arguments

ROOT = Path(__file__).parents[3]
PARTS = "data=d\\nvision_tower=v\\nlanguage_model=m\\nfeatures=f\\n"
BLOCKS = 12


@pytest.fixture
def dry_run(tmp_path):
    """Runs the script with built parts of these names, a list of commands for its result."""
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text(
        f'#!/bin/sh\ncase "$*" in "-m playground.photos.build "*) exec printf "{PARTS}" ;; esac\n'
        f'exec {sys.executable} "$@"\n'
    )
    python.chmod(0o755)
    stage1 = tmp_path / "llava-photos-cpu-pretrain-1"
    stage1.mkdir()
    (stage1 / "run.json").write_text('{"settings": {"model_name_or_path": "m", "vision_tower": "v"}}')
    (stage1 / "attanchor.json").write_text('{"tau": 0.25}')
    (stage1 / ".finished").touch()

    def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": f"{python.parent}:/usr/bin:/bin", "VIRTUAL_ENV": "kept", "RUNS": str(tmp_path)}
        script = ROOT / "playground/photos/sweep.sh"
        command = ["bash", str(script), "--out", str(tmp_path / "out"), "--seeds", "1", *arguments, "--dry-run"]
        return subprocess.run(command, env=environment | variables, capture_output=True, text=True, check=False)

    return run


def variables_of(line: str) -> dict[str, str]:
    return dict(word.split("=", 1) for word in shlex.split(line) if "=" in word)


def test_arms_start_from_the_demos_stage_one_with_three_learning_rates(dry_run, tmp_path):
    result = dry_run()
    assert result.returncode == 0, result.stderr
    training = [variables_of(line) for line in result.stdout.splitlines() if line.endswith("finetune_ccra.sh")]
    assert len(training) == 3 * len(STUDIES["photos"].arms)
    for variables in training:
        assert variables["ADAPTER"] == f"{tmp_path}/llava-photos-cpu-pretrain-1/mm_projector.bin"
        assert ("MM_ATTANCHOR_TAU" in variables) == ("MM_ATTANCHOR_DIRECTION" in variables)
        command = subprocess.run(
            ["bash", "scripts/v1_5/finetune_ccra.sh"],
            cwd=ROOT,
            env={"PATH": "/usr/bin:/bin", "VIRTUAL_ENV": "kept", "DRY_RUN": "1", "LAUNCHER": "python"} | variables,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()
        model_args, _, training_args = parse_arguments(command[2:])
        assert command[1] == "playground/photos/train.py"
        assert training_args.save_strategy == "no"
        layers = getattr(model_args, f"mm_{variables['PROJECTOR']}_layers", [])
        assert all(0 <= layer <= BLOCKS for layer in layers)
    evaluations = [variables_of(line) for line in result.stdout.splitlines() if line.endswith("gqa.sh")]
    assert {variables["TIER"] for variables in evaluations} == {"val_balanced"}


def test_it_wants_a_stage_one_of_its_scale(dry_run, tmp_path):
    result = dry_run(SCALE="gpu")
    assert result.returncode == 2
    assert result.stderr == f"error: {tmp_path} has no stage 1 of m; train it with: SCALE=gpu make demo-photos\n"
    assert dry_run(SCALE="tpu").stderr == "error: SCALE=tpu: must be cpu or gpu\n"
