"""Whole runs of ``train()``: upstream's losses step by step, files written, resumption, refusals."""

import json

import pytest
import torch
from safetensors import safe_open

from llava.errors import UserError
from llava.train import train as train_module
from llava.train.checkpoint import NON_LORA_FILE, PROJECTOR_BIN, PROJECTOR_SAFETENSORS
from llava.train.llava_trainer import LLaVATrainer


@pytest.mark.parametrize("recorded", ["pretrain_fp32tower", "finetune_fp32tower", "lora"])
def test_losses_are_upstreams(recorded, run, recording, goldens, recorded_weights, monkeypatch):
    golden = json.loads((goldens / "train" / f"{recorded}.json").read_text())
    order = [index for batch in golden["micro_batches"] for index in batch["indices"]]
    monkeypatch.setattr(LLaVATrainer, "_get_train_sampler", lambda self, dataset=None: order)
    recorded_init = LLaVATrainer.__init__

    def with_recorded_weights(self, *args, **kwargs):
        recorded_init(self, *args, **kwargs)
        _missing, unexpected = self.model.load_state_dict(recorded_weights(recorded), strict=False)
        assert not unexpected

    monkeypatch.setattr(LLaVATrainer, "__init__", with_recorded_weights)
    run(recorded, num_train_epochs=1)

    expected = [batch["loss_returned_by_training_step"] for batch in golden["micro_batches"]]
    # LoRA: upstream's run had its tower in fp16.
    assert recording["losses"] == pytest.approx(expected, abs=2e-3 if recorded == "lora" else 1e-4)
    (trainer,) = recording["trainers"]
    names = {id(parameter): name for name, parameter in trainer.model.named_parameters()}
    assert [n for n, p in trainer.model.named_parameters() if p.requires_grad] == golden["trainable_params"]
    groups = trainer.optimizer.optimizer.param_groups
    assert [len(group["params"]) for group in groups] == [g["n_params"] for g in golden["optimizer"]["groups"]]
    for group, theirs in zip(groups, golden["optimizer"]["groups"], strict=True):
        assert [names[id(parameter)] for parameter in group["params"]] == theirs["names_head"]
        assert group["initial_lr"] == theirs["lr"]
    for name, (_total, norm) in golden["final_param_stats"].items():
        weight = dict(trainer.model.named_parameters())[name]
        assert weight.double().norm().item() == pytest.approx(norm, rel=1e-3), name
    config = trainer.model.config.to_dict()
    ours = {
        key: config.get(key) for key in golden["config_after_setup"] if key.startswith(("mm_", "tokenizer_", "image"))
    }
    theirs = {key: golden["config_after_setup"][key] for key in ours}
    theirs["mm_vision_tower"] = config["mm_vision_tower"]
    assert ours == theirs


def test_stage_one_writes_the_projector_alone(run):
    out = run("pretrain_fp32tower", max_steps=2, save_steps=1)
    assert {"config.json", PROJECTOR_BIN, PROJECTOR_SAFETENSORS, "trainer_state.json", "run.json"} <= {
        p.name for p in out.iterdir()
    }
    assert not list(out.glob("model*"))
    state = torch.load(out / PROJECTOR_BIN, weights_only=True)
    assert {name: list(v.shape) for name, v in state.items()} == {
        "model.mm_projector.0.weight": [64, 32],
        "model.mm_projector.0.bias": [64],
        "model.mm_projector.2.weight": [64, 64],
        "model.mm_projector.2.bias": [64],
    }
    with safe_open(out / PROJECTOR_SAFETENSORS, "pt") as file:
        metadata = file.metadata()
        assert torch.equal(file.get_tensor("model.mm_projector.0.weight"), state["model.mm_projector.0.weight"])
    assert metadata["mm_projector_type"] == "mlp2x_gelu"
    assert metadata["step"] == "2"
    assert json.loads(metadata["config"])["mm_hidden_size"] == 32
    record = json.loads((out / "run.json").read_text())
    assert record["seed"] == record["data_seed"] == 42
    assert record["model_config"]["mm_hidden_size"] == 32
    assert len(record["data_sha256"]) == 64
    assert record["commit"] is None or len(record["commit"].removesuffix("+changes")) == 40
    assert record["settings"]["learning_rate"] == 0.01
    assert record["versions"]["torch"]


