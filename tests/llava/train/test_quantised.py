"""``--bits 4`` and ``--bits 8`` with LoRA, whole runs: where bitsandbytes is installed. 0.50.2 has both for CPUs."""

import json

import pytest
import torch

from llava.model.builder import load_pretrained_model

bitsandbytes = pytest.importorskip("bitsandbytes")

KINDS = {4: bitsandbytes.nn.Linear4bit, 8: bitsandbytes.nn.Linear8bitLt}
LINEAR_LAYERS = 2 * 7  # of the tiny language model, without lm_head


def logits_of(folder, base, **options) -> torch.Tensor:
    _, model, _, _ = load_pretrained_model(str(folder), str(base), "llava-vicuna-lora", device="cpu", **options)
    with torch.no_grad():
        return model(torch.tensor([[1, 9, 30, -200, 41, 7]]), images=torch.zeros(1, 3, 28, 28)).logits


@pytest.mark.parametrize("projector", ["mlp2x_gelu", "ccra"])
@pytest.mark.parametrize("bits", [4, 8])
def test_losses_are_near_those_of_whole_weights(bits, projector, run, recording, assets, tmp_path):
    changes = {"mm_projector_type": projector, "pretrain_mm_mlp_adapter": "", "max_steps": 4}
    whole = run("lora", output_dir=tmp_path / "whole", **changes)
    quantised = run("lora", bits=bits, **changes)

    losses = recording["losses"]
    assert losses[4:] == pytest.approx(losses[:4], abs=0.05)
    assert losses[4:] != losses[:4]
    model = recording["trainers"][1].model
    names = {name for name, module in model.named_modules() if isinstance(module, KINDS[bits])}
    assert len(names) == LINEAR_LAYERS
    assert all(".layers." in name and "tower" not in name for name in names)
    trained = {name: parameter.dtype for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert set(trained.values()) == {torch.float32}
    assert all("lora_" in name or "mm_projector" in name for name in trained)

    assert "quantization_config" not in json.loads((quantised / "config.json").read_text())
    counts = [json.loads((folder / "run.json").read_text())["parameters"] for folder in (whole, quantised)]
    assert counts[0] == counts[1]
    expected = logits_of(whole, assets / "vicuna_tiny")
    assert (logits_of(quantised, assets / "vicuna_tiny") - expected).abs().max() < 0.1
    packed = logits_of(quantised, assets / "vicuna_tiny", dtype=torch.float32, **{f"load_{bits}bit": True})
    assert 0 < (packed - expected).abs().max() < 2  # as without LoRA


def test_tokens_can_be_added(run, recording):
    """Start and end tokens lengthen the embeddings and lm_head, which is why that is not quantised."""
    run("lora", bits=4, pretrain_mm_mlp_adapter="", mm_use_im_start_end=True, max_steps=1)
    model = recording["trainers"][0].model
    assert model.get_output_embeddings().weight.shape == model.get_input_embeddings().weight.shape


def test_a_killed_run_goes_on(run, die_at, tmp_path):
    changes = {"bits": 4, "pretrain_mm_mlp_adapter": "", "max_steps": 3, "save_steps": 1}
    expected = run("lora", output_dir=tmp_path / "whole", **changes)
    die_at(2, "lora", **changes)
    resumed = run("lora", **changes)
    for name in ("mm_projector.bin", "non_lora_trainables.bin"):
        weights, again = (torch.load(folder / name, weights_only=True) for folder in (expected, resumed))
        assert all(torch.equal(again[key], weight) for key, weight in weights.items())
