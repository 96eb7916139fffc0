"""Two processes train what one process trains: torchrun, DeepSpeed's ZeRO-2 and ZeRO-3, on the CPU, for real."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from launched import train_all
from safetensors.torch import load_file

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
TIMEOUT = 500  # seconds; DeepSpeed's first launch on a machine compiles

# A step takes two samples, one on each rank; 5, 11 and 14 are texts: on the second rank, on the first, on the second.
ORDER = [0, 5, 11, 2, 3, 14, 6, 7]
FLAGS = {
    "model_name_or_path": "@/vicuna_tiny", "vision_tower": "@/clip_tiny", "version": "v1", "image_aspect_ratio": "pad",
    "mm_vision_select_layer": -2, "mm_use_im_patch_token": False, "mm_projector_type": "mlp2x_gelu",
    "max_steps": 4, "save_steps": 2, "learning_rate": 1e-3, "adam_epsilon": 1e-4, "warmup_ratio": 0.2,
    "lr_scheduler_type": "cosine", "logging_steps": 1, "model_max_length": 2048, "report_to": "none",
    "use_cpu": True, "disable_tqdm": True,
}  # fmt: skip
CCRA = {"mm_projector_type": "ccra", "mm_ccra_hidden_dim": 8}
EVALUATED = {
    "eval_strategy": "steps", "eval_steps": 2, "per_device_eval_batch_size": 1, "load_best_model_at_end": True,
    "adam_beta1": 0,  # no momentum: what turns round, turns round at once
}  # fmt: skip
LORA = {"lora_enable": True, "lora_r": 8, "lora_dropout": 0, "mm_projector_lr": 1e-4}
RUNS = {
    "full": EVALUATED | {"gradient_checkpointing": True},
    "stage1": EVALUATED | CCRA | {"tune_mm_mlp_adapter": True},
    "lora": EVALUATED | CCRA | LORA | {"gradient_checkpointing": True},
    "bf16": CCRA | {"bf16": True, "gradient_checkpointing": True},
    "tiles": {
        "model_name_or_path": "@/llava_tiny_anyres_unpad", "image_aspect_ratio": "anyres",
        "mm_patch_merge_type": "spatial_unpad",
    },
    "sentences": {  # read by an encoder that is no part of the model, and must not be partitioned with it
        "mm_projector_type": "igva", "mm_igva_layers": [1, 2, 3, 4], "mm_igva_group_size": 2, "mm_igva_hidden_dim": 8,
        "mm_igva_balance": 0, "mm_igva_text_encoder": "SENTENCE_ENCODER",
    },
    "offload": {"mm_projector_lr": 1e-4},  # with ZeRO-3 by its offload config
    "new tokens": {"mm_use_im_start_end": True, "tune_mm_mlp_adapter": True},  # rows that are set while partitioned
}  # fmt: skip


def needs_deepspeed():
    missing = [name for name in ("deepspeed", "ninja") if find_spec(name) is None]
    missing += [] if shutil.which("g++") else ["g++"]
    if missing:
        pytest.skip(f"DeepSpeed compiles a part of itself; missing here: {', '.join(missing)}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(command: list[str], **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command with this Python first on the path; nothing of it survives the test."""
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": "",
    } | variables  # fmt: skip
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=pipe, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as process:
        try:
            output, _ = process.communicate(timeout=TIMEOUT)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    return subprocess.CompletedProcess(command, process.returncode, output)


