"""Old checkpoints upgraded, and saved again in one place."""

import io
import json
import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, GenerationConfig

from llava.errors import UserError
from llava.model import consolidate
from llava.model.builder import load_pretrained_model
from llava.model.utils import auto_upgrade, load_for_saving, save_whole


@pytest.fixture
def old(assets, tmp_path):
    """A checkpoint as of the first LLaVA: its config says llama, and has vision settings."""
    folder = tmp_path / "llava-old"
    shutil.copytree(assets / "llava_tiny_linear", folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "llama", "architectures": ["Llama"]}))
    return folder


def config_of(folder):
    return json.loads((folder / "config.json").read_text())


@pytest.mark.parametrize("answer", ["y", "YES", None])
def test_upgrade(answer, old, monkeypatch, capsys):
    before = config_of(old)
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{answer}\n"))
    auto_upgrade(str(old), yes=answer is None)
    changed = {"model_type": "llava_llama", "architectures": ["LlavaLlamaForCausalLM"]}
    assert config_of(old) == before | changed
    assert ("Go on? [Y/N]" in capsys.readouterr().out) is (answer is not None)
    assert type(AutoConfig.from_pretrained(old)).__name__ == "LlavaConfig"
    auto_upgrade(str(old))  # nothing is left to ask
    assert config_of(old) == before | changed


def test_no_is_exit_code_1(old, monkeypatch):
    before = config_of(old)
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    with pytest.raises(SystemExit) as stop:
        auto_upgrade(str(old))
    assert stop.value.code == 1
    assert config_of(old) == before


def test_what_needs_no_upgrade(assets, old):
    for folder in (assets / "vicuna_tiny", assets / "llava_tiny_linear"):
        before = config_of(folder)
        auto_upgrade(str(folder))
        assert config_of(folder) == before
    (old / "config.json").write_text(json.dumps(config_of(old) | {"model_type": "opt"}))
    with pytest.raises(UserError, match=r"vision settings but model_type 'opt'; only 'llama' can be upgraded"):
        auto_upgrade(str(old))


def test_consolidate(old, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["consolidate", "--src", str(old), "--dst", str(tmp_path / "new"), "--yes"])
    consolidate.main()
    weights, source = load_file(tmp_path / "new" / "model.safetensors"), load_file(old / "model.safetensors")
    assert {name for name in source if "vision_tower" not in name} == set(weights)
    assert all(torch.equal(value, source[name].half()) for name, value in weights.items())
    assert (tmp_path / "new" / "tokenizer.model").is_file()
    _, model, _, _ = load_pretrained_model(str(tmp_path / "new"), None, "llava-new", device="cpu")
    assert type(model).__name__ == "LlavaLlamaForCausalLM"


def test_a_text_model_too(assets, tmp_path):
    model = load_for_saving(str(assets / "vicuna_tiny"))
    assert type(model).__name__ == "LlamaForCausalLM"
    # Vicuna's own file: it samples without saying so, and transformers refuses to save that.
    model.generation_config = GenerationConfig(temperature=0.9, top_p=0.6)
    save_whole(model, str(assets / "vicuna_tiny"), str(tmp_path))
    assert json.loads((tmp_path / "generation_config.json").read_text())["do_sample"] is True
