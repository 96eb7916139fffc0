"""The evaluation scripts as users call them, on a small benchmark in the official layout."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
LIBRARY = ROOT / "scripts" / "lib" / "evaluate.sh"
COLOURS = ("red", "green", "blue", "black")


def bash(*command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {"PATH": path, "HOME": os.environ["HOME"], "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    environment["VIRTUAL_ENV"] = "kept"  # so that the tests' own Python is used
    return subprocess.run(
        ["bash", *command], env=environment | variables, capture_output=True, text=True, timeout=300, check=False
    )


def gqa(data: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return bash(str(ROOT / "scripts/v1_5/eval/gqa.sh"), *arguments, DATA=str(data), **variables)


@pytest.fixture
def gqa_data(tmp_path: Path) -> Path:
    """GQA's layout with a dozen questions."""
    data = tmp_path / "gqa"
    (data / "data" / "images").mkdir(parents=True)
    lines, questions = [], {}
    for number in range(12):
        colour = COLOURS[number % 4]
        Image.new("RGB", (30 + number, 28), colour).save(data / "data" / "images" / f"n{number}.jpg")
        text = "What colour is it?" if number % 3 else "Is it a colour that some people like?"
        asked = f"{text}\nAnswer the question using a single word or phrase."
        lines.append(json.dumps({"question_id": f"2{number:02}", "image": f"n{number}.jpg", "text": asked}))
        types = {"structural": "query" if number % 3 else "verify", "semantic": "attr", "detailed": "colour"}
        questions[f"2{number:02}"] = {"question": text, "answer": colour, "isBalanced": True, "types": types}
    (data / "llava_gqa_testdev_balanced.jsonl").write_text("\n".join(lines) + "\n")
    (data / "data" / "testdev_balanced_questions.json").write_text(json.dumps(questions))
    return data


def test_gqa_fails_with_a_chunk_and_resumes_to_a_score(assets: Path, gqa_data: Path, warm_python: Path) -> None:
    checkpoint = assets / "llava_tiny_mlp2x_gelu"
    settings = {"CKPT": f"{checkpoint}/", "CUDA_VISIBLE_DEVICES": "0,1", "BATCH_SIZE": "2", "WORKERS": "0"}
    settings["PATH"] = f"{warm_python}{os.pathsep}{os.environ['PATH']}"
    answers = gqa_data / "answers" / "llava_gqa_testdev_balanced" / checkpoint.name
    picture = gqa_data / "data" / "images" / "n9.jpg"
    good = picture.read_bytes()
    picture.write_bytes(b"no picture")

    failed = gqa(gqa_data, "--max_new_tokens", "4", **settings)
    assert failed.returncode == 2
    assert "n9.jpg of question '209' cannot be read as a picture" in failed.stderr
    assert "error: chunk 1 of 2 failed (exit code 2, its message is above); nothing was merged." in failed.stderr
    assert not (answers / "merge.jsonl").exists()
    assert not (gqa_data / "data" / "testdev_balanced_predictions.json").exists()

    picture.write_bytes(good)
    result = gqa(gqa_data, "--max_new_tokens", "4", RESUME="1", **settings)
    assert result.returncode == 0, result.stderr
    *_, accuracy, published = result.stdout.splitlines()
    assert re.fullmatch(r"Accuracy: \d+\.\d\d% ± \d+\.\d\d \(n=12\)", accuracy)
    assert re.match(r"GQA: \d+\.\d\d ± \d+\.\d\d \(n=12\) \| LLaVA-v1.5-7B 61.9 ", published)
    merged = [json.loads(line) for line in (answers / "merge.jsonl").read_text().splitlines()]
    assert [answer["question_id"] for answer in merged] == [f"2{number:02}" for number in range(12)]
    assert {answer["model_id"] for answer in merged} == {checkpoint.name}
    predictions = json.loads((gqa_data / "data" / "testdev_balanced_predictions.json").read_text())
    assert [row["questionId"] for row in predictions] == [f"2{number:02}" for number in range(12)]
    record = json.loads((answers / "merge.jsonl.provenance.json").read_text())
    assert record["items"] == record["scores"]["gqa_testdev_balanced_accuracy"]["n"] == 12
    assert json.loads((answers / "results.json").read_text())["scores"]["open"]["n"] == 8


