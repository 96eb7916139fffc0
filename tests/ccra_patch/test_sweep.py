"""The sweep around stub scripts: what is run, what is not run again, what is refused, what is reported."""

import json
import os
import sys
from pathlib import Path

import pytest
from PIL import Image

from ccra_patch import runs, sweep
from ccra_patch.studies import STUDIES

# Each script appends what it was called with to "calls"; a file "broken" beside it makes it fail.
TRAIN = """
echo "train $PROJECTOR ${MM_CCRA_INTEGRATION-pai} seed=$SEED data=$DATA" >>"@FOLDER@/calls"
[[ ! -e @FOLDER@/broken-$(basename "$(dirname "$OUTPUT")") ]] || exit 3
mkdir -p "$OUTPUT"
echo "$SEED" >"$OUTPUT/weights"
"""
# What the trainer records, for the summary.
TRAIN += """
echo '{"parameters": {"projector": [70, 70], "tower": [500, 0], "language model": [200, 30]}}' >"$OUTPUT/run.json"
echo '{"global_step": 12}' >"$OUTPUT/trainer_state.json"
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
        "arm        accuracy  s.e.  seeds  from pai  s.e.  95% over questions",
        "pai           60.15  0.05      2         -     -                   -",
        "decoupled     61.15  0.05      2     +1.00  0.00                   -",
        "shuffled      62.15  0.05      2     +2.00  0.00                   -",
    ]
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["evaluations"]["answers"]["decoupled"]["accuracy"]["values"] == {"1": 61.1, "2": 61.2}
    assert (tmp_path / "out" / "summary.png").stat().st_size > 5000


def test_finished_runs_can_be_compared_with_another_arm(run, tmp_path):
    run()
    code, output, _, calls = run("--baseline", "decoupled")
    assert (code, calls) == (0, [])
    assert output.splitlines()[1] == "pai           60.15  0.05      2           -1.00  0.00                   -"
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["baseline"] == "decoupled"


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


def test_an_arm_may_have_variables_of_its_own(run):
    *_, calls = run("--train-arm", "shuffled", "DATA=other.json", "--train-arm", "pai", "DATA=its.json", seeds="1")
    assert [call.split()[-1] for call in calls[::2]] == ["data=its.json", "data=mix.json", "data=other.json"]


def test_named_evaluations_have_their_own_variables_and_tables(run, tmp_path):
    arguments = ["--evaluation", "near", "BATCH_SIZE=1", "--evaluation", "far", "BATCH_SIZE=2"]
    code, output, _, calls = run(*arguments, seeds="1")
    assert code == 0
    assert calls[1:3] == ["eval pai-seed1 resume=1 batch=1", "eval pai-seed1 resume=1 batch=2"]
    lines = output.splitlines()
    assert [lines[0], lines[5]] == ["near:", "far:"]
    assert lines[2].split()[:2] == ["pai", "60.10"]
    assert (tmp_path / "out" / "pai-seed1" / "far" / "results.json").exists()
    # one more evaluation of finished models
    *_, calls = run(*arguments, "--evaluation", "third", "BATCH_SIZE=3", seeds="1")
    assert [call.split()[-1] for call in calls] == ["batch=3"] * 3


def test_an_evaluation_that_was_left_out_once_is_remembered(run):
    run("--evaluation", "near", "BATCH_SIZE=1", seeds="1")
    run("--evaluation", "far", "BATCH_SIZE=2", seeds="1")
    code, _, errors, _ = run("--evaluation", "near", "BATCH_SIZE=3", seeds="1")
    assert code == 2
    assert "BATCH_SIZE is '1' there, '3' here" in errors


def test_the_summary_says_what_an_arm_took(run, tmp_path):
    run(seeds="1")
    about = json.loads((tmp_path / "out" / "summary.json").read_text())["arms"]["shuffled"]
    assert (about["projector_parameters"], about["trained_parameters"], about["steps"]) == (70, 100, 12)
    assert about["seconds"].keys() == {"train", "answers"}
    assert about["variables"]["MM_CCRA_INTEGRATION"] == "shuffled"


@pytest.fixture
def search(run, tmp_path):
    (tmp_path / "eval.sh").write_text(
        (tmp_path / "eval.sh").read_text().replace("case $NAME in pai*) base=60", "case $NAME in pai*3e-4*) base=70")
    )
    flags = ("--search", "LEARNING_RATE=1e-4,3e-4", "--search-eval", "BATCH_SIZE=9")
    return lambda *more, **options: run(*flags, *more, **options)


def test_a_search_gives_every_arm_the_same_values_and_keeps_the_best(search, tmp_path):
    code, _, _, calls = search()
    assert code == 0
    tried, rest = calls[: 2 * 2 * 3], calls[2 * 2 * 3 :]
    assert tried[1::2] == [
        f"eval {arm}-LEARNING_RATE={rate}-seed1 resume=1 batch=9"
        for arm in ("pai", "decoupled", "shuffled")
        for rate in ("1e-4", "3e-4")
    ]
    # the winners of the first seed are there and only evaluated
    assert rest[0] == "eval pai-LEARNING_RATE=3e-4-seed1 resume=1 batch=4"
    assert rest[3:5] == [
        "train ccra pai seed=2 data=mix.json",
        "eval pai-LEARNING_RATE=3e-4-seed2 resume=1 batch=4",
    ]
    assert rest[-1] == "eval shuffled-LEARNING_RATE=1e-4-seed2 resume=1 batch=4"
    assert len(rest) == 3 + 2 * 3
    found = json.loads((tmp_path / "out" / "summary.json").read_text())["search"]
    assert found["chosen"] == {"pai": "3e-4", "decoupled": "1e-4", "shuffled": "1e-4"}
    assert found["scores"]["pai"] == {"1e-4": 62.1, "3e-4": 70.1}
    assert search()[3] == []


def test_a_dry_run_of_a_search_stops_where_it_depends_on_what_is_found(search):
    code, output, errors, calls = search("--dry-run")
    assert (code, calls) == (0, [])
    assert len(output.splitlines()) == 2 * 2 * 3
    assert errors == "what else there is to run depends on what these find\n"
    search(seeds="1")
    assert len(search("--dry-run")[1].splitlines()) == 2 * 3


def test_several_jobs_write_logs_and_a_line_for_each_run(run, tmp_path):
    code, output, errors, calls = run("--jobs", "2")
    assert code == 0
    assert sorted(calls) == sorted(run("--out", str(tmp_path / "alone"))[3])
    assert output == run()[1]
    lines = errors.splitlines()
    assert [line.split()[0] for line in lines] == [f"{number}/6" for number in range(1, 7)]
    assert {line.split()[1] for line in lines} == {f"{arm}-seed{s}:" for arm in STUDIES["table3"].arms for s in (1, 2)}
    log = (tmp_path / "out" / "shuffled-seed2" / "train.log").read_text()
    assert log.startswith("== PROJECTOR=ccra DATA=mix.json MM_CCRA_INTEGRATION=shuffled")


def test_jobs_share_the_cores(run, tmp_path, monkeypatch):
    (tmp_path / "train.sh").write_text('mkdir -p "$OUTPUT"; echo "$OMP_NUM_THREADS" >"$OUTPUT/weights"\n')
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    run("--jobs", "3")
    assert (tmp_path / "out" / "pai-seed1" / "model" / "weights").read_text() == "2\n"


def test_a_failure_among_jobs_starts_no_further_run_and_keeps_what_is_done(run, tmp_path):
    obstacle = tmp_path / "broken-pai-seed1"
    obstacle.touch()
    code, _, errors, calls = run("--jobs", "2", seeds="1 2 3 4 5")
    assert code == 2
    assert f"its message is in {tmp_path}/out/pai-seed1/train.log; mend that" in errors.splitlines()[-1]
    assert len(calls) < 15  # of 30
    obstacle.unlink()
    _, _, _, more = run("--jobs", "2", seeds="1 2 3 4 5")
    assert len([call for call in calls + more if call.startswith("eval")]) == 15


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
    assert [line.split() for line in output.splitlines()[1:]] == [
        ["pai", "60.20", "-", "1", "-", "-", "-"],
        ["shuffled", "62.20", "-", "1", "+2.00", "-", "-"],
    ]
    alone = run("--arms", "shuffled", seeds="2")[1].splitlines()[1]
    assert alone.split() == ["shuffled", "62.20", "-", "1", "-", "-", "-"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--train", "SEED=3"], r"--train SEED is set by the sweep for each run; drop it"),
        (["--train", "MM_CCRA_INTEGRATION=pai"], r"--train MM_CCRA_INTEGRATION is set by the sweep for each run"),
        (["--eval", "CKPT=x"], r"--eval CKPT is set by the sweep for each run"),
        (["--arms", "pia"], r"--arms pia is not in the study; there are pai, decoupled, shuffled"),
        (["--baseline", "pia"], r"--baseline pia is not in the study; there are pai, decoupled, shuffled"),
        (["--train", "data=x"], r"argument --train: 'data=x' is no variable; write NAME=VALUE"),
        (["--train", "DATA"], r"argument --train: 'DATA' is no variable; write NAME=VALUE"),
        (["--train-arm", "pia", "DATA=x"], r"--arms pia is not in the study"),
        (["--train-arm", "pai", "SEED=3"], r"--train-arm pai SEED is set by the sweep for each run"),
        (["--train-arm", "pai", "data"], r"--train-arm pai: 'data' is no variable; write NAME=VALUE"),
        (["--evaluation", "train"], r"--evaluation train cannot be a name here; choose another word"),
        (["--evaluation", "a/b"], r"--evaluation a/b cannot be a name here"),
        (["--evaluation", "near", "CKPT=x"], r"--evaluation near CKPT is set by the sweep"),
        (["--search", "SIGMA=1,2"], r"--search needs --search-eval: questions that are not those of the test"),
        (["--search", "SIGMA=1,"], r"--search SIGMA=1, leaves nothing to choose; give two values at least"),
        (["--search-eval", "TIER=val"], r"--search-eval is given without --search"),
        (["--search", "DATA=1,2", "--search-eval", "TIER=val"], r"--train DATA is set by the sweep"),
        (["--search", "SEED=1,2", "--search-eval", "TIER=val"], r"--search SEED is set by the sweep"),
        (["--jobs", "0"], r"--jobs is 0; it must be at least 1"),
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


def test_scripts_are_the_real_ones_unless_others_are_named():
    for script in (sweep.TRAIN_SCRIPT, sweep.EVAL_SCRIPT):
        assert (runs.ROOT / script).is_file()


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
    assert json.loads((folder / "run.json").read_text())["scores"]["answers"]["accuracy"]["n"] == 4
