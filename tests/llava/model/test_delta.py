"""Published differences: made, applied, and refused where they do not fit."""

import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from llava.errors import UserError
from llava.model import apply_delta, make_delta
from llava.model.delta import add_base
from llava.model.utils import load_for_saving
from llava.model.vocabulary import fit_vocabulary


def run(module, monkeypatch, **flags):
    argv = [part for name, value in flags.items() for part in (f"--{name}", str(value))]
    monkeypatch.setattr(sys, "argv", ["delta", *argv])
    module.main()


@pytest.fixture
def target(assets, tmp_path):
    """A LLaVA with trained weights and three more tokens than its base."""
    folder = tmp_path / "llava-target"
    model = load_for_saving(str(assets / "llava_tiny_mlp2x_gelu"))
    random = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data += 0.01 * torch.randn(parameter.shape, generator=random).half()
    fit_vocabulary(model, 1503, 3)
    model.save_pretrained(folder)
    for name in ("tokenizer.model", "tokenizer_config.json"):
        shutil.copy(assets / "vicuna_tiny" / name, folder)
    return folder


def test_there_and_back(assets, target, tmp_path, monkeypatch):
    base = assets / "vicuna_tiny"
    run(make_delta, monkeypatch, base=base, target=target, delta=tmp_path / "delta")
    whole, old = load_file(target / "model.safetensors"), load_file(base / "model.safetensors")
    delta = load_file(tmp_path / "delta" / "model.safetensors")
    assert delta.keys() == whole.keys()
    for name, value in delta.items():
        if "mm_projector" in name:
            assert torch.equal(value, whole[name]), name
            continue
        rows = len(old[name])
        assert torch.equal(value[:rows], whole[name][:rows] - old[name].half()), name
        assert torch.equal(value[rows:], whole[name][rows:]), name
    assert len(delta["lm_head.weight"]) == 1503

    flags = {"base-model-path": base, "target-model-path": tmp_path / "again", "delta-path": tmp_path / "delta"}
    run(apply_delta, monkeypatch, **flags)
    again = load_file(tmp_path / "again" / "model.safetensors")
    assert again.keys() == whole.keys()
    for name, value in again.items():
        # float16 subtraction and addition, as published deltas were made; two roundings
        torch.testing.assert_close(value, whole[name], rtol=2e-3, atol=2e-3)
    assert (tmp_path / "again" / "tokenizer.model").is_file()


def test_another_base_is_refused(assets, target, tmp_path, monkeypatch, capsys):
    other = tmp_path / "other"
    shutil.copytree(assets / "vicuna_tiny", other)
    weights = load_file(other / "model.safetensors")
    config = (other / "config.json").read_text()
    (other / "config.json").write_text(config.replace('"num_hidden_layers": 2', '"num_hidden_layers": 1'))
    save_file({n: v for n, v in weights.items() if "layers.1" not in n}, other / "model.safetensors", {"format": "pt"})
    with pytest.raises(SystemExit) as stop:
        run(make_delta, monkeypatch, base=other, target=target, delta=tmp_path / "delta")
    assert stop.value.code == 2
    assert "error: the base model has no 'model.layers.1." in capsys.readouterr().err
    assert not (tmp_path / "delta").exists()


def test_a_base_of_another_size_is_refused(assets, target):
    model, base = load_for_saving(str(target)), load_for_saving(str(assets / "vicuna_tiny"))
    base.model.norm.weight = torch.nn.Parameter(torch.ones(32).half())
    with pytest.raises(
        UserError, match=r"model\.norm\.weight has the shape \[64\], the base's \[32\]; use the base of"
    ):
        add_base(model, base, -1)
