"""Every benchmark's script end to end: a toy in the official layout, a tiny model, two chunks."""

import base64
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "scripts" / "v1_5" / "eval"
Build = Callable[[Path], None]
PEOPLE = ["red"] * 4 + ["blue"] * 6


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (30, 28), "red").save(path)


def write(path: Path, content: object) -> None:
    """A JSON file, JSON Lines, or text, by the name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jsonl":
        assert isinstance(content, list)
        path.write_text("".join(json.dumps(line) + "\n" for line in content))
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content))


def questions(image: str = "a.jpg", count: int = 3, **more: Any) -> list[dict[str, Any]]:
    return [{"question_id": n, "image": image, "text": f"What is {n}?\nAnswer shortly.", **more} for n in range(count)]


def sqa(data: Path) -> None:
    picture(data / "images" / "test" / "1" / "image.png")
    turns = [{"from": "human", "value": "Which?"}, {"from": "gpt", "value": "B"}]
    pictured = [turns[0] | {"value": "Which?\n<image>"}, turns[1]]
    samples = [{"id": "1", "image": "1/image.png", "conversations": pictured}]
    samples += [{"id": n, "conversations": turns} for n in "23"]
    for name in ("CQM-A", "QCM-LEA"):
        write(data / f"llava_test_{name}.json", samples)
    write(data / "pid_splits.json", {"test": list("123")})
    write(data / "problems.json", {n: {"choices": ["x", "y"], "answer": 1} for n in "123"})


def textvqa(data: Path) -> None:
    picture(data / "train_images" / "0.jpg")
    asked = [question | {"question_id": "0"} for question in questions("0.jpg")]
    write(data / "llava_textvqa_val_v051_ocr.jsonl", asked)
    entries = [{"image_id": "0", "question": f"What is {n}?", "answers": PEOPLE} for n in range(3)]
    write(data / "TextVQA_0.5.1_val.json", {"data": entries})


def vizwiz(data: Path) -> None:
    picture(data / "test" / "a.jpg")
    write(data / "llava_test.jsonl", questions())


def vqav2(data: Path) -> None:
    picture(data / "test2015" / "a.jpg")
    for split in ("test-dev2015", "test2015"):
        write(data / f"llava_vqav2_mscoco_{split}.jsonl", questions())


def mmbench(data: Path) -> None:
    pytest.importorskip("pandas")
    pytest.importorskip("openpyxl")
    buffer = BytesIO()
    Image.new("RGB", (30, 28), "red").save(buffer, "PNG")
    image = base64.b64encode(buffer.getvalue()).decode()
    header = "index\tquestion\thint\tA\tB\tC\tD\tanswer\tcategory\timage\tsource\tl2-category\tcomment\tsplit"
    rows = [f"{n}\tWhat?\t\tx\ty\t\t\tA\tc\t{image}\ts\tl\t\tdev" for n in (1, 2, 1000001)]
    for name in ("mmbench_dev_20230712", "mmbench_dev_cn_20231003"):
        write(data / f"{name}.tsv", "\n".join([header, *rows]) + "\n")


def mmvet(data: Path) -> None:
    picture(data / "images" / "a.jpg")
    write(data / "llava-mm-vet.jsonl", questions())


def seed(data: Path) -> None:
    picture(data / "SEED-Bench-image" / "a.jpg")
    write(data / "llava-seed-bench.jsonl", questions("SEED-Bench-image/a.jpg"))
    entries = [{"question_id": n, "answer": "A", "data_type": "image", "question_type_id": 1} for n in range(3)]
    write(data / "SEED-Bench.json", {"question_type": {"Scene": 1}, "questions": entries})


def mmmu(data: Path) -> None:
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    buffer = BytesIO()
    Image.new("RGB", (30, 28), "red").save(buffer, "PNG")
    rows = [
        {"id": f"validation_Art_{n}", "question": "Which <image 1>?", "options": "['x', 'y']", "answer": "A"}
        | {"question_type": "multiple-choice", "image_1": {"bytes": buffer.getvalue()}}
        for n in range(3)
    ]
    (data / "MMMU" / "Art").mkdir(parents=True)
    pandas.DataFrame(rows).to_parquet(data / "MMMU" / "Art" / "validation-00000-of-00001.parquet")


def mme(data: Path) -> None:
    from llava.eval.eval_mme import COGNITION, PERCEPTION

    asked = []
    for subtask in (*PERCEPTION, *COGNITION):
        picture(data / "MME_Benchmark_release_version" / subtask / "1.jpg")
        lines = [f"Is it {colour}? Please answer yes or no." for colour in ("red", "blue")]
        truths = "".join(f"{line}\t{truth}\n" for line, truth in zip(lines, ("Yes", "No"), strict=True))
        write(data / "MME_Benchmark_release_version" / subtask / "1.txt", truths)
        asked += [{"question_id": f"{subtask}/1.jpg", "image": f"{subtask}/1.jpg", "text": line} for line in lines]
    write(data / "llava_mme.jsonl", asked)


def pope(data: Path) -> None:
    picture(data / "val2014" / "a.jpg")
    write(data / "llava_pope_test.jsonl", questions(category="random"))
    (data / "coco").mkdir()
    labels = [{"question_id": 1, "image": "a.jpg", "text": f"What is {n}?", "label": "yes"} for n in range(3)]
    (data / "coco" / "coco_pope_random.json").write_text("".join(json.dumps(label) + "\n" for label in labels))


def amber(data: Path) -> None:
    picture(data / "image" / "AMBER_1.jpg")
    queries = [
        {"id": n, "image": "AMBER_1.jpg", "query": query} for n, query in ((1, "Describe this image."), (2, "Is it?"))
    ]
    write(data / "data" / "query" / "query_all.json", queries)
    generative = {"id": 1, "type": "generative", "truth": ["sky"], "hallu": ["sun"]}
    write(data / "data" / "annotations.json", [generative, {"id": 2, "type": "relation", "truth": "yes"}])
    write(data / "data" / "relation.json", {"sky": [], "sun": []})
    write(data / "data" / "safe_words.txt", "image\n")


def hallusion(data: Path) -> None:
    picture(data / "hallusion_bench" / "VD" / "chart" / "0_1.png")
    entry = {"category": "VD", "subcategory": "chart", "set_id": "0", "question_id": "0", "question": "Is it?"}
    entries = [
        entry | {"figure_id": str(n), "visual_input": str(n), "gt_answer": "1", "gt_answer_details": "Yes."}
        for n in (0, 1)
    ]
    write(data / "HallusionBench.json", entries)


def llavabench(data: Path) -> None:
    picture(data / "images" / "a.jpg")
    write(data / "questions.jsonl", questions(category="conv"))
    write(data / "context.jsonl", [{"id": 1, "image": "a.jpg", "caption": "red"}])
    write(data / "answers_gpt4.jsonl", [{"question_id": n, "text": "red"} for n in range(3)])


def qbench(data: Path) -> None:
    picture(data / "images_llvisionqa" / "a.jpg")
    entries = [{"img_path": "a.jpg", "question": "Sharp?", "candidates": ["yes", "no"], "correct_ans": "yes"}]
    write(data / "llvisionqa_dev.json", entries)
    write(data / "质衡-问答-测试集.json", entries)


@pytest.fixture(scope="module")
def checkpoint(assets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny LLaVA, to which every token is the last one, so that it answers in one."""
    folder = shutil.copytree(assets / "llava_tiny_mlp2x_gelu", tmp_path_factory.mktemp("checkpoints") / "brief-llava")
    settings = json.loads((folder / "generation_config.json").read_text())
    write(folder / "generation_config.json", settings | {"eos_token_id": list(range(1500))})
    return folder


