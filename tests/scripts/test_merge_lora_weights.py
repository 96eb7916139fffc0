"""scripts/merge_lora_weights.py: the merged folder is the LoRA on its base."""

import json
import runpy
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from llava.model.builder import load_pretrained_model

SCRIPT = str(Path(__file__).parents[2] / "scripts" / "merge_lora_weights.py")


@pytest.fixture(scope="module")
def lora(goldens, assets, tmp_path_factory):
    """The folder that upstream's training wrote."""
    folder = tmp_path_factory.mktemp("lora") / "llava-tiny-lora"
    shutil.copytree(goldens / "load" / "llava-tiny-lora", folder)
    for file in folder.glob("*.json"):
        file.write_text(file.read_text().replace("@GOLDENS@/assets", str(assets)))
    return folder


@pytest.mark.parametrize("names_base", [True, False])
def test_merge(names_base, lora, assets, tmp_path, monkeypatch):
    base = ["--model-base", str(assets / "vicuna_tiny")] if names_base else []
    arguments = ["--model-path", str(lora), *base, "--save-model-path", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", [SCRIPT, *arguments])
    runpy.run_path(SCRIPT, run_name="__main__")

    merged = load_file(tmp_path / "model.safetensors")
    adapter = load_file(lora / "adapter_model.safetensors")
    config = json.loads((lora / "adapter_config.json").read_text())
    name = "model.layers.1.self_attn.q_proj"
    a, b = (adapter[f"base_model.model.{name}.lora_{x}.weight"] for x in "AB")
    before = load_file(assets / "vicuna_tiny" / "model.safetensors")[f"{name}.weight"]
    expected = before + config["lora_alpha"] / config["r"] * b @ a
    assert not torch.allclose(expected, before, atol=1e-3)
    torch.testing.assert_close(merged[f"{name}.weight"].float(), expected, atol=1e-3, rtol=1e-3)
    projector = torch.load(lora / "non_lora_trainables.bin", weights_only=True)
    trained = projector["base_model.model.model.mm_projector.0.weight"]
    assert torch.equal(merged["model.mm_projector.0.weight"], trained.half())
    assert (tmp_path / "tokenizer.model").is_file()
    _, model, _, _ = load_pretrained_model(str(tmp_path), None, "llava-merged", device="cpu")
    assert model.config.mm_projector_type == "mlp2x_gelu"
