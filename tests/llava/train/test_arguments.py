"""Flags: upstream's defaults, spellings that transformers dropped, and contradictions in one line."""

import subprocess
import sys
from pathlib import Path

import pytest

from llava.errors import UserError
from llava.train.arguments import TrainingArguments, parse_arguments

NEEDED = ["--data_path", "data.json", "--output_dir", "out"]
ROOT = Path(__file__).parents[3]


def parse(*flags):
    return parse_arguments([*NEEDED, *flags])


def test_upstreams_defaults():
    model, data, training = parse()
    assert (model.model_name_or_path, model.version, model.mm_projector_type) == ("facebook/opt-125m", "v0", "linear")
    assert (model.mm_vision_select_layer, model.mm_vision_select_feature) == (-1, "patch")
    assert (model.mm_use_im_patch_token, model.mm_use_im_start_end, model.mm_patch_merge_type) == (True, False, "flat")
    assert (data.lazy_preprocess, data.is_multimodal, data.image_aspect_ratio) == (False, False, "square")
    assert (training.optim, training.remove_unused_columns, training.model_max_length) == ("adamw_torch", False, 512)
    assert (training.lora_r, training.lora_alpha, training.lora_dropout, training.lora_bias) == (64, 16, 0.05, "none")
    assert (training.bits, training.quant_type, training.double_quant) == (16, "nf4", True)


def test_old_spellings_still_mean_what_they_meant():
    _, _, training = parse(
        *("--evaluation_strategy", "no", "--warmup_ratio", "0.03", "--tf32", "True", "--no_cuda", "True"),
        *("--group_by_length", "True", "--save_safetensors", "True", "--gradient_checkpointing", "True"),
        *("--lora_enable", "yes", "--lazy_preprocess"),
    )
    assert training.eval_strategy == "no"
    assert training.get_warmup_steps(1000) == 30
    assert training.train_sampling_strategy == "group_by_length"
    assert training.gradient_checkpointing is True
    assert training.use_cpu is True
    assert training.lora_enable is True


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--mm_projektor", "linear"], "unknown arguments --mm_projektor linear; see --help"),
        (["--learning_rate", "fast"], "learning_rate.*: invalid float value: 'fast'"),
        (["--mm_projector_type", "crca", "--vision_tower", "x"], "Unknown projector type: crca .*did you mean 'ccra'"),
        (
            ["--mm_projector_type", "mlp2x_gelu", "--vision_tower", "x", "--mm_ccra_kernel_size", "3"],
            "--mm_ccra_kernel_size 3 belongs to projector ccra, but --mm_projector_type is mlp2x_gelu; drop one",
        ),
        (
            ["--mm_projector_type", "ccra", "--vision_tower", "x", "--mm_ccra_norm_order", "both"],
            "mm_ccra_norm_order is 'both'; it must be one of pre, post",
        ),
        (["--tune_mm_mlp_adapter", "True"], "--tune_mm_mlp_adapter needs --vision_tower"),
        (
            ["--tune_mm_mlp_adapter", "True", "--lora_enable", "True", "--vision_tower", "x"],
            "--lora_enable and --tune_mm_mlp_adapter contradict each other",
        ),
        (
            ["--tune_mm_mlp_adapter", "True", "--freeze_mm_mlp_adapter", "True", "--vision_tower", "x"],
            "leave nothing to train",
        ),
        (["--bits", "5"], "--bits is 5; it must be 4, 8 or 16"),
        (["--lora_bias", "some"], "--lora_bias is 'some'; it must be none, all or lora_only"),
        (["--bad_image_policy", "replace"], "bad_image_policy is 'replace'; it must be one of fail, skip"),
    ],
)
def test_contradictions_are_one_line(flags, message):
    with pytest.raises(UserError, match=message) as error:
        parse(*flags)
    assert "\n" not in str(error.value)


def test_two_launched_processes_that_would_train_apart_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(TrainingArguments, "world_size", 1)
    monkeypatch.setattr(TrainingArguments, "device", "cpu")
    with pytest.raises(UserError, match=r"the launcher started 2 processes, but training sees 1"):
        TrainingArguments(output_dir="out")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--output_dir", "out"], "error: --data_path is missing; give the JSON list of training samples"),
        (["--data_path", "no.json", "--output_dir", "out"], "error: --data_path no.json does not exist"),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_code_2(flags, message, tmp_path):
    done = subprocess.run(
        [sys.executable, str(ROOT / "llava/train/train_mem.py"), *flags],
        capture_output=True, text=True, cwd=tmp_path, env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())
