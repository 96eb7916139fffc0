"""Shared set-up: one thread (reproducible sums, two workers fit two cores), no network, goldens by name."""

import json
import os
import shutil
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from safetensors.torch import load_file, save_file

torch.set_num_threads(1)

GOLDENS = Path(__file__).parent / "goldens"


@pytest.fixture(scope="session")
def goldens() -> Path:
    """Recorded results of upstream LLaVA v1.2.2 on tiny models, and those models."""
    return GOLDENS


@pytest.fixture(scope="session")
def assets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Upstream's tiny checkpoints as the folders it wrote.

    In git each weight is stored once: a ``llava_tiny_*`` folder keeps only the tensors of its own, the language
    model and the vision tower come from ``vicuna_tiny`` and ``clip_tiny*``. Writable, so treat it as read-only.
    """
    root = tmp_path_factory.mktemp("assets")
    shutil.copytree(GOLDENS / "assets", root, dirs_exist_ok=True)
    vicuna = load_file(root / "vicuna_tiny" / "model.safetensors")
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        if folder.name.startswith(("llava_tiny", "vicuna", "tokenizer_legacy", "tokenizer_nonlegacy")):
            shutil.copy(root / "tokenizer.model", folder)
        if not folder.name.startswith("llava_tiny"):
            continue
        config_text = (folder / "config.json").read_text().replace("@GOLDENS@/assets", str(root))
        (folder / "config.json").write_text(config_text)
        tower = load_file(Path(json.loads(config_text)["mm_vision_tower"]) / "model.safetensors")
        weights = vicuna | {f"model.vision_tower.vision_tower.{name}": value for name, value in tower.items()}
        if (folder / "own.safetensors").exists():
            weights |= load_file(folder / "own.safetensors")
            (folder / "own.safetensors").unlink()
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    pickled = root / "llava_tiny_mlp2x_gelu_bin"
    shutil.copytree(root / "llava_tiny_mlp2x_gelu", pickled)
    torch.save(load_file(pickled / "model.safetensors"), pickled / "pytorch_model.bin")
    (pickled / "model.safetensors").unlink()
    return root
