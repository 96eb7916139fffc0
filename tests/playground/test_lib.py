"""``playground/lib.sh``: what is finished is not done again, what is not the same is."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# A stage that counts its runs, and tells its variables to --dry-run.
STAGE = """
if [[ ${DRY_RUN:-0} != 0 ]]; then echo "train $EPOCHS"; exit; fi
mkdir -p "$OUTPUT"
echo "$EPOCHS" >>"$OUTPUT/runs"
[[ $EPOCHS != broken ]]
"""


@pytest.fixture
def shell(tmp_path):
    """Runs lines of a demo that has the library, in the repository; gives their output."""
    (tmp_path / "stage.sh").write_text(STAGE)

    def run(lines: str) -> list[str]:
        script = tmp_path / "demo.sh"
        head = f"set -euo pipefail\nRUNS={tmp_path}/runs FAMILY=llava-x\nsource {ROOT}/playground/lib.sh\n"
        script.write_text(head + lines)
        environment = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}/usr/bin:/bin", "VIRTUAL_ENV": "kept"}
        done = subprocess.run(["bash", str(script)], env=environment, capture_output=True, text=True, check=False)
        return [*done.stdout.splitlines(), f"exit code {done.returncode}"]

    return run


def test_a_stage_is_trained_once_for_each_command(shell, tmp_path):
    lines = f"stage pretrain {tmp_path}/stage.sh EPOCHS=%s\necho $trained\ncat $trained/runs\n"
    folder, *rest = shell(lines % 1)
    assert folder.startswith(f"{tmp_path}/runs/llava-x-pretrain-")
    assert rest == ["1", "exit code 0"]
    assert shell(lines % 1) == [folder, "1", "exit code 0"]
    other, *rest = shell(lines % 2)
    assert other != folder
    assert rest == ["2", "exit code 0"]


def test_a_stage_is_trained_again_with_another_trainer(shell, tmp_path):
    trainer = tmp_path / "trainer.py"
    lines = f"stage pretrain {tmp_path}/stage.sh TRAINER={trainer}\necho $trained\n"
    trainer.write_text("loss = 1\n")
    before = shell(lines)
    assert shell(lines) == before
    trainer.write_text("loss = 2\n")
    assert shell(lines) != before


def test_a_stage_that_failed_is_trained_again(shell, tmp_path):
    lines = f"stage pretrain {tmp_path}/stage.sh EPOCHS=broken\n"
    assert shell(lines) == ["exit code 1"]
    assert shell(lines) == ["exit code 1"]
    (runs,) = (tmp_path / "runs").glob("*/runs")
    assert runs.read_text() == "broken\nbroken\n"


def test_the_latest_stage_one_of_the_same_parts(shell, tmp_path):
    for age, (name, model) in enumerate([("1", "m"), ("2", "m"), ("3", "other"), ("4", "m")]):
        folder = tmp_path / "runs" / f"llava-x-pretrain-{name}"
        folder.mkdir(parents=True)
        (folder / "run.json").write_text(f'{{"model_name_or_path": "{model}", "vision_tower": "t"}}')
        if name != "4":  # still training
            (folder / ".finished").touch()
            os.utime(folder / ".finished", (age, 10 - age if name == "2" else age))
    assert shell("finished_stage1 m t\n") == [f"{tmp_path}/runs/llava-x-pretrain-2/mm_projector.bin", "exit code 0"]
    assert shell("finished_stage1 m another\n") == ["", "exit code 0"]
    assert shell("RUNS=/nowhere finished_stage1 m t\n") == ["", "exit code 0"]


def test_parts_are_known_by_name(shell):
    assert shell('parts="data=a\ndata_two=b"\nfolder_of data\n') == ["a", "exit code 0"]


def test_scores_belong_to_checkpoint_tier_and_code(shell, tmp_path):
    found = shell(
        "key() { cat >/dev/null; echo K; }\n"
        f"mkdir -p {tmp_path}/c/near/plain-K\ntouch {tmp_path}/c/near/plain-K/results.json\n"
        f"evaluation plain {tmp_path}/c data near pictures\necho $scored\n"
    )
    assert found == [f"{tmp_path}/c/near/plain-K/results.json", "exit code 0"]
