"""``playground/photos/sweep.sh``: every arm a command that the real scripts take, with layers that the tower has."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from ccra_patch.studies import STUDIES
from llava.train.arguments import parse_arguments

ROOT = Path(__file__).parents[3]
BLOCKS = 12


@pytest.fixture
def dry_run(tmp_path):
    """Runs the script with built parts of these names, a list of commands for its result."""
    names = {"data": "d", "vision_tower": "v", "language_model": "m", "features": "f"}
    parts = "".join(f"{part}={tmp_path}/{name}\\n" for part, name in names.items())
    for folder in ("d/images", "v", "m", "f"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "d/pretrain.json").write_text("[]")
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text(
        f"""#!/bin/sh
        case "$*" in
            "-m playground.photos.build "*) exec printf "{parts}" ;;
            llava/train/*|"-m llava.attanchor.calibrate "*) ;;
            *) exec {sys.executable} "$@" ;;
        esac
        while [ $# -gt 0 ]; do
            [ "$1" != --output_dir ] || mkdir -p "$2"
            [ "$1" != --output ] || echo '{{"tau": 0.5}}' >"$2"
            shift
        done
        """
    )
    python.chmod(0o755)
    stage1 = tmp_path / "llava-photos-cpu-pretrain-1"
    stage1.mkdir()
    (stage1 / "run.json").write_text(f'"{tmp_path}/m" "{tmp_path}/v"')
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


def test_it_trains_a_stage_one_where_its_scale_has_none(dry_run, tmp_path):
    result = dry_run(SCALE="gpu")
    assert result.returncode == 0, result.stderr
    (stage1,) = tmp_path.glob("llava-photos-gpu-pretrain-*")
    assert (stage1 / ".finished").exists()
    assert f"ADAPTER={stage1}/mm_projector.bin" in result.stdout
    assert "MM_ATTANCHOR_TAU=0.5" in result.stdout
    assert dry_run(SCALE="tpu").stderr == "error: SCALE=tpu: must be mini, cpu or gpu\n"