@pytest.fixture(scope="module")
def runs_for(assets, goldens, sentence_encoder):
    """The runs of the table with their outputs in ``folder``, ``batch`` samples per process."""

    def runs_for(folder: Path, batch: int, deepspeed: str | None = None) -> list[dict]:
        runs = []
        for name, changes in RUNS.items():
            flags = FLAGS | {
                "data_path": goldens / "data" / "finetune16.json", "image_folder": goldens / "images",
                "per_device_train_batch_size": batch, "output_dir": folder / name,
            } | changes  # fmt: skip
            if "eval_strategy" in flags:
                flags["eval_data_path"] = goldens / "data" / "finetune16.json"
            if deepspeed is not None:
                offload = "_offload" if (name, deepspeed) == ("offload", "zero3") else ""
                flags["deepspeed"] = ROOT / "scripts" / f"{deepspeed}{offload}.json"
            folders = {"@": str(assets), "SENTENCE_ENCODER": str(sentence_encoder)}
            argv = []
            for flag, value in flags.items():
                words = [str(word) for word in (value if isinstance(value, list) else [value])]
                for name_of_folder, path in folders.items():
                    words = [word.replace(name_of_folder, path) for word in words]
                argv += [f"--{flag}", *words]
            run = {"argv": argv, "order": ORDER}
            # The best model is not the last then.
            runs.append(run | ({"unlearns_after": 2} if "eval_strategy" in flags else {}))
        return runs

    return runs_for


@pytest.fixture(scope="module")
def alone(runs_for, tmp_path_factory) -> Path:
    """What one process makes of the table."""
    folder = tmp_path_factory.mktemp("alone")
    train_all(runs_for(folder, batch=2))
    return folder


def history(folder: Path) -> list[dict]:
    return json.loads((folder / "trainer_state.json").read_text())["log_history"]


def losses(folder: Path) -> list[float]:
    return [entry[key] for entry in history(folder) for key in ("loss", "eval_loss") if key in entry]


def learning_rates(folder: Path) -> list[float]:
    return [entry["learning_rate"] for entry in history(folder) if "loss" in entry]


def assert_the_same(ours: Path, theirs: Path, loss: float = 1e-5, weight: float = 1e-5) -> None:
    """Losses step by step, of training and of validation, learning rates, and every tensor that was saved."""
    assert learning_rates(ours) == pytest.approx(learning_rates(theirs)), ours.name
    assert losses(ours) == pytest.approx(losses(theirs), abs=loss), ours.name
    files = sorted(path.name for path in theirs.glob("*.safetensors"))
    assert files == sorted(path.name for path in ours.glob("*.safetensors"))
    for file in files:
        our_weights, their_weights = load_file(ours / file), load_file(theirs / file)
        assert our_weights.keys() == their_weights.keys()
        for name, value in our_weights.items():
            torch.testing.assert_close(
                value.float(), their_weights[name].float(), rtol=0, atol=weight, msg=lambda m, n=name: f"{n}: {m}"
            )


def assert_table_is_the_same(folder: Path, alone: Path) -> None:
    for name in RUNS:
        # bfloat16 keeps 8 bits, and where a float32 original is kept differs between launchers.
        assert_the_same(folder / name, alone / name, **({"loss": 0.02, "weight": 0.01} if name == "bf16" else {}))
        if "eval_strategy" in RUNS[name]:
            assert json.loads((folder / name / "trainer_state.json").read_text())["best_global_step"] == 2


def test_torchrun(runs_for, alone, tmp_path):
    file = tmp_path / "runs.json"
    file.write_text(json.dumps(runs_for(tmp_path, batch=1)))
    launcher = ["torchrun", "--nproc_per_node", "2", "--master_port", str(free_port())]
    done = start([*launcher, str(Path(__file__).with_name("launched.py")), str(file)])
    assert done.returncode == 0, done.stdout
    assert_table_is_the_same(tmp_path, alone)


def script_variables(assets: Path, goldens: Path, output: Path, **variables: str) -> dict[str, str]:
    return {
        "MODEL": str(assets / "vicuna_tiny"), "VISION_TOWER": str(assets / "clip_tiny"), "ADAPTER": "",
        "DATA": str(goldens / "data" / "finetune16.json"), "IMAGE_FOLDER": str(goldens / "images"),
        "OUTPUT": str(output), "BF16": "False", "WORKERS": "0", "REPORT_TO": "none", "SAVE_STEPS": "3",
        "LEARNING_RATE": "1e-3", "NUM_PROCESSES": "2", "BATCH_SIZE": "1", "GRAD_ACCUM": "1",
        "MASTER_PORT": str(free_port()), "EXTRA_ARGS": "--max_steps 6 --adam_epsilon 1e-4 --disable_tqdm True",
    } | variables  # fmt: skip


