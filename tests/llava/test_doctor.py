"""The doctor: what it looks at, what it says of recipes, how it ends."""

import shutil

import pytest
import torch

from llava import doctor
from llava.doctor import flags_of, main, memory, recipe_of
from llava.errors import UserError
from llava.train.memory import GB, estimate
from llava.train.train_mem import best_attention

SCRIPT = "scripts/v1_5/finetune_ccra.sh"


@pytest.fixture
def root(monkeypatch, request):
    monkeypatch.chdir(request.config.rootpath)
    for name in ("MODEL", "OUTPUT", "DATA", "PROJECTOR", "LAUNCHER", "DEEPSPEED"):
        monkeypatch.delenv(name, raising=False)


def test_without_a_recipe(root, capsys):
    with pytest.raises(SystemExit) as stop:
        main([])
    out = capsys.readouterr().out
    assert stop.value.code == 0, out
    for expected in (f"torch {torch.__version__}", "attention under --bf16: sdpa (no CUDA device)", "disk at", "ready"):
        assert expected in out
    assert "flash_attn: missing (FlashAttention 2); pip install --no-build-isolation" in out


def test_a_version_out_of_range_is_in_the_way(root, monkeypatch, capsys):
    monkeypatch.setattr(doctor.importlib.metadata, "version", lambda name: "0.0.1")
    with pytest.raises(SystemExit) as stop:
        main([])
    assert stop.value.code == 1
    assert "BAD torch 0.0.1; tested with" in capsys.readouterr().out


def test_the_papers_recipe(root):
    recipe, shapes, output = recipe_of(flags_of(SCRIPT), devices=8)
    assert output == "./checkpoints/llava-v1.5-7b-ccra"
    assert (recipe.batch_size, recipe.sequence_length, recipe.zero_stage, recipe.processes) == (16, 2048, 2, 8)
    assert (recipe.trains, recipe.half_precision, recipe.gradient_checkpointing) == ("all", True, True)
    assert (recipe.stacked_layers, shapes.vision_patches) == (24, 576)
    assert recipe.projector_parameters == 20_979_712 + 4096 * 1024 + 3_546_369
    assert 45 < sum(estimate(shapes, recipe).values()) / GB < 80


def test_variables_change_the_recipe(root, monkeypatch):
    monkeypatch.setenv("LORA_ENABLE", "True")
    monkeypatch.setenv("LORA_R", "32")
    monkeypatch.setenv("PROJECTOR", "mlp2x_gelu")
    recipe, _, _ = recipe_of(flags_of(SCRIPT), devices=1)
    assert (recipe.trains, recipe.lora_rank, recipe.stacked_layers) == ("lora", 32, 0)


def test_too_large_for_the_cards(root, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (20 * GB, 24 * GB))
    recipe, shapes, _ = recipe_of(flags_of(SCRIPT), devices=8)
    assert memory(recipe, shapes)[-1].ok is False
    assert "more than the 24.0 GB of the smallest GPU: lower BATCH_SIZE" in memory(recipe, shapes)[-1].text


def test_disk(root, monkeypatch, tmp_path):
    line = doctor.disk(str(tmp_path / "not" / "there" / "yet"))
    assert str(tmp_path) in line.text
    monkeypatch.setattr(shutil, "disk_usage", lambda place: type("Usage", (), {"free": GB})())
    assert doctor.disk(str(tmp_path), needed=5.0 * GB).ok is False


def test_mistakes(root, tmp_path, capsys):
    for argv, message in (
        (["--recipe", "none.sh"], "--recipe none.sh does not exist"),
        (["--recipe", "--", "--model_name_or_path", "someone/else"], "the shapes of someone/else are not known here"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(argv)
        assert stop.value.code == 2
        assert message in capsys.readouterr().err
    other = tmp_path / "other.sh"
    other.write_text("echo hello\n")
    with pytest.raises(UserError, match="is no training script: it printed no training command"):
        flags_of(str(other))


@pytest.mark.parametrize(
    ("argv", "cuda", "flash", "expected"),
    [
        (["--bf16", "True"], False, True, ("sdpa", "no CUDA device")),
        (["--bf16", "True"], True, False, ("sdpa", "flash-attn is not installed")),
        (["--bf16", "False"], True, True, ("sdpa", "FlashAttention 2 needs --bf16 or --fp16")),
        (["--bf16"], True, True, ("flash_attention_2", "")),
        (["--fp16", "yes", "--bf16", "no"], True, True, ("flash_attention_2", "")),
    ],
)
def test_one_place_decides_the_attention(argv, cuda, flash, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr("llava.train.train_mem.is_flash_attn_2_available", lambda: flash)
    name, reason = best_attention(argv)
    assert name == expected[0]
    assert expected[1] in reason