@pytest.mark.parametrize("recorded", ["pretrain_fp32tower", "finetune_fp32tower", "lora"])
def test_six_steps_are_three_a_kill_and_three_more(recorded, run, recording, die_at, tmp_path, caplog):
    whole = run(recorded, max_steps=6, save_steps=3, output_dir=tmp_path / "whole")
    losses, recording["losses"][:] = list(recording["losses"]), []
    trained = {n: p.detach().clone() for n, p in recording["trainers"][-1].model.named_parameters()}

    die_at(4, recorded, max_steps=6, save_steps=3)
    assert {PROJECTOR_BIN, PROJECTOR_SAFETENSORS} <= {p.name for p in (tmp_path / "out" / "checkpoint-3").iterdir()}
    (tmp_path / "out" / "checkpoint-5").mkdir()  # what a kill in the middle of a save leaves
    out = run(recorded, max_steps=6, save_steps=3)

    assert "checkpoint-5 has no trainer_state.json (half written" in caplog.text
    assert recording["losses"] == pytest.approx(losses[3:], abs=1e-6)
    for name, parameter in recording["trainers"][-1].model.named_parameters():
        torch.testing.assert_close(parameter.detach(), trained[name], rtol=0, atol=1e-6, msg=name)
    assert {p.name for p in out.iterdir()} == {p.name for p in whole.iterdir()} | {"checkpoint-5"}


def test_the_table_and_the_record_say_what_trains(run, capsys):
    out = run("lora", max_steps=1)
    rows = {line[:16].strip(): line[16:].split() for line in capsys.readouterr().out.splitlines()}
    assert rows["component"] == ["parameters", "trained", "state", "learning", "rate"]
    assert rows["vision tower"] == ["48,128", "0", "frozen", "-"]
    assert rows["projector"] == ["6,272", "6,272", "full", "0.0001"]
    assert rows["language model"] == ["291,648", "17,408", "LoRA", "0.001"]
    assert json.loads((out / "run.json").read_text())["parameters"] == {
        "vision tower": [48_128, 0],
        "projector": [6_272, 6_272],
        "language model": [291_648, 17_408],
    }


@pytest.mark.parametrize(("recorded", "dropout"), [("pretrain_fp32tower", 0), ("lora", 0.1)])
def test_the_seed_decides_everything_random(recorded, dropout, run, recording, tmp_path):
    """Projector, LoRA and its dropout, order of the data: two runs are one, another seed is another run."""
    losses = []
    for attempt, seed in enumerate((7, 7, 8)):
        torch.manual_seed(attempt)  # whatever happened in the process before
        recording["losses"].clear()
        changes = {"pretrain_mm_mlp_adapter": "", "lora_dropout": dropout} if recorded == "lora" else {}
        run(recorded, max_steps=3, seed=seed, output_dir=tmp_path / str(attempt), **changes)
        losses.append(list(recording["losses"]))
    assert losses[0] == losses[1]
    assert all(one != other for one, other in zip(losses[0], losses[2], strict=True))


def test_another_configuration_does_not_get_into_the_folder(run, tmp_path):
    out = run("pretrain_fp32tower", max_steps=1)
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*")}
    with pytest.raises(UserError, match=r"holds another run: learning_rate differ .*0\.01.*0\.5.*another folder"):
        run("pretrain_fp32tower", max_steps=1, learning_rate=0.5)
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*")} == before
    run("pretrain_fp32tower", max_steps=1, learning_rate=0.5, overwrite_output_dir=True)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "model.safetensors").write_bytes(b"weights")
    with pytest.raises(UserError, match=r"holds model\.safetensors of a run without run\.json"):
        run("pretrain_fp32tower", output_dir=foreign)
    assert (foreign / "model.safetensors").read_bytes() == b"weights"