def test_missing_data_is_shown_in_its_tree_before_anything_starts(gqa_data: Path) -> None:
    (gqa_data / "data" / "testdev_balanced_questions.json").unlink()
    result = gqa(gqa_data, CKPT="nowhere")
    assert result.returncode == 2
    lines = result.stderr.splitlines()
    assert lines[0].startswith(f"error: DATA={gqa_data} ")
    assert "lacks 1 of what is needed" in lines[0]
    marks = {line.split("missing ")[-1].split()[0]: "missing " in line for line in lines[1:]}
    assert marks == {
        "llava_gqa_testdev_balanced.jsonl": False,
        "data/testdev_balanced_questions.json": True,
        "data/images/": False,
    }
    result = gqa(gqa_data / "nowhere")
    assert result.returncode == 2
    assert "lacks 3 of what is needed" in result.stderr


def test_the_pictures_may_lie_elsewhere(gqa_data: Path) -> None:
    result = gqa(gqa_data, IMAGES="./nowhere")
    assert result.returncode == 2
    assert "error: IMAGES=./nowhere: no such folder" in result.stderr


def test_help_names_every_variable(gqa_data: Path) -> None:
    result = gqa(gqa_data, "--help")
    assert result.returncode == 0
    script = (ROOT / "scripts/v1_5/eval/gqa.sh").read_text() + LIBRARY.read_text()
    for name in re.findall(r'^: "\$\{([A-Z_]+):=', script, flags=re.MULTILINE):
        assert re.search(rf"^  {name}\b", result.stdout, flags=re.MULTILINE), name


def with_recorder(tmp_path: Path, python: str) -> tuple[str, ...]:
    """A call of the library's ``answer_questions`` with a ``python`` that is this piece of shell."""
    call = f"answer_questions q.jsonl {tmp_path} {tmp_path}/merge.jsonl a.driver --image-folder pictures"
    return "-c", f"set -euo pipefail; source {LIBRARY}; python() {{ {python} }}\n{call}\necho went on"


def test_a_failing_chunk_stops_the_others(tmp_path: Path) -> None:
    python = f"""
        case $* in
            *"--chunk-idx 1 "*)
                until [[ -s {tmp_path}/pid ]]; do sleep 0.1; done
                exit 7 ;;
            *"--chunk-idx 0 "*)
                echo $BASHPID >{tmp_path}/pid ;;
        esac
        exec sleep 600
    """
    result = bash(*with_recorder(tmp_path, python), CKPT="x", CUDA_VISIBLE_DEVICES="0,1,2")
    assert result.returncode == 7
    assert "chunk 1 of 3 failed (exit code 7, its message is above); nothing was merged." in result.stderr
    assert "went on" not in result.stdout
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_every_gpu_gets_a_chunk_and_the_variables_become_flags(tmp_path: Path) -> None:
    variables = {"MODEL_BASE": "base", "WORKERS": "3", "BATCH_SIZE": "8", "CONV_MODE": "llava_v1", "RESUME": "1"}
    variables |= {"MM_ATTANCHOR_DIRECTION": "text_into_image", "MM_ATTANCHOR_TAU": "0.2", "MM_ATTANCHOR_QUERY": ""}
    record = f'echo "GPU $CUDA_VISIBLE_DEVICES: $*" >>{tmp_path}/calls;'
    result = bash(*with_recorder(tmp_path, record), CKPT="a/b", CUDA_VISIBLE_DEVICES="4,6", **variables)
    assert result.stdout == "went on\n"
    *chunks, merge = (tmp_path / "calls").read_text().splitlines()
    flags = (
        "-m a.driver --model-path a/b --question-file q.jsonl --conv-mode llava_v1 --batch-size 8 --temperature 0 "
        "--model-base base --workers 3 --resume --mm_attanchor_direction text_into_image --mm_attanchor_tau 0.2 "
        "--image-folder pictures --num-chunks 2"
    )
    assert sorted(chunks) == [
        f"GPU 4: {flags} --chunk-idx 0 --answers-file {tmp_path}/2_0.jsonl",
        f"GPU 6: {flags} --chunk-idx 1 --answers-file {tmp_path}/2_1.jsonl",
    ]
    assert "-m llava.eval.merge --question-file q.jsonl" in merge
    assert f"--num-chunks 2 --answers-file {tmp_path}/merge.jsonl" in merge


def test_without_a_gpu_in_sight_one_process_runs(tmp_path: Path) -> None:
    record = f'echo "GPU $CUDA_VISIBLE_DEVICES: $*" >>{tmp_path}/calls;'
    assert bash(*with_recorder(tmp_path, record), CKPT="x", CUDA_VISIBLE_DEVICES="").returncode == 0
    calls = (tmp_path / "calls").read_text().splitlines()
    assert len(calls) == 2
    assert calls[0].startswith("GPU : -m a.driver ")
    assert "--num-chunks 1 --chunk-idx 0" in calls[0]