@pytest.fixture
def bash(checkpoint: Path, warm_python: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a script with that checkpoint on two chunks."""

    def run(script: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        environment = {
            "PATH": f"{warm_python}:{os.environ['PATH']}",
            "HOME": os.environ["HOME"],
            "VIRTUAL_ENV": "kept",  # so that this Python is used
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            "CKPT": str(checkpoint),
            "CUDA_VISIBLE_DEVICES": "0,1",
            "BATCH_SIZE": "2",
            "WORKERS": "0",
        }
        command = ["bash", str(script), *arguments]
        return subprocess.run(command, env=environment | variables, capture_output=True, text=True, timeout=300)

    return run


# script: toy, last line, files that must be there then (N stands for the checkpoint)
CASES: dict[str, tuple[Build, tuple[str, ...], str, list[str]]] = {
    "sqa": (sqa, (), "SQA: # (n=1)", ["answers/N.jsonl", "answers/N_output.jsonl", "answers/N_result.json"]),
    "textvqa": (textvqa, (), "TextVQA: # (n=3)", ["answers/N.jsonl"]),
    "vizwiz": (vizwiz, (), "VizWiz: no score here (send DATA/answers_upload/N.json to EvalAI)", ["answers/N.jsonl"]),
    "vqav2": (
        vqav2,
        (),
        "VQAv2: no score here (send DATA/answers_upload/llava_vqav2_mscoco_test-dev2015/N.json to EvalAI)",
        ["answers/llava_vqav2_mscoco_test-dev2015/N/merge.jsonl"],
    ),
    "mmbench": (
        mmbench,
        (),
        "MMBench: # (n=2)",
        ["answers/mmbench_dev_20230712/N.jsonl", "answers_upload/mmbench_dev_20230712/N.xlsx"],
    ),
    "mmbench_cn": (
        mmbench,
        (),
        "vanilla accuracy: ",
        ["answers/mmbench_dev_cn_20231003/N.jsonl", "answers_upload/mmbench_dev_cn_20231003/N.xlsx"],
    ),
    "mmvet": (mmvet, (), "MM-Vet: no score here (no judge: set OPENAI_API_KEY", ["answers/N.jsonl", "results/N.json"]),
    "seed": (seed, (), "SEED-I: # (n=3)", ["answers/N/merge.jsonl", "answers_upload/N.jsonl"]),
    "mmmu": (mmmu, (), "MMMU: # (n=3)", ["answers/validation/N.jsonl", "answers/validation/N_output.json"]),
    "mme": (mme, (), "MME-P+C: # (n=14)", ["answers/N.jsonl", "eval_tool/answers/N/color.txt"]),
    "pope": (pope, (), "POPE: # (n=3)", ["answers/N.jsonl"]),
    "amber": (amber, (), "AMBER: # (n=1)", ["answers/query_all/N.jsonl", "answers/query_all/N_responses.json"]),
    "hallusion": (hallusion, (), "HallusionBench: # (n=2)", ["answers/N.jsonl", "answers/N_result.json"]),
    "llavabench": (llavabench, (), "LLaVA-Bench: no score here (no judge: set OPENAI_API_KEY)", ["answers/N.jsonl"]),
    "qbench": (qbench, ("dev",), "1 answers in DATA/llvisionqa_dev_answers.jsonl", ["llvisionqa_dev_answers.jsonl"]),
    "qbench_zh": (
        qbench,
        ("test",),
        "1 answers in DATA/llvisionqa_zh_test_answers.jsonl",
        ["llvisionqa_zh_test_answers.jsonl"],
    ),
}


def test_every_script_is_tried() -> None:
    elsewhere = {"all", "gqa", "text"}
    assert {path.stem for path in SCRIPTS.glob("*.sh")} == set(CASES) | elsewhere


@pytest.mark.parametrize("name", CASES)
def test_a_script_answers_scores_and_shows_the_papers_rows(
    name: str, tmp_path: Path, bash: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    build, arguments, last, files = CASES[name]
    build(tmp_path)
    result = bash(SCRIPTS / f"{name}.sh", *arguments, DATA=str(tmp_path))
    assert result.returncode == 0, result.stderr[-3000:]
    line = result.stdout.splitlines()[-1]
    before, _, after = last.replace("DATA", str(tmp_path)).replace("/N.", "/brief-llava.").partition("#")
    assert line.startswith(before)
    assert after in line
    for file in files:
        path = tmp_path / file.replace("N", "brief-llava", 1)
        assert path.stat().st_size, path


def test_a_split_with_answers_is_scored_here(
    tmp_path: Path, bash: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    vizwiz(tmp_path)
    people = [{"answer": text} for text in PEOPLE]
    write(tmp_path / "val.json", [{"image": str(n), "answers": people} for n in range(3)])
    result = bash(SCRIPTS / "vizwiz.sh", DATA=str(tmp_path), ANNOTATIONS=str(tmp_path / "val.json"))
    assert "(n=3) | LLaVA-v1.5-7B 53.2 | " in result.stdout.splitlines()[-1]
    vqav2(tmp_path)
    write(tmp_path / "val2.json", {"annotations": [{"question_id": n, "answers": people} for n in range(3)]})
    result = bash(SCRIPTS / "vqav2.sh", DATA=str(tmp_path), ANNOTATIONS=str(tmp_path / "val2.json"))
    assert "(n=3) | LLaVA-7B 76.16 | " in result.stdout.splitlines()[-1]


def test_a_bad_split_of_qbench_is_told_with_code_1(
    tmp_path: Path, bash: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    for arguments in ((), ("train",)):
        result = bash(SCRIPTS / "qbench.sh", *arguments, DATA=str(tmp_path))
        assert result.returncode == 1
        assert "say which split to answer, dev or test" in result.stderr


def test_batch_and_gather(tmp_path: Path, bash: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    sqa(tmp_path)
    files = {"DATA": str(tmp_path), "ANSWERS": str(tmp_path / "test_x")}
    gather = ROOT / "scripts" / "sqa_eval_gather.sh"
    assert "run scripts/sqa_eval_batch.sh first" in bash(gather, **files).stderr
    result = bash(ROOT / "scripts" / "sqa_eval_batch.sh", **files)
    assert result.returncode == 0, result.stderr
    assert bash(gather, **files).stdout.startswith("Total: 3, Correct: ")
    assert (tmp_path / "test_x_output.json").exists()
    assert (tmp_path / "test_x_result.json").exists()


@pytest.mark.slow
def test_text_gets_a_loss_and_text_metrics(
    tmp_path: Path, bash: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    pytest.importorskip("pycocoevalcap")
    sqa(tmp_path)
    data = {"DATA": str(tmp_path / "llava_test_CQM-A.json"), "IMAGES": str(tmp_path / "images" / "test")}
    result = bash(SCRIPTS / "text.sh", **data)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert any(line.startswith("Validation loss: ") for line in lines)
    assert [line.split(":")[0] for line in lines[-3:]] == ["validation loss", "CIDEr", "ROUGE-L"]
    assert "| LLaVA-7B 4.2556 | " in lines[-2]
    assert bash(SCRIPTS / "text.sh").returncode == 2


@pytest.mark.slow
def test_all_goes_through_what_is_there_and_fails_with_what_failed(
    tmp_path: Path, bash: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    nothing = bash(SCRIPTS / "all.sh", EVAL_DATA=str(tmp_path))
    assert nothing.returncode == 1
    assert "no benchmark has run" in nothing.stderr
    pope(tmp_path / "pope")
    sqa(tmp_path / "scienceqa")
    result = bash(SCRIPTS / "all.sh", EVAL_DATA=str(tmp_path))
    assert result.returncode == 0, result.stderr
    lines = result.stdout.split("== brief-llava\n")[-1].splitlines()
    assert [line.split(":")[0] for line in lines if "not run" not in line] == ["SQA", "POPE"]
    assert f"gqa: not run, {tmp_path}/gqa is not there" in lines
    assert len(lines) == 13

    (tmp_path / "scienceqa" / "problems.json").unlink()
    result = bash(SCRIPTS / "all.sh", EVAL_DATA=str(tmp_path), BENCHMARKS="sqa pope", DATA="ignored")
    assert result.returncode == 1
    assert "1 of the benchmarks failed" in result.stderr
    lines = result.stdout.split("== brief-llava\n")[-1].splitlines()
    assert lines[0] == "sqa: failed (exit code 2, its message is above)"
    assert lines[1].startswith("POPE: ")


@pytest.mark.parametrize("name", sorted(path.stem for path in SCRIPTS.glob("*.sh")))
def test_help_shows_every_default(name: str, bash: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    text = (SCRIPTS / f"{name}.sh").read_text()
    result = bash(SCRIPTS / f"{name}.sh", "--help")
    assert result.returncode == 0
    for variable in re.findall(r'^: "\$\{([A-Z_]+):=', text, flags=re.MULTILINE):
        assert re.search(rf"^  {variable}\b", result.stdout, flags=re.MULTILINE), variable


def test_missing_data_is_told_before_anything_starts(
    tmp_path: Path, bash: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    for name in sorted(set(CASES) - {"qbench_zh", "mmbench_cn"}):
        result = bash(SCRIPTS / f"{name}.sh", *CASES[name][1], DATA=str(tmp_path), CKPT="nowhere")
        assert (name, result.returncode) == (name, 2)
        assert result.stderr.startswith("error: ")