def arguments_of(script: str, variables: dict[str, str]) -> list[str]:
    """What the script hands to the trainer."""
    command = start(["bash", f"scripts/v1_5/{script}.sh"], DRY_RUN="1", **variables).stdout.splitlines()
    return command[command.index("llava/train/train_mem.py") + 1 :]


def trained_alone(script: str, variables: dict[str, str], folder: Path) -> Path:
    """The script's run in this process: its two samples per step as one batch."""
    one = {"LAUNCHER": "python", "DEEPSPEED": "", "NUM_PROCESSES": "1", "BATCH_SIZE": "2", "OUTPUT": str(folder)}
    train_all([{"argv": arguments_of(script, variables | one)}])
    return folder


@pytest.mark.parametrize(
    ("script", "variables"),
    [("pretrain", {"LAUNCHER": "torchrun", "DEEPSPEED": "", "VERSION": "v1"}), ("finetune", {"LAUNCHER": "deepspeed"})],
)
def test_scripts(script, variables, assets, goldens, tmp_path):
    """Stage 1 with torchrun, stage 2 with deepspeed and its own choice, ZeRO-3."""
    if variables["LAUNCHER"] == "deepspeed":
        needs_deepspeed()
    variables = script_variables(assets, goldens, tmp_path / "two", **variables)
    done = start(["bash", f"scripts/v1_5/{script}.sh"], **variables)
    assert done.returncode == 0, done.stdout
    assert_the_same(tmp_path / "two", trained_alone(script, variables, tmp_path / "one"))


def run_table_with_deepspeed(runs: list[dict], tmp_path: Path) -> subprocess.CompletedProcess[str]:
    file = tmp_path / "runs.json"
    file.write_text(json.dumps(runs))
    launcher = ["deepspeed", "--num_gpus", "2", "--master_port", str(free_port())]
    return start([*launcher, str(Path(__file__).with_name("launched.py")), str(file)])


def assert_frozen_weights_are_not_in_checkpoints(folder: Path, assets: Path) -> None:
    """A checkpoint of stage 1 or LoRA is smaller than the frozen model alone, optimizer and all."""
    model = (assets / "vicuna_tiny" / "model.safetensors").stat().st_size
    for name in ("stage1", "lora"):
        files = [path for path in (folder / name / "checkpoint-2").rglob("*") if path.is_file()]
        assert {path.parent.name for path in files} >= {"global_step2"}
        assert sum(path.stat().st_size for path in files if path.suffix != ".model") < model, files


def test_zero_3(runs_for, alone, assets, tmp_path):
    needs_deepspeed()
    done = run_table_with_deepspeed(runs_for(tmp_path, batch=1, deepspeed="zero3"), tmp_path)
    assert done.returncode == 0, done.stdout
    assert_table_is_the_same(tmp_path, alone)
    assert_frozen_weights_are_not_in_checkpoints(tmp_path, assets)


def test_zero_2_and_what_a_kill_leaves_of_it(runs_for, alone, assets, goldens, tmp_path):
    """The launch ends by ``kill -9`` in the fourth step of the paper's recipe; its script goes on from the third."""
    needs_deepspeed()
    variables = script_variables(assets, goldens, tmp_path / "killed", LAUNCHER="deepspeed", MM_CCRA_HIDDEN_DIM="8")
    killed = {"argv": arguments_of("finetune_ccra", variables), "killed_after": 3}
    done = run_table_with_deepspeed([*runs_for(tmp_path, batch=1, deepspeed="zero2"), killed], tmp_path)
    assert done.returncode != 0
    assert_table_is_the_same(tmp_path, alone)
    assert_frozen_weights_are_not_in_checkpoints(tmp_path, assets)

    assert [path.name for path in (tmp_path / "killed").glob("checkpoint-*")] == ["checkpoint-3"]
    done = start(["bash", "scripts/v1_5/finetune_ccra.sh"], **variables)
    assert done.returncode == 0, done.stdout
    assert f"resuming from {tmp_path}/killed/checkpoint-3" in done.stdout
    one = trained_alone("finetune_ccra", variables, tmp_path / "one")
    assert len(losses(one)) == 6
    assert_the_same(tmp_path / "killed", one)
