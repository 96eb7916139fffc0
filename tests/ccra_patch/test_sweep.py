"""The sweep around stub scripts: what is run, what is not run again, what is refused, what is reported."""

import json
import math
import os
import sys
from pathlib import Path

import pytest
from PIL import Image

from ccra_patch import sweep
from ccra_patch.sweep import Summary, mean_and_error

# Each script appends what it was called with to "calls"; a file "broken" beside it makes it fail.
TRAIN = """
echo "train $PROJECTOR ${MM_CCRA_INTEGRATION-pai} seed=$SEED data=$DATA" >>"@FOLDER@/calls"
[[ ! -e @FOLDER@/broken-$(basename "$(dirname "$OUTPUT")") ]] || exit 3
mkdir -p "$OUTPUT"
echo "$SEED" >"$OUTPUT/weights"
"""
# Accuracy: 60 for pai, 61 for decoupled, 62 for shuffled, and a tenth of a point for each seed, the middle one more.
EVAL = """
echo "eval $NAME resume=$RESUME batch=$BATCH_SIZE" >>"@FOLDER@/calls"
mkdir -p "$ANSWERS"
case $NAME in pai*) base=60 ;; decoupled*) base=61 ;; *) base=62 ;; esac
printf '{"scores": {"accuracy": {"value": %s.%s, "standard_error": 1.0, "n": 9}}}' \
    $base "$(cat "$CKPT/weights")" >"$RESULTS"
"""


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Call the sweep's command line; gives (exit code, output, errors, the stubs' calls since the last one)."""
    for name, text in (("train.sh", TRAIN), ("eval.sh", EVAL)):
        (tmp_path / name).write_text("set -euo pipefail\n" + text.replace("@FOLDER@", str(tmp_path)))
    calls = tmp_path / "calls"

    def start(*arguments: str, study: str = "table3", seeds: str = "1 2"):
        scripts = ["--train-script", str(tmp_path / "train.sh"), "--eval-script", str(tmp_path / "eval.sh")]
        given = ["--study", study, "--seeds", *seeds.split(), "--out", str(tmp_path / "out"), *scripts]
        given += ["--train", "DATA=mix.json", "--eval", "BATCH_SIZE=4", *arguments]
        monkeypatch.setattr(sys, "argv", ["sweep", *given])
        calls.write_text("")
        code = 0
        try:
            sweep.main()
        except SystemExit as stop:
            code = stop.code
        shown = capsys.readouterr()
        return code, shown.out, shown.err, calls.read_text().splitlines()

    return start


def test_every_arm_is_trained_and_evaluated_with_every_seed(run, tmp_path):
    code, output, _, calls = run()
    assert code == 0
    assert calls == [
        f"{what}"
        for seed in (1, 2)
        for arm in ("pai", "decoupled", "shuffled")
        for what in (f"train ccra {arm} seed={seed} data=mix.json", f"eval {arm}-seed{seed} resume=1 batch=4")
    ]
    assert output.splitlines() == [
        "arm        accuracy  s.e.  seeds  from pai  s.e.",
        "pai           60.15  0.05      2         -     -",
        "decoupled     61.15  0.05      2     +1.00  0.00",
        "shuffled      62.15  0.05      2     +2.00  0.00",
    ]
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["decoupled"]["values"] == {"1": 61.1, "2": 61.2}
    assert (tmp_path / "out" / "summary.png").stat().st_size > 5000


def test_what_is_finished_is_not_run_again(run):
    first = run()
    again = run()
    assert again[3] == []
    assert again[1] == first[1]
    *_, calls = run(seeds="1 2 3")
    assert len(calls) == 2 * 3
    assert all("seed3" in call or "seed=3" in call for call in calls)


def test_a_failing_arm_stops_the_sweep_and_the_same_command_goes_on(run, tmp_path):
    obstacle = tmp_path / "broken-decoupled-seed1"
    obstacle.touch()
    code, output, errors, calls = run()
    assert code == 2
    assert errors.splitlines()[-1] == (
        f"error: {tmp_path}/train.sh failed with exit code 3, its message is above; "
        "mend that, and the same command goes on from there"
    )
    assert output == ""
    assert len(calls) == 3
    obstacle.unlink()
    code, _, _, calls = run()
    assert code == 0
    assert calls[0].startswith("train ccra decoupled seed=1")
    assert len(calls) == 2 * 6 - 2


def test_a_trained_arm_is_only_evaluated(run, tmp_path):
    script = tmp_path / "eval.sh"
    good = script.read_text()
    script.write_text("exit 1\n")
    assert run()[0] == 2
    script.write_text(good)
    *_, calls = run("--arms", "pai", seeds="1")
    assert calls == ["eval pai-seed1 resume=1 batch=4"]


def test_an_evaluation_without_scores_is_named(run, tmp_path):
    (tmp_path / "eval.sh").write_text("true\n")
    code, _, errors, _ = run()
    assert code == 2
    assert "answers/results.json holds no scores (FileNotFoundError" in errors


def test_dry_run_lists_what_is_left_and_starts_nothing(run, tmp_path):
    _, output, _, calls = run("--dry-run")
    assert calls == []
    assert not (tmp_path / "out").exists()
    folder = tmp_path / "out" / "decoupled-seed1"
    assert output.splitlines()[2:4] == [
        "PROJECTOR=ccra DATA=mix.json MM_CCRA_INTEGRATION=decoupled SEED=1 "
        f"OUTPUT={folder}/model bash {tmp_path}/train.sh",
        f"BATCH_SIZE=4 CKPT={folder}/model NAME=decoupled-seed1 ANSWERS={folder}/answers "
        f"RESULTS={folder}/answers/results.json RESUME=1 bash {tmp_path}/eval.sh",
    ]
    assert len(output.splitlines()) == 2 * 6
    run()
    assert run("--dry-run")[1] == ""


def test_arms_and_seeds_can_be_shared_out(run):
    code, output, _, calls = run("--arms", "shuffled", "pai", seeds="2 2")
    assert code == 0
    assert [call.split()[0] for call in calls] == ["train", "eval"] * 2
    assert output.splitlines()[1:] == [
        "pai          60.20     -      1         -     -",
        "shuffled     62.20     -      1     +2.00     -",
    ]
    assert run("--arms", "shuffled", seeds="2")[1].splitlines()[1] == "shuffled     62.20     -      1         -     -"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--train", "SEED=3"], r"--train SEED is set by the sweep for each run; drop it"),
        (["--train", "MM_CCRA_INTEGRATION=pai"], r"--train MM_CCRA_INTEGRATION is set by the sweep for each run"),
        (["--eval", "CKPT=x"], r"--eval CKPT is set by the sweep for each run"),
        (["--arms", "pia"], r"--arms pia is not in the study; there are pai, decoupled, shuffled"),
        (["--train", "data=x"], r"argument --train: 'data=x' is no variable; write NAME=VALUE"),
        (["--train", "DATA"], r"argument --train: 'DATA' is no variable; write NAME=VALUE"),
        (["--metric", "f1"], r"--metric f1 is not among the scores; there are accuracy"),
    ],
)
def test_mistakes_are_one_line(run, arguments, message):
    code, _, errors, _ = run(*arguments, seeds="1")
    assert code == 2
    assert message in errors.splitlines()[-1]


def test_other_settings_do_not_get_into_the_folder(run, tmp_path):
    run(seeds="1")
    code, _, errors, calls = run("--train", "DATA=other.json", seeds="1")
    assert (code, calls) == (2, [])
    assert errors == (
        f"error: {tmp_path}/out/pai-seed1 holds another run: DATA is 'mix.json' there, 'other.json' here; "
        "choose another --out\n"
    )
    (tmp_path / "out" / "pai-seed1" / "run.json").write_text("{")
    assert "run.json is not JSON" in run(seeds="1")[2]


def test_mean_and_standard_error():
    assert mean_and_error([3.0]) == (3.0, None)
    mean, error = mean_and_error([1.0, 2.0, 6.0])
    assert mean == 3.0
    assert error == pytest.approx(math.sqrt((4 + 1 + 9) / 2 / 3))


def test_differences_are_taken_seed_by_seed():
    found = Summary.of({1: 10.0, 2: 20.0, 4: 7.0}, {1: 9.0, 2: 18.0, 3: 0.0})
    assert found.mean == pytest.approx(37 / 3)
    assert found.difference == 1.5
    assert found.difference_error == pytest.approx(0.5)
    assert Summary.of({1: 10.0}, {2: 9.0}).difference is None


def test_scripts_are_the_real_ones_unless_others_are_named():
    for script in (sweep.TRAIN_SCRIPT, sweep.EVAL_SCRIPT):
        assert (Path(sweep.ROOT) / script).is_file()


@pytest.mark.slow
def test_one_real_step_of_one_arm_through_the_real_scripts(assets, tmp_path, monkeypatch, capsys):
    data = tmp_path / "gqa"
    (data / "data" / "images").mkdir(parents=True)
    samples, lines, questions = [], [], {}
    for number, colour in enumerate(("red", "green", "blue", "white")):
        Image.new("RGB", (40, 30), colour).save(data / "data" / "images" / f"{colour}.jpg")
        turns = [{"from": "human", "value": "<image>\nWhich colour?"}, {"from": "gpt", "value": colour}]
        samples.append({"id": str(number), "image": f"{colour}.jpg", "conversations": turns})
        lines.append(json.dumps({"question_id": str(number), "image": f"{colour}.jpg", "text": "Which colour?"}))
        types = {"structural": "query", "semantic": "attr", "detailed": "colour"}
        questions[str(number)] = {"question": "Which colour?", "answer": colour, "isBalanced": True, "types": types}
    (data / "llava_gqa_testdev_balanced.jsonl").write_text("\n".join(lines) + "\n")
    (data / "data" / "testdev_balanced_questions.json").write_text(json.dumps(questions))
    (tmp_path / "samples.json").write_text(json.dumps(samples))
    train = {
        "LAUNCHER": "python",
        "MODEL": assets / "vicuna_tiny",
        "VISION_TOWER": assets / "clip_tiny",
        "ADAPTER": "",
        "DATA": tmp_path / "samples.json",
        "IMAGE_FOLDER": data / "data" / "images",
        "GLOBAL_BATCH": 4,
        "BATCH_SIZE": 4,
        "WORKERS": 0,
        "REPORT_TO": "none",
        "MM_CCRA_HIDDEN_DIM": 8,
    }
    monkeypatch.setenv("VIRTUAL_ENV", "kept")  # so that the tests' own Python is used
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    arguments = ["--study", "table4", "--arms", "lwca", "--seeds", "7", "--out", str(tmp_path / "out"), "--train"]
    arguments += [f"{name}={value}" for name, value in train.items()]
    arguments += ["--eval", f"DATA={data}", "WORKERS=0", "BATCH_SIZE=4", "CUDA_VISIBLE_DEVICES="]
    monkeypatch.setattr(sys, "argv", ["sweep", *arguments])
    sweep.main()
    assert capsys.readouterr().out.splitlines()[1].split()[0] == "lwca"
    folder = tmp_path / "out" / "lwca-seed7"
    config = json.loads((folder / "model" / "config.json").read_text())
    assert config["mm_ccra_disable"] == ["lwca"]
    assert json.loads((folder / "model" / "run.json").read_text())["seed"] == 7
    assert json.loads((folder / "run.json").read_text())["scores"]["accuracy"]["n"] == 4
