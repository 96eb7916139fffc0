"""Validation while training: sources, the loss that decides, the best model, and when training stops."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import TrainerControl, TrainerState

from llava.errors import UserError
from llava.train.arguments import parse_arguments
from llava.train.checkpoint import PROJECTOR_BIN
from llava.train.llava_trainer import LLaVATrainer
from llava.train.validation import EarlyStopping, validation_sources

EVALUATING = {"evaluation_strategy": "steps", "eval_steps": 1, "save_steps": 1, "per_device_eval_batch_size": 3}


def sources_of(*values):
    return validation_sources(SimpleNamespace(eval_data_path=list(values)))


def test_sources(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in (Path("val.json"), Path("a=b.json"), Path("lr=1/val.json")):
        path.parent.mkdir(exist_ok=True)
        path.touch()
    assert sources_of("val.json") == {"": "val.json"}
    assert sources_of("vqa=val.json") == {"vqa": "val.json"}
    assert sources_of("vqa=a=b.json", "text-vqa.v2=val.json") == {"vqa": "a=b.json", "text-vqa.v2": "val.json"}
    assert sources_of("./lr=1/val.json") == {"": "./lr=1/val.json"}
    assert validation_sources(SimpleNamespace(eval_data_path=None)) == {}
    with pytest.raises(UserError, match=r"--eval_data_path no\.json does not exist; give a JSON list"):
        sources_of("vqa=val.json", "ocr=no.json")


@pytest.mark.parametrize("values", [["a.json", "b.json"], ["a=a.json", "b.json"], ["a=a.json", "a=b.json"]])
def test_several_sources_need_a_name_each(values):
    with pytest.raises(UserError, match=r"--eval_data_path .*several sources need a name each, such as vqa=vqa\.json"):
        sources_of(*values)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--eval_data_path v.json", "evaluation needs both: the data, and --eval_strategy"),
        ("--eval_strategy steps", "evaluation needs both"),
        ("--early_stopping_patience 2", "--early_stopping_patience needs evaluations; add --eval_data_path"),
        ("--load_best_model_at_end True", "--load_best_model_at_end needs evaluations"),
        ("--early_stopping_patience -1", "--early_stopping_patience is -1; it must be 0"),
        (
            "--early_stopping_patience 2 --eval_strategy steps --eval_steps 100 --save_steps 500 --eval_data_path v",
            r"saving \(steps, --save_steps 500\) is not in step with evaluation \(steps, --eval_steps 100\)",
        ),
    ],
)
def test_evaluations_that_cannot_do_what_is_asked_are_refused(flags, message):
    with pytest.raises(UserError, match=message) as error:
        parse_arguments(["--data_path", "x.json", "--output_dir", "out", *flags.split()])
    assert "\n" not in str(error.value)


def test_the_best_model_may_be_saved_alone():
    flags = "--early_stopping_patience 2 --eval_strategy steps --eval_steps 9 --save_strategy best --eval_data_path v"
    _, _, training = parse_arguments(["--data_path", "x.json", "--output_dir", "out", *flags.split()])
    assert training.load_best_model_at_end
    assert (training.metric_for_best_model, training.greater_is_better) == ("loss", False)


@pytest.fixture
def evaluations(monkeypatch):
    """What each evaluation of a run reported."""
    seen = []
    evaluate = LLaVATrainer._evaluate

    def recorded(self, *args, **kwargs):
        seen.append(evaluate(self, *args, **kwargs))
        return seen[-1]

    monkeypatch.setattr(LLaVATrainer, "_evaluate", recorded)
    return seen


def mean_loss_by_hand(trainer, dataset) -> float:
    """Every sample alone, every label counted once."""
    total = count = 0
    model = trainer.model.eval()
    for index in range(len(dataset)):
        batch = trainer.data_collator([dataset[index]])
        del batch["indices"]
        labels = int((batch["labels"][:, 1:] != -100).sum())
        with torch.no_grad():
            total += model(**batch).loss.item() * labels
        count += labels
    return total / count


@pytest.mark.parametrize("recorded", ["pretrain_fp32tower", "finetune_fp32tower", "lora"])
def test_loss_per_source_and_the_best_model_at_the_end(
    recorded, run, recording, evaluations, goldens, tmp_path, monkeypatch
):
    """The model learns in its first two steps and unlearns in its third: what is saved is the second."""
    compute_loss = LLaVATrainer.compute_loss

    def unlearning_in_the_end(self, model, *args, **kwargs):
        loss = compute_loss(self, model, *args, **kwargs)
        return -loss if model.training and self.state.global_step == 2 else loss

    monkeypatch.setattr(LLaVATrainer, "compute_loss", unlearning_in_the_end)
    file = "pretrain16" if recorded.startswith("pretrain") else "finetune16"
    samples = json.loads((goldens / "data" / f"{file}.json").read_text())
    for name, part in {"some": samples[:5], "others": samples[5:7]}.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(part))
    sources = [f"{name}={tmp_path / name}.json" for name in ("some", "others")]
    out = run(
        recorded, eval_data_path=sources, load_best_model_at_end=True, learning_rate=0.01, mm_projector_lr=0.01,
        warmup_ratio=0, adam_beta1=0, adam_beta2=0, max_steps=3, save_total_limit=1, **EVALUATING
    )  # fmt: skip
    (trainer,) = recording["trainers"]

    losses = [reported["eval_loss"] for reported in evaluations]
    assert len(losses) == 3
    for reported in evaluations:
        parts = [reported["eval_some_loss"], reported["eval_others_loss"]]
        assert reported["eval_loss"] == pytest.approx(sum(parts) / 2)
        assert parts[0] != parts[1]
    best = min(losses)
    assert losses[-1] > best
    assert trainer.state.best_metric == best
    assert [p.name for p in out.glob("checkpoint-*")] == [f"checkpoint-{losses.index(best) + 1}"]
    for name, dataset in trainer.eval_dataset.items():
        expected = evaluations[losses.index(best)][f"eval_{name}_loss"]
        assert mean_loss_by_hand(trainer, dataset) == pytest.approx(expected, abs=1e-5)
    saved = torch.load(out / PROJECTOR_BIN, weights_only=True)
    kept = torch.load(next(out.glob("checkpoint-*")) / PROJECTOR_BIN, weights_only=True)
    assert all(torch.equal(saved[key], kept[key]) for key in saved)


def test_training_stops_when_the_loss_no_longer_improves(run, recording, goldens):
    out = run(
        "pretrain_fp32tower", eval_data_path=goldens / "data" / "pretrain16.json", early_stopping_patience=2,
        learning_rate=0, max_steps=8, **EVALUATING
    )  # fmt: skip
    (trainer,) = recording["trainers"]
    assert trainer.state.global_step == 3  # the first is the best, two do not improve on it
    history = json.loads((out / "trainer_state.json").read_text())["log_history"]
    assert sum("eval_loss" in entry for entry in history) == 3


def test_patience_outlives_a_kill(run, die_at, recording, goldens):
    """The third evaluation is the second without progress, whoever saw the first."""
    flags = EVALUATING | {"eval_data_path": goldens / "data" / "pretrain16.json", "early_stopping_patience": 2}
    flags |= {"learning_rate": 0, "max_steps": 8}
    die_at(2, "pretrain_fp32tower", **flags)
    run("pretrain_fp32tower", **flags)
    assert recording["trainers"][0].state.global_step == 3


@pytest.mark.parametrize("killed_at_the_final_save", [False, True])
def test_a_run_that_was_stopped_early_stays_stopped(killed_at_the_final_save, run, recording, goldens, capsys):
    flags = EVALUATING | {"eval_data_path": goldens / "data" / "pretrain16.json", "early_stopping_patience": 2}
    flags |= {"learning_rate": 0, "max_steps": 8}
    out = run("pretrain_fp32tower", **flags)
    if killed_at_the_final_save:
        for file in (PROJECTOR_BIN, "trainer_state.json"):
            (out / file).unlink()
    run("pretrain_fp32tower", **flags)
    assert len(recording["losses"]) == 3
    assert (out / PROJECTOR_BIN).is_file()
    said = "holds this run, stopped early, after 3 of 8 steps" in capsys.readouterr().out
    assert said is not killed_at_the_final_save


def test_a_run_that_was_stopped_early_can_train_on_elsewhere(run, recording, goldens, tmp_path):
    flags = EVALUATING | {"eval_data_path": goldens / "data" / "pretrain16.json", "learning_rate": 0, "max_steps": 5}
    out = run("pretrain_fp32tower", **flags, early_stopping_patience=1)
    assert len(recording["losses"]) == 2
    run("pretrain_fp32tower", **flags, output_dir=tmp_path / "on", resume_from_checkpoint=out / "checkpoint-2")
    assert len(recording["losses"]) == 5


def test_single_sources_do_not_stop_training():
    args = SimpleNamespace(metric_for_best_model="loss", greater_is_better=False, load_best_model_at_end=True)
    state, control, callback = TrainerState(best_metric=1.0), TrainerControl(), EarlyStopping(1)
    callback.on_evaluate(args, state, control, {"eval_vqa_loss": 2.0})
    assert not control.should_training_stop
    callback.on_evaluate(args, state, control, {"eval_vqa_loss": 2.0, "eval_loss": 2.0})
    assert control.should_training_stop