def test_a_run_that_saved_nothing_leaves_its_folder_free(run, goldens, tmp_path):
    """It died at its first step; with the flags set right it is another run, and nobody's work is at stake."""
    (tmp_path / "images").mkdir()
    with pytest.raises(UserError, match="does not exist; check --image_folder"):
        run("pretrain_fp32tower", max_steps=1, image_folder=tmp_path / "images")
    record = tmp_path / "out" / "run.json"
    assert json.loads(record.read_text())["settings"]["image_folder"] == str(tmp_path / "images")
    run("pretrain_fp32tower", max_steps=1, learning_rate=0.5)
    assert json.loads(record.read_text())["settings"]["learning_rate"] == 0.5


@pytest.mark.parametrize("saves", ["no", "steps"])
def test_a_finished_run_stays_as_it_is(saves, run, recording, capsys):
    """Its last step is in the middle of an epoch, where transformers would make one step more."""
    flags = {"max_steps": 2, "save_strategy": saves, "save_steps": 2}
    out = run("pretrain_fp32tower", **flags)
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*")}
    run("pretrain_fp32tower", **flags)
    assert f"{out} holds this run, finished after 2 steps; --overwrite_output_dir True" in capsys.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*")} == before
    assert len(recording["losses"]) == 2
    run("pretrain_fp32tower", **flags, overwrite_output_dir=True)
    assert len(recording["losses"]) == 4


def test_a_run_killed_at_its_final_save_only_saves(run, recording):
    flags = {"max_steps": 2, "save_steps": 2}
    out = run("pretrain_fp32tower", **flags)
    weights = torch.load(out / PROJECTOR_BIN, weights_only=True)
    for file in (PROJECTOR_BIN, "trainer_state.json"):
        (out / file).unlink()
    run("pretrain_fp32tower", **flags)
    assert len(recording["losses"]) == 2
    again = torch.load(out / PROJECTOR_BIN, weights_only=True)
    assert all(torch.equal(again[name], weight) for name, weight in weights.items())
    assert json.loads((out / "trainer_state.json").read_text())["global_step"] == 2


def test_a_run_that_starts_over_is_not_over(run, die_at, recording):
    """What its predecessor left must not say that it is, when it is killed on the way."""
    run("pretrain_fp32tower", max_steps=2)
    die_at(1, "pretrain_fp32tower", max_steps=2, learning_rate=0.5, save_steps=1, overwrite_output_dir=True)
    out = run("pretrain_fp32tower", max_steps=2, learning_rate=0.5, save_steps=1)
    assert json.loads((out / "trainer_state.json").read_text())["global_step"] == 2
    assert len(recording["losses"]) == 3  # two, and the second of the run that was killed


def test_a_broken_picture_keeps_the_steps_done(run, goldens, tmp_path):
    """The message names sample and file; after the repair the run goes on from the step it had reached."""
    folder = tmp_path / "images"
    folder.mkdir()
    for picture in (goldens / "images").iterdir():
        (folder / picture.name).write_bytes(picture.read_bytes())
    samples = json.loads((goldens / "data" / "pretrain16.json").read_text())
    victim = samples[9]
    original = (folder / victim["image"]).read_bytes()
    (folder / victim["image"]).write_bytes(b"not a picture")
    with pytest.raises(UserError, match=victim["image"]) as error:
        run("pretrain_fp32tower", image_folder=folder, save_steps=1000)
    assert victim["id"] in str(error.value)
    assert "\n" not in str(error.value)
    kept = train_module.latest_checkpoint(str(tmp_path / "out"))
    assert kept is not None
    (folder / victim["image"]).write_bytes(original)
    out = run("pretrain_fp32tower", image_folder=folder, save_steps=1000)
    assert json.loads((out / "trainer_state.json").read_text())["global_step"] == 10


def test_lora_writes_what_upstream_reads(run):
    out = run("lora", max_steps=1)
    names = {p.name for p in out.iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "config.json", NON_LORA_FILE, PROJECTOR_BIN} <= names
    assert {"trainer_state.json", "tokenizer.model"} <= names
    non_lora = torch.load(out / NON_LORA_FILE, weights_only=True)
    assert set(non_lora) == {
        f"base_model.model.model.mm_projector.{i}.{part}" for i in (0, 2) for part in ("weight", "bias")
    }
    targets = json.loads((out / "adapter_config.json").read_text())["target_modules"]
    assert set(targets) == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
