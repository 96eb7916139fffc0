"""scripts/extract_mm_projector.py: from .bin and .safetensors, whole and in shards."""

import json
import runpy
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from llava.model.adapter import read_adapter
from llava.model.utils import load_for_saving

SCRIPT = str(Path(__file__).parents[2] / "scripts" / "extract_mm_projector.py")


def extract(monkeypatch: pytest.MonkeyPatch, folder: Path, output: Path) -> None:
    monkeypatch.setattr(sys, "argv", [SCRIPT, "--model-path", str(folder), "--output", str(output)])
    runpy.run_path(SCRIPT, run_name="__main__")


@pytest.fixture
def in_shards(assets, tmp_path):
    load_for_saving(str(assets / "llava_tiny_anyres_unpad")).save_pretrained(tmp_path / "shards", max_shard_size="60KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
    return tmp_path / "shards"


@pytest.fixture
def in_bin_shards(in_shards, tmp_path):
    folder = tmp_path / "bins"
    folder.mkdir()
    index = json.loads((in_shards / "model.safetensors.index.json").read_text())
    for file in in_shards.glob("*.safetensors"):
        torch.save(load_file(file), folder / f"{file.stem}.bin")
    index["weight_map"] = {key: name.replace(".safetensors", ".bin") for key, name in index["weight_map"].items()}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    return folder


@pytest.mark.parametrize("output", ["new/mm_projector.bin", "mm_projector.safetensors"])
@pytest.mark.parametrize("form", ["whole", "whole_bin", "in_shards", "in_bin_shards"])
def test_every_form(form, output, assets, tmp_path, request, monkeypatch):
    whole = {"whole": "llava_tiny_mlp2x_gelu", "whole_bin": "llava_tiny_mlp2x_gelu_bin"}
    folder = assets / whole[form] if form in whole else request.getfixturevalue(form)
    extract(monkeypatch, folder, tmp_path / output)
    source = load_file(assets / (whole["whole"] if form in whole else "llava_tiny_anyres_unpad") / "model.safetensors")
    dtype = torch.float32 if form in whole else torch.float16
    state = read_adapter(str(tmp_path / output))
    assert {f"model.mm_projector.{n}" for n in state} == {n for n in source if "mm_projector" in n}
    assert all(torch.equal(value, source[f"model.mm_projector.{name}"].to(dtype)) for name, value in state.items())


def test_the_newline_goes_along(in_shards, tmp_path, monkeypatch):
    extract(monkeypatch, in_shards, tmp_path / "p.bin")
    assert "model.image_newline" in torch.load(tmp_path / "p.bin", weights_only=True)


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("clip_tiny/nothing", "has neither model.safetensors nor pytorch_model.bin"),
        ("vicuna_tiny", "has no weights called mm_projector; is it a LLaVA, and not a LoRA?"),
    ],
)
def test_what_has_no_projector(folder, message, assets, tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit) as stop:
        extract(monkeypatch, assets / folder, tmp_path / "p.bin")
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "p.bin").exists()


def test_another_output_than_safetensors_is_a_bin(assets, tmp_path, monkeypatch):
    extract(monkeypatch, assets / "llava_tiny_linear", tmp_path / "projector")
    assert set(torch.load(tmp_path / "projector", weights_only=True)) == {
        "model.mm_projector.weight",
        "model.mm_projector.bias",
    }
