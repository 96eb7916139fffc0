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
    for name in ("pretrain", "finetune"):
        (tmp_path / f"d/{name}.json").write_text("[]")
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text(
        f"""#!/bin/sh
        case "$*" in
            *train_on_words.py*"--mm_projector_type ${{BROKEN:-none}} "*) echo no such projector today >&2; exit 1 ;;
            "-m playground.photos.build --scale gpu") exec printf "{parts}" ;;
            "-m playground.photos.build "*) exec printf "{parts}alignment={tmp_path}/a\\n" ;;
            llava/train/*|playground/photos/train*|"-m llava.attanchor.calibrate "*) ;;
            *) exec {sys.executable} "$@" ;;
        esac
        all=$*
        while [ $# -gt 0 ]; do
            [ "$1" != --output_dir ] || {{ mkdir -p "$2" && touch "$2/mm_projector.bin" && echo "$all" >"$2/command"; }}
            [ "$1" != --output ] || echo '{{"tau": 0.5}}' >"$2"
            shift
        done
        """
    )
    python.chmod(0o755)
    stage1 = tmp_path / "llava-photos-mini-pretrain-1"
    stage1.mkdir()
    (stage1 / "mm_projector.bin").touch()
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


def trainings(result) -> list[dict[str, str]]:
    assert result.returncode == 0, result.stderr
    return [variables_of(line) for line in result.stdout.splitlines() if line.endswith("finetune_ccra.sh")]


def test_arms_start_from_projectors_of_their_own_with_two_learning_rates(dry_run, tmp_path):
    result = dry_run()
    training = trainings(result)
    assert len(training) == 2 * len(STUDIES["photos"].arms)
    for variables in training:
        words = tmp_path / "llava-photos-mini-words"
        assert Path(variables["ADAPTER"]).parent.parent == words
        record = (Path(variables["ADAPTER"]).parent / "command").read_text().split()
        assert record[record.index("--pretrain_mm_mlp_adapter") + 1] == (
            f"{tmp_path}/llava-photos-mini-pretrain-1/mm_projector.bin"
        )
        assert record[record.index("--mm_projector_type") + 1] == variables["PROJECTOR"]
        assert record[record.index("--seed") + 1] == "1"
        assert record[0] == "playground/photos/train_on_words.py"
        assert not any("attanchor" in word for word in record)
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


def test_an_arm_with_attanchor_shares_the_projector_of_the_one_without(dry_run, tmp_path):
    arms = ("mlp2x_gelu", "ccra", "mlp2x_gelu_attanchor")
    training = trainings(dry_run("--arms", *arms, "--jobs", "2", LEARNING_RATES=""))
    plain, ccra, pinned = (Path(variables["ADAPTER"]).parent for variables in training)
    assert plain == pinned
    assert plain.resolve() != ccra.resolve()
    assert len([*tmp_path.glob("llava-photos-mini-words-*")]) == 2  # nothing was trained twice


def test_a_projector_that_does_not_learn_the_words_ends_the_study(dry_run, tmp_path):
    result = dry_run("--arms", "mlp2x_gelu", "ccra", "--jobs", "2", BROKEN="mlp2x_gelu")
    log = tmp_path / "llava-photos-mini-words" / "mlp2x_gelu-seed1.log"
    assert result.returncode == 1
    assert result.stderr.endswith(f"error: mlp2x_gelu-seed1 did not learn the words; see {log}\n")
    assert "no such projector today" in log.read_text()
    assert not result.stdout


def test_no_jobs_at_once_is_the_users_mistake(dry_run, tmp_path):
    result = dry_run("--jobs", "0")
    assert (result.returncode, result.stderr) == (2, "error: --jobs is 0; it must be at least 1\n")
    assert not [*tmp_path.glob("llava-photos-mini-words-*")]


def test_without_a_search_every_arm_has_the_demos_learning_rate(dry_run):
    training = trainings(dry_run("--arms", "mlp2x_gelu", "ccra", LEARNING_RATES=""))
    assert [variables["LEARNING_RATE"] for variables in training] == ["3e-4", "3e-4"]


def test_it_trains_a_stage_one_where_its_scale_has_none(dry_run, tmp_path):
    result = dry_run(SCALE="gpu")
    assert result.returncode == 0, result.stderr
    (stage1,) = tmp_path.glob("llava-photos-gpu-pretrain-*")
    assert (stage1 / ".finished").exists()
    assert f"ADAPTER={stage1}/mm_projector.bin" in result.stdout
    assert "MM_ATTANCHOR_TAU=0.5" in result.stdout
    assert dry_run(SCALE="tpu").stderr == "error: SCALE=tpu: must be mini, cpu or gpu\n"
