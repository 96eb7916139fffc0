"""lmms-eval's own ``llava`` model class on this package, unchanged; docs/lmms_eval.md says how it is installed."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from llava.eval.model_vqa_loader import eval_model

pytest.importorskip("lmms_eval", reason="lmms-eval is not installed; docs/lmms_eval.md says how")
TASK = """
task: local_vqa
dataset_path: json
dataset_kwargs:
  data_files:
    test: {questions}
test_split: test
output_type: generate_until
doc_to_visual: !function utils.doc_to_visual
doc_to_text: !function utils.doc_to_text
doc_to_target: category
generation_kwargs:
  max_new_tokens: 8
  temperature: 0
process_results: !function utils.process_results
metric_list:
  - metric: answered
    aggregation: mean
    higher_is_better: true
"""
UTILS = """
from PIL import Image

def doc_to_visual(doc):
    return [Image.open("{images}/" + doc["image"])]

def doc_to_text(doc, lmms_eval_specific_kwargs=None):
    return doc["text"]

def process_results(doc, results):
    return {{"answered": float(bool(results[0]))}}
"""


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, 3])
def test_lmms_eval_gets_the_answers_of_our_driver(
    batch_size: int,
    tmp_path: Path,
    tiny_llava: Path,
    write_questions: Callable[..., Path],
    write_lines: Callable[..., str],
    arguments: Callable[..., SimpleNamespace],
    answers_of: Callable[[Path], list[dict[str, Any]]],
) -> None:
    pictured = [line for line in map(json.loads, write_questions(8).read_text().splitlines()) if "image" in line]
    questions = write_lines("questions.jsonl", *pictured)
    (tmp_path / "task").mkdir()
    (tmp_path / "task" / "local_vqa.yaml").write_text(TASK.format(questions=questions))
    (tmp_path / "task" / "utils.py").write_text(UTILS.format(images=tmp_path / "images"))
    model = f"pretrained={tiny_llava},device_map=auto,device=cpu,conv_template=vicuna_v1"
    command = [sys.executable, "-m", "lmms_eval", "--model", "llava", "--model_args", model, "--tasks", "local_vqa"]
    command += ["--include_path", str(tmp_path / "task"), "--batch_size", str(batch_size), "--log_samples"]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "HF_HOME": str(tmp_path / "hf")}
    done = subprocess.run(
        [*command, "--output_path", str(tmp_path / "out")], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (samples,) = (tmp_path / "out").rglob("*_samples_local_vqa.jsonl")
    theirs = {entry["doc_id"]: entry["filtered_resps"] for entry in map(json.loads, samples.open())}

    eval_model(arguments(answers_file=str(tmp_path / "ours.jsonl")))
    ours = [answer["text"] for answer in answers_of(tmp_path / "ours.jsonl")]
    assert len(ours) == len(pictured)
    assert [str(theirs[number]).strip("[]' ") for number in range(len(ours))] == [text.strip() for text in ours]
